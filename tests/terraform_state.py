"""A back end for Terraform's state that speaks its HTTP protocol: a lock can be left in it, and it can be away."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Backend(ThreadingHTTPServer):
    """Keeps one state and one lock in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.state = b""
        self.lock = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/state"

    def leave_a_lock(self) -> str:
        """Lock the state as a run does that was killed, and give the lock's id."""
        self.lock = json.dumps({"ID": "5d1f-left", "Operation": "OperationTypeApply", "Who": "root@old-host"}).encode()
        return "5d1f-left"


class _Handler(BaseHTTPRequestHandler):
    server: Backend

    def do_GET(self) -> None:
        self._answer(200 if self.server.state else 204, self.server.state)

    def do_POST(self) -> None:
        self.server.state = self._body()
        self._answer(200)

    def do_LOCK(self) -> None:
        body = self._body()
        if self.server.lock:
            self._answer(423, self.server.lock)
            return
        self.server.lock = body
        self._answer(200)

    def do_UNLOCK(self) -> None:
        self._body()
        self.server.lock = b""
        self._answer(200)

    def log_message(self, format: str, *args: object) -> None:
        return

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def state_backend() -> Iterator[Backend]:
    """Give a running back end; it is away afterwards."""
    with Backend() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
