"""A release page on the loopback interface with a small `.h5` file."""

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from paths import DATA

CONTENT = (DATA / 'keras_cv_small_weights_only.h5').read_bytes()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class ReleasePage:
    """A server that has the same file under every path and can resume downloads.

    Attributes:
        content: The file.
        status: If set, the answer to every GET.
        declares_size: Whether the answer to a HEAD has the size of the file.
        die_after: If set, the next GET gets this number of bytes; then the connection is closed.
        raw: If set, yields the answer to every GET, status line and headers included.
        head_length: If set, the Content-Length of the answer to a HEAD.
        chunk_pause: Seconds between two chunks of 16 KiB.
        ranges: The Range header of every GET so far.
        headers: The headers of every request so far.
    """

    def __init__(self) -> None:
        self.content = CONTENT
        self.status: int | None = None
        self.declares_size = True
        self.die_after: int | None = None
        self.raw: Callable[[], Iterable[bytes]] | None = None
        self.head_length: str | None = None
        self.chunk_pause = 0.0
        self.ranges: list[str | None] = []
        self.headers: list[dict[str, str]] = []
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                page.headers.append(dict(self.headers))
                if self.path != '/elsewhere':
                    self.send_response(302)
                    self.send_header('Location', '/elsewhere')
                elif page.declares_size:
                    self.send_response(200)
                    self.send_header('Content-Length', page.head_length or str(len(page.content)))
                else:
                    self.send_response(405)
                self.end_headers()

            def do_GET(self) -> None:
                page.headers.append(dict(self.headers))
                page.ranges.append(self.headers['Range'])
                if page.raw is not None:
                    with contextlib.suppress(OSError):  # the client has had enough
                        for piece in page.raw():
                            self.wfile.write(piece)
                    return
                begin = int(re.match(r'bytes=(\d+)-', self.headers['Range'] or 'bytes=0-')[1])
                status = page.status or (206 if begin else 200)
                status = 416 if begin >= len(page.content) else status
                body = page.content[begin:] if status < 300 else b''
                self.send_response(status)
                self.send_header('Content-Length', str(len(body)))
                if status == 206:
                    self.send_header('Content-Range', f'bytes {begin}-{len(page.content) - 1}/{len(page.content)}')
                self.end_headers()
                if page.die_after is not None:
                    body, page.die_after = body[: page.die_after], None
                with contextlib.suppress(OSError):  # the client was killed
                    for i in range(0, len(body), 1 << 14):
                        self.wfile.write(body[i : i + (1 << 14)])
                        time.sleep(page.chunk_pause)

            def log_message(self, *args) -> None:
                pass

        self.httpd = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.httpd.server_port}'
        threading.Thread(target=self.httpd.serve_forever, args=(0.05,), daemon=True).start()
