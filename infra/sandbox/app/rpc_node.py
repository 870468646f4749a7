"""What nodes of both chains share: a line of blocks that is the same on every node, and JSON-RPC's envelope."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

SECONDS_PER_BLOCK = 1
# At this moment, Unix time, every network has had its ``base`` blocks.
_SINCE = 1_760_000_000
Method = Callable[[list[object]], object]


class RpcFault(Exception):
    """The node answers with this error."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message, **({} if data is None else {"data": data})}


class Line:
    """The blocks of a network as one node has them: nothing is stored, for each is made from its height.

    With ``lag`` the node stands still so many blocks below the head at its start; with ``fork`` it has another
    history from so many blocks below that head on.
    """

    def __init__(self, network: str, base: int, genesis: str | None, lag: int = 0, fork: int = 0) -> None:
        self._network, self._base, self._genesis = network, base, genesis
        self._stands_at = max(0, self._head() - lag) if lag else None
        self._forked_at = self.height() - fork + 1 if fork else None

    def height(self) -> int:
        return self._head() if self._stands_at is None else self._stands_at

    def time(self, height: int) -> int:
        """Give when the block was made, in seconds of Unix time."""
        return _SINCE + (height - self._base) * SECONDS_PER_BLOCK

    def hash(self, height: int, what: str = "block") -> str:
        """Give the hash of a block, or of another part of it; a block's own ends with its height."""
        if height == 0 and what == "block" and self._genesis:
            return self._genesis
        history = "another" if self._forked_at is not None and height >= self._forked_at else "common"
        digest = hashlib.sha256(f"{self._network}:{history}:{what}:{height}".encode()).hexdigest()
        return f"0x{digest[:56]}{height:08x}" if what == "block" else f"0x{digest}"

    def height_of(self, block: str) -> int | None:
        """Give the height of the block with this hash; None when this node has no such block."""
        if block == self._genesis:
            return 0
        height = int(block[-8:], 16)
        return height if height <= self.height() and self.hash(height) == block else None

    def _head(self) -> int:
        return self._base + int((time.time() - _SINCE) / SECONDS_PER_BLOCK)


class Node:
    """A node: its methods, and the words in which it refuses what it does not know."""

    chain: str
    invalid: str
    unparsable: str

    def __init__(self, line: Line, methods: dict[str, Method]) -> None:
        self.line, self._methods = line, methods

    def missing(self, method: str) -> RpcFault:
        raise NotImplementedError

    def unreadable(self) -> dict[str, object]:
        return {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": self.unparsable}}

    def answer(self, call: object) -> dict[str, object]:
        identity = call.get("id") if isinstance(call, dict) else None
        head: dict[str, object] = {"jsonrpc": "2.0", "id": identity}
        name = call.get("method") if isinstance(call, dict) else None
        params = call.get("params") or [] if isinstance(call, dict) else None
        if not isinstance(name, str) or not isinstance(params, list):
            return {**head, "error": {"code": -32600, "message": self.invalid}}
        try:
            method = self._methods.get(name)
            if method is None:
                raise self.missing(name)
            return {**head, "result": method(params)}
        except RpcFault as fault:
            return {**head, "error": fault.error}
