"""A service with an enclave, small enough for a test: run as a program, it imports nothing of recoup.

``serve PORT PROCESSOR``: it has its quotes from the address PROCESSOR, and its secret in memory alone, as an enclave
has one that was sealed elsewhere. ``provision PORT``: gives it what stands on standard input. ``refuse``: complains.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET: list[bytes] = []


class Handler(BaseHTTPRequestHandler):
    processor = ""

    def do_GET(self) -> None:
        if self.path.startswith("/quote"):
            self._forward()
        elif self.path.startswith("/self-test") and not SECRET:
            self._answer(503, b'{"why": "no secret"}')
        elif self.path.startswith("/self-test"):
            self._answer(200, json.dumps({"fingerprint": hashlib.sha256(SECRET[-1]).hexdigest()}).encode())
        else:
            self._answer(200, b'{"status": "ok"}')

    def do_POST(self) -> None:
        SECRET.append(self.rfile.read(int(self.headers["content-length"])))
        self._answer(200, b"{}")

    def _forward(self) -> None:
        try:
            with urllib.request.urlopen(f"{self.processor}{self.path}", timeout=5) as answer:
                self._answer(200, answer.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, error.read())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


def main(what: str, *more: str) -> int:
    if what == "serve":
        Handler.processor = more[1]
        ThreadingHTTPServer(("127.0.0.1", int(more[0])), Handler).serve_forever()
    given = sys.stdin.buffer.read()
    if what == "refuse":
        spelled = given.hex(), given.decode(), base64.b64encode(given).decode(), os.environ.get("TICKET")
        print("cannot use", *spelled, file=sys.stderr)
        return 3
    told = {name: os.environ.get(name, "") for name in ("RECOUP_MRENCLAVE", "RECOUP_REPORT_DATA", "TICKET")}
    with open("provisioned.json", "a", encoding="utf-8") as log:
        log.write(json.dumps({**told, "argv": sys.argv}) + "\n")
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{more[0]}/provision", data=given), timeout=5)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
