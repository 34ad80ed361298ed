"""Uploads to the loopback Hub: creating a repository, LFS (no Xet), and commits."""

import base64
import hashlib
import json
import re
from typing import Any, Protocol


class _Repos(Protocol):
    url: str

    def add_repo(self, repo_id: str, content: dict[str, bytes]) -> str: ...
    def files(self, repo_id: str) -> dict[str, Any]: ...


class Uploads:
    """Answers to requests that change a repository.

    Attributes:
        private: Whether each created repository is private.
    """

    def __init__(self, hub: _Repos) -> None:
        self.private: dict[str, bool] = {}
        self._hub = hub
        self._objects: dict[str, bytes] = {}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to a request."""
        path = path.partition('?')[0]
        if method == 'PUT':
            self._objects[path.rpartition('/')[2]] = body
            return 200, {}, b''
        if method == 'GET':
            repo_id = path.removeprefix('/api/models/')
            if repo_id not in self.private:
                return 404, {'X-Error-Code': 'RepoNotFound'}, b''
            return _json(dict(id=repo_id, private=self.private[repo_id]))
        if path.endswith('/commit/main'):
            return _json(self._commit(path.split('/')[3:5], [json.loads(line) for line in body.splitlines()]))
        asked = json.loads(body)
        if path == '/api/repos/create':
            repo_id = f'{asked["organization"]}/{asked["name"]}'
            if repo_id in self.private:
                return 409, {}, json.dumps(dict(url=f'{self._hub.url}/{repo_id}')).encode()
            self.private[repo_id] = asked.get('private') or asked.get('visibility') == 'private'
            self._hub.add_repo(repo_id, {})
            return _json(dict(url=f'{self._hub.url}/{repo_id}'))
        if path == '/api/validate-yaml':
            return _json(dict(errors=[], warnings=[]))
        if '/preupload/' in path:
            files = [
                dict(
                    path=f['path'],
                    uploadMode='lfs' if f['path'].endswith('.safetensors') else 'regular',
                    shouldIgnore=False,
                )
                for f in asked['files']
            ]
            return _json(dict(files=files))
        if re.search(r'\.git/info/lfs/objects/batch$', path):
            objects = [
                dict(o, actions=dict(upload=dict(href=f'{self._hub.url}/lfs/{o["oid"]}'))) for o in asked['objects']
            ]
            return _json(dict(transfer='basic', objects=objects))
        return 404, {}, b''

    def _commit(self, repo: list[str], lines: list[dict[str, Any]]) -> dict[str, str]:
        repo_id = '/'.join(repo)
        files = dict(self._hub.files(repo_id))
        for line in lines:
            value = line['value']
            if line['key'] == 'file':
                files[value['path']] = base64.b64decode(value['content'])
            elif line['key'] == 'lfsFile':
                content = self._objects[value['oid']]
                assert hashlib.sha256(content).hexdigest() == value['oid']
                files[value['path']] = content
        commit = self._hub.add_repo(repo_id, files)
        return dict(commitUrl=f'{self._hub.url}/{repo_id}/commit/{commit}', commitOid=commit)


def _json(content: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    return 200, {'Content-Type': 'application/json'}, json.dumps(content).encode()
