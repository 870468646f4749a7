"""A way to a node that can be made bad while it is used: it cuts, delays, goes deaf, refuses, and answers rubbish."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler

import httpx

from tasks.rpc import MOST_BYTES, Json
from tests.web import serving

HTML = b"<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
# Answers to a request's id 1, each of them wrong in its own way.
# Deeper than any JSON library reads.
NESTED = b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
TWICE = b'{"jsonrpc":"2.0","id":1,"result":1,"result":2}'
Change = Callable[[str, Json], Json]


class Fault(Enum):
    """What the way does to a request; NONE passes it on."""

    NONE = auto()
    CUT = auto()  # the connection is reset, the request unanswered
    CUT_HALF_WAY = auto()  # the head of the answer comes, then half of it
    DEAF = auto()  # accepts, and never answers
    DRIP = auto()  # the answer comes byte by byte, and never to its end
    TOO_MANY = auto()  # status 429
    LIMITED = auto()  # status 200 and the error -32005
    HTML = auto()
    NOT_JSON = auto()
    TWICE = auto()  # an object that has a key twice
    NESTED = auto()
    GIANT = auto()
    WRONG_ID = auto()


@dataclass
class Way:
    """The way; what a test sets on it holds from the next request on.

    ``change`` is given the method and the node's result, and gives what is answered instead; ``error`` is answered
    instead of any result; ``delay`` is in seconds.
    """

    upstream: str
    port: int = 0
    fault: Fault = Fault.NONE
    delay: float = 0
    change: Change = lambda method, result: result
    error: Json = None
    asked: list[str] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def way_to(upstream: str) -> Iterator[Way]:
    """Give a way to the node at that URL that is a good one until the test changes it."""
    way = Way(upstream)

    class Handler(_Handler):
        pass

    Handler.way = way
    with serving(Handler) as way.port:
        try:
            yield way
        finally:
            way.closed.set()


@contextmanager
def changed(way: Way, method: str, result: Json) -> Iterator[None]:
    """Have one method answered with this result while the block runs."""
    before = way.change
    way.change = lambda asked, told: result if asked == method else before(asked, told)
    try:
        yield
    finally:
        way.change = before


class _Handler(BaseHTTPRequestHandler):
    way: Way

    def do_POST(self) -> None:
        way, body = self.way, self.rfile.read(int(self.headers.get("content-length", 0)))
        call: Json = json.loads(body)
        method = str(call["method"]) if isinstance(call, dict) else "batch"
        way.asked.append(method)
        way.closed.wait(way.delay)
        try:
            self._answer(way.fault, method, body)
        except OSError:
            # Who asked has lost patience.
            self.close_connection = True

    def _answer(self, fault: Fault, method: str, body: bytes) -> None:
        if fault is Fault.DEAF:
            self.way.closed.wait()
        elif fault is Fault.CUT:
            self._reset()
        elif fault in _RUBBISH:
            self._reply(*_RUBBISH[fault])
        elif fault is Fault.GIANT:
            self._reply(200, b'{"jsonrpc":"2.0","id":1,"result":"' + b"0" * (2 * MOST_BYTES) + b'"}')
        else:
            status, answer = self._pass_on(method, body)
            if fault is Fault.WRONG_ID and isinstance(answer, dict):
                answer["id"] = 4711
            text = json.dumps(answer).encode()
            if fault is Fault.CUT_HALF_WAY:
                self._head(status, len(text))
                self.wfile.write(text[: len(text) // 2])
                self._reset()
            elif fault is Fault.DRIP:
                self._head(status, 1_000_000)
                while not self.way.closed.wait(0.05):
                    self.wfile.write(b" ")
            else:
                self._reply(status, text)

    def _pass_on(self, method: str, body: bytes) -> tuple[int, Json]:
        headers = {"content-type": "application/json"}
        got = httpx.post(self.way.upstream, content=body, headers=headers, timeout=30, trust_env=False)
        answer: Json = got.json()
        if self.way.error is not None:
            answer = {"jsonrpc": "2.0", "id": 1, "error": self.way.error}
        elif isinstance(answer, dict) and "result" in answer:
            answer["result"] = self.way.change(method, answer["result"])
        return got.status_code, answer

    def _reply(self, status: int, body: bytes) -> None:
        self._head(status, len(body))
        self.wfile.write(body)

    def _head(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(length))
        self.end_headers()

    def _reset(self) -> None:
        # Closed with a time to linger of none, a connection ends by RST instead of FIN.
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


_RUBBISH = {
    Fault.TOO_MANY: (429, b"Too Many Requests"),
    Fault.LIMITED: (200, b'{"jsonrpc":"2.0","id":1,"error":{"code":-32005,"message":"limit exceeded"}}'),
    Fault.HTML: (200, HTML),
    Fault.NOT_JSON: (200, b'{"jsonrpc":"2.0","id":1,"result":'),
    Fault.NESTED: (200, NESTED),
    Fault.TWICE: (200, TWICE),
}
