"""A Hugging Face Hub on the loopback interface, so that the tests go through the real huggingface_hub client.

The server has files at `/{org}/{name}/resolve/{revision}/{filename}` with the headers that the client relies on. It
answers requests for missing files as the Hub does, takes uploads (hub_uploads.py), fails on request, and keeps a log.
"""

import contextlib
import functools
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from hub_uploads import Uploads

_MAX_SILENCE = 60.0
_PIECE = 16 << 10


@dataclass(frozen=True)
class Fault:
    """A fault of one answer.

    Attributes:
        method: Method of the request whose answer has the fault.
        status: Status of the answer, which then has no file.
        headers: Headers of an answer with `status`.
        body: After `after` bytes the body is cut short, stalls, or has a bit flipped.
        after: See `body`.
        raw: Yields what is sent instead of an answer, status line and headers included. It is given the first byte that
            was asked for, and the content of the file.
    """

    method: str = 'GET'
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Literal['cut', 'stall', 'flip'] | None = None
    after: int = 0
    raw: Callable[[int, bytes], Iterable[bytes]] | None = None


class HubServer:
    """The server; a context manager that starts and stops it.

    Attributes:
        requests: Every request so far as (method, path).
        tokens: The Authorization header of every request, or None.
        bodies: Every requested file as (first byte, bytes sent).
        faults: Faults of the next answers; each fault happens once.
        silent: While true, requests are taken but not answered.
        die_after: If set, the next download gets this number of bytes; then the port is closed.
        rate: If set, bytes per second for each download.
        token: If set, the token that a request needs.
        cdn: Send downloads to another host, as the Hub does for large files.
        most_at_once: The largest number of downloads at the same time.
        sent: Bytes that raw faults have sent.
        ranges: Answer requests for a part of a file with that part.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.tokens: list[str | None] = []
        self.bodies: list[tuple[int, int]] = []
        self.faults: list[Fault] = []
        self.die_after: int | None = None
        self.rate: float | None = None
        self.token: str | None = None
        self.cdn = False
        self.ranges = True
        self.most_at_once = self.sent = 0
        self._at_once = 0
        self.uploads = Uploads(self)
        self._repos: dict[str, dict[str, Path | bytes]] = {}
        self._speak = threading.Event()
        self._speak.set()
        self._port = 0
        self._httpd: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The value of HF_ENDPOINT; it stays the same when the server is stopped and started again."""
        return f'http://127.0.0.1:{self._port}'

    @property
    def silent(self) -> bool:
        return not self._speak.is_set()

    @silent.setter
    def silent(self, value: bool) -> None:
        if value:
            self._speak.clear()
        else:
            self._speak.set()

    @property
    def filenames(self) -> set[str]:
        """The last part of every requested path."""
        return {path.rpartition('/')[2] for _, path in self.requests}

    def count(self, method: str) -> int:
        """The number of requests with a method."""
        return [m for m, _ in self.requests].count(method)

    def start(self) -> 'HubServer':
        """Start to listen, unless the server already listens."""
        if self._httpd is None:
            self._httpd = ThreadingHTTPServer(('127.0.0.1', self._port), self._handler())
            self._httpd.daemon_threads = True
            self._port = self._httpd.server_port
            self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.05,), daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Close the port, so that connections are refused; repositories and log are kept."""
        if self._httpd is not None:
            httpd, thread, self._httpd, self._thread = self._httpd, self._thread, None, None
            httpd.shutdown()
            thread.join()
            httpd.socket.close()  # server_close() would wait for requests under way

    def __enter__(self) -> 'HubServer':
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def clear(self) -> None:
        """Forget repositories and log, and answer without faults again."""
        for log in (self._repos, self.requests, self.tokens, self.bodies, self.faults):
            log.clear()
        self.silent = self.cdn = False
        self.most_at_once = self.sent = 0
        self.ranges = True
        self.die_after = self.rate = self.token = None
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
        org, _, rest = path.partition('?')[0].lstrip('/').partition('/')
        name, resolve, rest = rest.partition('/resolve/')
        revision, _, filename = rest.partition('/')
        repo_id = f'{org}/{name}'
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

    def take_fault(self, method: str) -> Fault:
        """The next fault for a request with this method, or a `Fault` without effect."""
        for i, fault in enumerate(self.faults):
            if fault.method == method:
                return self.faults.pop(i)
        return Fault(method)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        return type('Handler', (_Handler,), dict(hub=self))


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0 closes every connection, so that no connection outlives `HubServer.stop`."""

    hub: HubServer

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        if self.path.startswith('/api/'):
            self._upload()
        else:
            self._answer()

    def do_POST(self) -> None:
        self._upload()

    def do_PUT(self) -> None:
        self._upload()

    def _begin(self) -> bool:
        """Log the request and apply its fault. Returns whether an answer is still to be sent."""
        hub = self.hub
        token = self.headers.get('Authorization')
        hub.requests.append((self.command, self.path))
        hub.tokens.append(token)
        if not hub._speak.wait(_MAX_SILENCE):
            return False
        self.fault = hub.take_fault(self.command)
        if self.fault.status is not None:
            self._say(self.fault.status, self.fault.headers)
            return False
        is_signed = self.path.startswith(('/cdn/', '/lfs/'))  # addresses that the Hub has signed
        if hub.token is not None and token != f'Bearer {hub.token}' and not is_signed:
            self._say(401, {'X-Error-Code': 'RepoNotFound', 'X-Error-Message': 'Invalid username or password.'})
            return False
        return True

    def _say(self, status: int, headers: Mapping[str, str], body: bytes = b'') -> None:
        self.send_response(status)
        for key, value in {'Content-Length': str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def _upload(self) -> None:
        if self._begin():
            self._say(*self.hub.uploads.answer(self.command, self.path, self._body()))

    def _body(self) -> bytes:
        if self.headers.get('Transfer-Encoding') != 'chunked':
            return self.rfile.read(int(self.headers.get('Content-Length', 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b''.join(chunks)

    def _answer(self) -> None:
        if not self._begin():
            return
        headers, file = self.hub.find(self.path.removeprefix('/cdn'))
        if self.fault.raw is not None:
            begin = self.headers.get('Range', 'bytes=0-').removeprefix('bytes=').removesuffix('-')
            for piece in self.fault.raw(int(begin), file if isinstance(file, bytes) else b''):
                self.wfile.write(piece)
                self.hub.sent += len(piece)
            return
        if file is None:
            self._say(404, headers)
            return
        size = len(file) if isinstance(file, bytes) else file.stat().st_size
        if self.hub.cdn and not self.path.startswith('/cdn'):
            port = self.server.server_address[1]
            headers['X-Linked-ETag'], headers['X-Linked-Size'] = headers.pop('ETag'), str(size)
            self._say(302, headers | {'Location': f'http://localhost:{port}/cdn{self.path}'})
            return
        match = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', '') if self.hub.ranges else '')
        start = int(match[1]) if match else 0
        if start >= size > 0:
            self._say(416, {'Content-Range': f'bytes */{size}'})
            return
        if match:
            headers['Content-Range'] = f'bytes {start}-{size - 1}/{size}'
        self._say(206 if match else 200, headers | {'Content-Length': str(size - start)})
        if self.command == 'GET':
            self.hub._at_once += 1
            self.hub.most_at_once = max(self.hub.most_at_once, self.hub._at_once)
            try:
                self._send(file if isinstance(file, bytes) else file.read_bytes(), start)
            finally:
                self.hub._at_once -= 1

    def _send(self, content: bytes, start: int) -> None:
        hub, fault = self.hub, self.fault
        if fault.body == 'flip':
            at = start + fault.after
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        limit = {'cut': fault.after, 'stall': fault.after, 'flip': None, None: hub.die_after}[fault.body]
        end = len(content) if limit is None else min(len(content), start + limit)
        index = len(hub.bodies)
        hub.bodies.append((start, 0))
        piece = _PIECE if hub.rate else 1 << 20
        for i in range(start, end, piece):
            if hub.rate:
                time.sleep(piece / hub.rate)
            self.wfile.write(content[i : min(i + piece, end)])
            hub.bodies[index] = (start, min(i + piece, end) - start)
        if fault.body == 'stall':
            self.wfile.flush()
            time.sleep(3.0)
        if hub.die_after is not None:
            hub.stop()

    def handle(self) -> None:
        # A client that gives up waiting closes the connection.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass


def assert_only_safetensors(hub: HubServer, repo_id: str) -> None:
    """Require that one file was downloaded, and that it was the safetensors file of a repository."""
    assert hub.filenames == {'model.safetensors'}
    assert all(path.startswith(f'/{repo_id}/resolve/') for _, path in hub.requests)
    assert hub.count('GET') == 1


def digest(file: Path | bytes) -> str:
    """The SHA-256, which the Hub declares for large files."""
    return hashlib.sha256(file).hexdigest() if isinstance(file, bytes) else _file_digest(file, file.stat().st_mtime_ns)


@functools.lru_cache
def _file_digest(file: Path, _changed: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
