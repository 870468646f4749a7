"""JSON-RPC 2.0 over HTTP, as a node speaks it that may be ill: everything is bounded, and nothing is believed unread.

https://www.jsonrpc.org/specification
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import httpx

from recoup.addresses import shown
from recoup.errors import RecoveryError
from tasks.health import Answer, told

# The largest answer asked for, a contract's state with its manifest, is at most some hundred kilobytes.
MOST_BYTES = 4 * 1024 * 1024
_MANY_REQUESTS = 429
_SHOWN = 120
_HIGHEST_PORT = 65535
Json = None | bool | int | float | str | Sequence["Json"] | dict[str, "Json"]


class Trouble(StrEnum):
    """Why a call gave nothing."""

    SILENT = "silent"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    RATE_LIMITED = "rate limited"
    STATUS = "error status"
    NOT_JSON = "no JSON"
    NOT_RPC = "no JSON-RPC"
    TOO_LARGE = "too large"
    ERROR = "answers with an error"


class RpcError(RecoveryError):
    """A call that gave nothing; ``trouble`` says in which way. ``code`` is the node's own, where it sent an error."""

    def __init__(self, trouble: Trouble, url: str, what: str, code: int | None = None) -> None:
        super().__init__(f"{shown(url)}: {what}", state="nothing was changed")
        self.trouble = trouble
        self.code = code
        self.said = what


@dataclass(frozen=True)
class Called:
    """What a call gave, and how long it took."""

    result: Json
    took: timedelta


def connection(verify: bool = True) -> httpx.AsyncClient:
    """Give a client for ``call``; redirections are not followed, proxies of the environment not used."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    # Nothing compressed: a small answer could become a giant one.
    plain = {"Accept-Encoding": "identity"}
    return httpx.AsyncClient(verify=verify, timeout=None, trust_env=False, limits=limits, headers=plain)


async def call(client: httpx.AsyncClient, url: str, method: str, params: Sequence[Json], deadline: timedelta) -> Called:
    """Call a method once; all of the answer has to come within ``deadline``. Raises RpcError."""
    began = time.monotonic()
    body = {"jsonrpc": "2.0", "method": method, "params": list(params), "id": 1}
    try:
        _require_port(url)
        async with asyncio.timeout(deadline.total_seconds()), client.stream("POST", url, json=body) as answer:
            raw = bytearray()
            async for chunk in answer.aiter_raw():
                raw += chunk
                if len(raw) > MOST_BYTES:
                    raise RpcError(Trouble.TOO_LARGE, url, f"{method} is answered with more than {MOST_BYTES} bytes")
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, OSError) as error:
        kind, detail = told(error)
        if kind is Answer.TIMED_OUT:
            text = f"no answer to {method} within {deadline.total_seconds():.1f} s"
            raise RpcError(Trouble.SILENT, url, text) from None
        trouble = Trouble.REFUSED if kind is Answer.REFUSED else Trouble.UNREACHABLE
        raise RpcError(trouble, url, f"{kind} {_plain(detail)}".strip()) from None
    return Called(_result(url, method, status, bytes(raw)), timedelta(seconds=time.monotonic() - began))


@dataclass(frozen=True)
class Asked:
    """A node to call again and again, each time with the same deadline."""

    client: httpx.AsyncClient
    url: str
    deadline: timedelta

    async def __call__(self, method: str, *params: Json) -> Json:
        """Give the result; raises RpcError."""
        return (await call(self.client, self.url, method, params, self.deadline)).result


def ask(url: str, method: str, *params: Json, deadline: timedelta) -> Json:
    """Call a method once from where nothing is asynchronous; see ``call``."""

    async def once() -> Called:
        async with connection() as client:
            return await call(client, url, method, params, deadline)

    return asyncio.run(once()).result


def number(value: Json) -> int | None:
    """Give a quantity: a JSON integer, or a text of hexadecimal digits behind 0x; None for all else and below 0.

    EVM nodes write quantities as the latter: https://ethereum.org/developers/docs/apis/json-rpc/#hex-encoding
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        # Of 32 bytes, as the other kind may have.
        return value if 0 <= value < 2**256 else None
    if isinstance(value, str) and value[:2] == "0x" and 2 < len(value) <= 66:
        digits = value[2:]
        # int() takes signs, underscores and blanks too.
        return int(digits, 16) if _is_hex(digits) else None
    return None


def text(value: Json, size: int) -> str | None:
    """Give a text of ``size`` bytes in hexadecimal behind 0x, in lower case; None for all else."""
    if isinstance(value, str) and len(value) == 2 + 2 * size and value[:2] == "0x" and _is_hex(value[2:]):
        return value.lower()
    return None


def data(value: Json) -> str | None:
    """Give bytes of any number in hexadecimal behind 0x, in lower case; None for all else."""
    return text(value, (len(value) - 2) // 2) if isinstance(value, str) else None


def member(value: Json, *names: str) -> Json:
    """Give what is found by following ``names`` through objects; None where there is no such thing."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _result(url: str, method: str, status: int, raw: bytes) -> Json:
    if status == _MANY_REQUESTS:
        raise RpcError(Trouble.RATE_LIMITED, url, f"{method} is answered with status 429: too many requests")
    try:
        found: Json = json.loads(raw, object_pairs_hook=_once, parse_constant=_no_constant)
    except _Twice as error:
        raise RpcError(Trouble.NOT_JSON, url, f"{method} is answered with an object that has {error} twice") from None
    except (ValueError, RecursionError):
        begins = _plain(raw[:_SHOWN].decode("utf-8", "replace"))
        kind = Trouble.NOT_JSON if status == httpx.codes.OK else Trouble.STATUS
        said = f"{method} is answered with status {status} and no JSON: {begins}".removesuffix(": ")
        raise RpcError(kind, url, said) from None
    # geth answers 200 to errors, others 4xx or 5xx with a JSON-RPC error in it, which says more than the status.
    if isinstance(found, dict) and (wrong := found.get("error")) is not None:
        code, words = member(wrong, "code"), member(wrong, "message") if isinstance(wrong, dict) else wrong
        known = code if isinstance(code, int) else None
        said = f"{method} is answered with error {_plain(str(code))}: {_plain(str(words))}"
        # What providers answer who do not use the status: https://eips.ethereum.org/EIPS/eip-1474#error-codes
        raise RpcError(Trouble.RATE_LIMITED if known == -32005 else Trouble.ERROR, url, said, known)
    if status != httpx.codes.OK:
        raise RpcError(Trouble.STATUS, url, f"{method} is answered with status {status}")
    if not isinstance(found, dict) or "result" not in found or found.get("id") != 1:
        raise RpcError(Trouble.NOT_RPC, url, f"{method} is answered with what is no answer of JSON-RPC")
    return found["result"]


class _Twice(Exception):
    pass


def _once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for name, value in pairs:
        if name in found:
            raise _Twice(repr(name)[:40])
        found[name] = value
    return found


def _plain(words: str) -> str:
    """Give what a node says as one short line that changes no terminal and can be written down."""
    return "".join(one if one.isprintable() else "�" for one in " ".join(words[: 2 * _SHOWN].split())[:_SHOWN])


def _require_port(url: str) -> None:
    port = httpx.URL(url).port
    if port is not None and port > _HIGHEST_PORT:
        raise httpx.InvalidURL(f"there is no port {port}")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _is_hex(digits: str) -> bool:
    return all(digit in "0123456789abcdefABCDEF" for digit in digits)
