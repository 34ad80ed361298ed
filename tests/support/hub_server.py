"""A Hugging Face Hub on the loopback interface, so that the tests go through the real huggingface_hub client.

The server has files at `/{org}/{name}/resolve/{revision}/{filename}` with the headers that the client relies on. It
answers requests for missing files as the Hub does, takes uploads (LFS, no Xet), fails on request, and keeps a log.
"""

import base64
import contextlib
import functools
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote


@dataclass(frozen=True)
class Fault:
    """A fault of one answer.

    Attributes:
        method: Method of the request whose answer has the fault.
        status: Status of the answer, which then has no file.
        headers: Headers of an answer with `status`.
        body: The body has a bit flipped, or is cut short at half.
    """

    method: str = 'GET'
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Literal['cut', 'flip'] | None = None


class _SharedPort(ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


class HubServer:
    """The server; `start` opens its port.

    Attributes:
        requests: Every request so far as (method, path).
        tokens: The Authorization header of every request, or None.
        faults: Faults of the next answers; each fault happens once.
        silent: While true, requests are taken but not answered.
        delay: Seconds before each answer.
        token: If set, the token that a request needs.
        cdn: Send downloads to another host, as the Hub does for large files.
        other_files: Files outside of repositories by path, for release pages.
        uploads: What was published.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.tokens: list[str | None] = []
        self.faults: list[Fault] = []
        self.other_files: dict[str, bytes] = {}
        self.silent = False
        self.delay = 0.0
        self.token: str | None = None
        self.cdn = False
        self.uploads = Uploads(self)
        self._repos: dict[str, dict[str, Path | bytes]] = {}
        self._httpd: ThreadingHTTPServer | None = None
        # A socket that never listens keeps the port for this server while the server is stopped.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(('127.0.0.1', 0))
        self._port = self._reserved.getsockname()[1]
        # Workers of data loaders would keep the port open after `stop`, and take connections that they never answer.
        os.register_at_fork(after_in_child=lambda: self._httpd and self._httpd.socket.close())

    @property
    def url(self) -> str:
        """The value of HF_ENDPOINT; it stays the same when the server is stopped and started again."""
        return f'http://127.0.0.1:{self._port}'

    def count(self, method: str) -> int:
        """The number of requests with a method."""
        return [m for m, _ in self.requests].count(method)

    def start(self) -> 'HubServer':
        """Start to listen, unless the server already listens."""
        if self._httpd is None:
            self._httpd = _SharedPort(('127.0.0.1', self._port), type('Handler', (_Handler,), dict(hub=self)))
            threading.Thread(target=self._httpd.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Close the port, so that connections are refused; repositories and log are kept."""
        if self._httpd is not None:
            self._httpd.shutdown()
            self._httpd.socket.close()  # server_close() would wait for requests under way
            self._httpd = None

    def clear(self) -> None:
        """Forget repositories and log, and answer without faults again."""
        for log in (self._repos, self.other_files, self.requests, self.tokens, self.faults):
            log.clear()
        self.silent = self.cdn = False
        self.delay, self.token = 0.0, None
        self.uploads = Uploads(self)

    def add_repo(self, repo_id: str, content: Path | Mapping[str, Path | bytes]) -> str:
        """Serve a repository; a repository of the same name is replaced.

        Args:
            repo_id: `org/name`.
            content: A folder, or the files by name.

        Returns:
            The commit hash of its only revision, `main`.
        """
        if isinstance(content, Path):
            content = {p.relative_to(content).as_posix(): p for p in sorted(content.rglob('*')) if p.is_file()}
        self._repos[repo_id] = dict(content)
        return self.commit(repo_id)

    def files(self, repo_id: str) -> dict[str, Path | bytes]:
        """The files of a repository by name."""
        return self._repos[repo_id]

    def commit(self, repo_id: str) -> str:
        """The commit hash of a repository."""
        entries = sorted((name, digest(file)) for name, file in self._repos[repo_id].items())
        return hashlib.sha1(repr((repo_id, entries)).encode()).hexdigest()

    def find(self, path: str) -> tuple[dict[str, str], Path | bytes | None]:
        """The headers, and the file, or None if something is missing."""
        if path in self.other_files:
            return {}, self.other_files[path]
        repo_id, resolve, rest = path.partition('?')[0].lstrip('/').partition('/resolve/')
        revision, _, filename = rest.partition('/')
        if not resolve or repo_id not in self._repos:
            return {'X-Error-Code': 'RepoNotFound', 'X-Error-Message': 'Repository not found'}, None
        commit = self.commit(repo_id)
        if unquote(revision) not in ('main', commit):
            return {'X-Error-Code': 'RevisionNotFound', 'X-Error-Message': f'Invalid rev id: {revision}'}, None
        headers = {'X-Repo-Commit': commit}
        file = self._repos[repo_id].get(unquote(filename))
        if file is None:
            return headers | {'X-Error-Code': 'EntryNotFound', 'X-Error-Message': 'Entry not found'}, None
        return headers | {'ETag': f'"{digest(file)}"'}, file


class Uploads:
    """Answers to requests that change a repository.

    Attributes:
        private: Whether each created repository is private.
    """

    def __init__(self, hub: HubServer) -> None:
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
            names = [file['path'] for file in asked['files']]
            modes = ['lfs' if name.endswith('.safetensors') else 'regular' for name in names]
            files = [dict(path=n, uploadMode=m, shouldIgnore=False) for n, m in zip(names, modes, strict=True)]
            return _json(dict(files=files))
        if path.endswith('.git/info/lfs/objects/batch'):
            for entry in asked['objects']:
                entry['actions'] = dict(upload=dict(href=f'{self._hub.url}/lfs/{entry["oid"]}'))
            return _json(dict(transfer='basic', objects=asked['objects']))
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


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0 closes every connection, so that no connection outlives `HubServer.stop`."""

    hub: HubServer

    def do_HEAD(self) -> None:
        if fault := self._begin():
            self._send_file(fault)

    def do_GET(self) -> None:
        if fault := self._begin():
            if self.path.startswith('/api/'):
                self._say(*self.hub.uploads.answer(self.command, self.path, b''))
            else:
                self._send_file(fault)

    def do_POST(self) -> None:
        if self._begin():
            self._say(*self.hub.uploads.answer(self.command, self.path, self._body()))

    do_PUT = do_POST

    def _begin(self) -> Fault | None:
        """Log the request and apply its fault. Returns the rest of the fault, or None if the answer is sent."""
        hub, token = self.hub, self.headers.get('Authorization')
        hub.requests.append((self.command, self.path))
        hub.tokens.append(token)
        time.sleep(hub.delay)
        while hub.silent:
            time.sleep(0.02)
        fault = next((fault for fault in hub.faults if fault.method == self.command), Fault())
        if fault in hub.faults:
            hub.faults.remove(fault)
        is_signed = self.path.startswith(('/cdn/', '/lfs/'))  # addresses that the Hub has signed
        if fault.status is not None:
            self._say(fault.status, fault.headers)
        elif hub.token is not None and token != f'Bearer {hub.token}' and not is_signed:
            self._say(401, {'X-Error-Code': 'RepoNotFound', 'X-Error-Message': 'Invalid username or password.'})
        else:
            return fault
        return None

    def _say(self, status: int, headers: Mapping[str, str], body: bytes = b'') -> None:
        self.send_response(status)
        for key, value in {'Content-Length': str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get('Transfer-Encoding') != 'chunked':
            return self.rfile.read(int(self.headers.get('Content-Length', 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b''.join(chunks)

    def _send_file(self, fault: Fault) -> None:
        headers, file = self.hub.find(self.path.removeprefix('/cdn'))
        if file is None:
            self._say(404, headers)
            return
        content = file if isinstance(file, bytes) else file.read_bytes()
        if self.hub.cdn and not self.path.startswith('/cdn'):
            headers['X-Linked-ETag'], headers['X-Linked-Size'] = headers.pop('ETag'), str(len(content))
            self._say(302, headers | {'Location': f'http://localhost:{self.server.server_address[1]}/cdn{self.path}'})
            return
        first = int(self.headers.get('Range', 'bytes=0-').removeprefix('bytes=').removesuffix('-'))
        if first:
            headers['Content-Range'] = f'bytes {first}-{len(content) - 1}/{len(content)}'
        self._say(206 if first else 200, headers | {'Content-Length': str(len(content) - first)})
        if self.command == 'GET':
            half = len(content) // 2
            if fault.body == 'flip':
                content = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
            self.wfile.write(content[first : half if fault.body == 'cut' else None])

    def handle(self) -> None:
        # A client that gives up waiting closes the connection.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass


def assert_only_safetensors(hub: HubServer, repo_id: str) -> None:
    """Require that one file was downloaded, and that it was the safetensors file of a repository."""
    assert all(path.startswith(f'/{repo_id}/resolve/') for _, path in hub.requests)
    assert {path.rpartition('/')[2] for _, path in hub.requests} == {'model.safetensors'}
    assert hub.count('GET') == 1


def digest(file: Path | bytes) -> str:
    """The SHA-256, which the Hub declares for large files."""
    return hashlib.sha256(file).hexdigest() if isinstance(file, bytes) else _file_digest(file, file.stat().st_mtime_ns)


@functools.lru_cache
def _file_digest(file: Path, _changed: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
