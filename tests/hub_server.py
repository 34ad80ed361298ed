"""A Hugging Face Hub on the loopback interface, so that the tests download through the real huggingface_hub client.

It serves whole files at `/{org}/{name}/resolve/{revision}/{filename}` with the headers that the client relies on,
answers what is missing as the Hub does, and keeps a log of what was asked for.
"""

import contextlib
import hashlib
import shutil
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

_MAX_SILENCE = 60.0


class HubServer:
    """The server; a context manager that starts and stops it.

    Attributes:
        requests: Every request so far as (method, path).
        silent: While true, requests are taken but not answered.
        die_after: If set, the next download gets so many bytes; then the port is closed.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.die_after: int | None = None
        self._repos: dict[str, dict[str, Path | bytes]] = {}
        self._speak = threading.Event()
        self._speak.set()
        self._port = 0
        self._httpd: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """What HF_ENDPOINT has to be; stays the same when the server is stopped and started again."""
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
        """The last part of every path that was asked for."""
        return {path.rpartition('/')[2] for _, path in self.requests}

    def start(self) -> 'HubServer':
        """Listen; does nothing if it already does."""
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
        """Forget repositories and log, and answer again."""
        self._repos.clear()
        self.requests.clear()
        self.silent = False
        self.die_after = None

    def add_repo(self, repo_id: str, content: Path | Mapping[str, Path | bytes]) -> str:
        """Serve a repository, replacing one of the same name.

        Args:
            repo_id: `org/name`.
            content: A folder, or the files by name.

        Returns:
            The commit hash of its only revision, `main`.
        """
        if isinstance(content, Path):
            content = {p.relative_to(content).as_posix(): p for p in sorted(content.rglob('*')) if p.is_file()}
        self._repos[repo_id] = dict(content)
        return self._commit(repo_id)

    def _commit(self, repo_id: str) -> str:
        entries = sorted((name, _etag(file)) for name, file in self._repos[repo_id].items())
        return hashlib.sha1(repr((repo_id, entries)).encode()).hexdigest()

    def _find(self, path: str) -> tuple[dict[str, str], Path | bytes | None]:
        """The headers, and the file unless something is missing."""
        org, _, rest = path.partition('?')[0].lstrip('/').partition('/')
        name, resolve, rest = rest.partition('/resolve/')
        revision, _, filename = rest.partition('/')
        repo_id = f'{org}/{name}'
        if not resolve or repo_id not in self._repos:
            return {'X-Error-Code': 'RepoNotFound', 'X-Error-Message': 'Repository not found'}, None
        commit = self._commit(repo_id)
        if unquote(revision) not in ('main', commit):
            return {'X-Error-Code': 'RevisionNotFound', 'X-Error-Message': f'Invalid rev id: {revision}'}, None
        headers = {'X-Repo-Commit': commit}
        file = self._repos[repo_id].get(unquote(filename))
        if file is None:
            return headers | {'X-Error-Code': 'EntryNotFound', 'X-Error-Message': 'Entry not found'}, None
        return headers | {'ETag': f'"{_etag(file)}"'}, file

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            # HTTP/1.0 closes every connection, so that none outlives stop().

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, with_body: bool) -> None:
                hub.requests.append((self.command, self.path))
                if not hub._speak.wait(_MAX_SILENCE):
                    return
                headers, file = hub._find(self.path)
                size = 0 if file is None else len(file) if isinstance(file, bytes) else file.stat().st_size
                self.send_response(404 if file is None else 200)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header('Content-Length', str(size))
                self.end_headers()
                if not with_body or file is None:
                    return
                if hub.die_after is not None:
                    self.wfile.write((file if isinstance(file, bytes) else file.read_bytes())[: hub.die_after])
                    hub.stop()
                elif isinstance(file, bytes):
                    self.wfile.write(file)
                else:
                    with file.open('rb') as f:
                        shutil.copyfileobj(f, self.wfile, 1 << 20)

            def handle(self) -> None:
                # Raised when a client gives up waiting.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    super().handle()

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def _etag(file: Path | bytes) -> str:
    """Changes with the file; of the length of a git blob's hash. Files are not read, which would take seconds."""
    identity = file if isinstance(file, bytes) else repr((str(file), *_stat(file))).encode()
    return hashlib.sha1(identity).hexdigest()


def _stat(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns
