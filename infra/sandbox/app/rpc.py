"""Stand-ins for a Neo N3 and a Neo X node: a few JSON-RPC methods, answered in the real shape.

Neo N3 shapes: getversion as in Neo.Network.RPC.Models.RpcVersion and errors as in Neo.Plugins.RpcServer.RpcError
(neo-project/neo, 3.7: an error's ``data`` is appended to its message after " - "). Neo X is a geth fork: errors as
in go-ethereum rpc/errors.go ("the method %s does not exist/is not available"), examples in ethereum/execution-apis.
Network magic 860833102 is Neo N3 main net, chain id 47763 Neo X main net.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app.metrics import Metrics
from app.service import application
from app.settings import Settings

_SINCE = 1_760_000_000
_SECONDS_PER_BLOCK = 1.0
_OF_CONTRACTS = ("invokefunction", "invokescript", "getcontractstate", "eth_call", "eth_getCode")


def n3(_: Settings) -> Starlette:
    """A Neo N3 node."""

    def version() -> object:
        return {
            "tcpport": 10333,
            "nonce": 1930156121,
            "useragent": "/Neo:3.7.5/",
            "rpc": {"maxiteratorresultitems": 100, "sessionenabled": True},
            "protocol": {
                "addressversion": 53,
                "network": 860833102,
                "validatorscount": 7,
                "msperblock": 15000,
                "maxtraceableblocks": 2102400,
                "maxvaliduntilblockincrement": 5760,
                "maxtransactionsperblock": 512,
                "memorypoolmaxtransactions": 50000,
                "initialgasdistribution": 5200000000000000,
                "hardforks": [{"name": "Aspidochelone", "blockheight": 1730000}],
            },
        }

    methods: dict[str, Callable[[], object]] = {
        "getversion": version,
        "getblockcount": lambda: _height(6_900_000) + 1,
        "getbestblockhash": lambda: _hash("n3", _height(6_900_000)),
    }
    return _node(
        "neo-n3",
        lambda: _height(6_900_000),
        methods,
        lambda name: f"Method not found - {name}",
        "Bad request",
        "Invalid request",
    )


def x(_: Settings) -> Starlette:
    """A Neo X node."""
    methods: dict[str, Callable[[], object]] = {
        "eth_chainId": lambda: hex(47763),
        "net_version": lambda: "47763",
        "eth_blockNumber": lambda: hex(_height(2_100_000)),
        "eth_syncing": lambda: False,
    }
    return _node(
        "neo-x",
        lambda: _height(2_100_000),
        methods,
        lambda name: f"the method {name} does not exist/is not available",
        "parse error",
        "invalid request",
    )


def _height(base: int) -> int:
    return base + int((time.time() - _SINCE) / _SECONDS_PER_BLOCK)


def _hash(chain: str, height: int) -> str:
    return "0x" + hashlib.sha256(f"{chain}:{height}".encode()).hexdigest()


def _node(
    chain: str,
    height: Callable[[], int],
    methods: dict[str, Callable[[], object]],
    missing: Callable[[str], str],
    unreadable: str,
    invalid: str,
) -> Starlette:
    metrics = Metrics()
    metrics.before = lambda: metrics.put("neo_chain_height", height(), chain=chain)
    for outcome in ("ok", "error"):
        metrics.count("neo_contract_calls_total", 0, chain=chain, outcome=outcome)

    def answer(call: object) -> dict[str, object]:
        identity = call.get("id") if isinstance(call, dict) else None
        head: dict[str, object] = {"jsonrpc": "2.0", "id": identity}
        if not isinstance(call, dict) or not isinstance(call.get("method"), str):
            return {**head, "error": {"code": -32600, "message": invalid}}
        method = methods.get(call["method"])
        if call["method"] in _OF_CONTRACTS:
            metrics.count("neo_contract_calls_total", chain=chain, outcome="ok" if method else "error")
        if method is None:
            return {**head, "error": {"code": -32601, "message": missing(call["method"])}}
        return {**head, "result": method()}

    async def call(request: Request) -> JSONResponse:
        try:
            body = await request.json()
        except ValueError:
            return JSONResponse({"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": unreadable}})
        return JSONResponse([answer(one) for one in body] if isinstance(body, list) else answer(body))

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return application([Route("/health", health), Route("/", call, methods=["POST"])], metrics)
