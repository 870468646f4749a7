"""Stand-ins for nodes of Neo N3 and Neo X: JSON-RPC over HTTP, answered in the real shape.

``rpc-n3`` and ``rpc-x`` serve one node each, which a drill may make ill by its environment; ``rpc-backups`` two well
ones of each chain under paths of their own.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app.metrics import Metrics
from app.rpc_n3 import N3Node
from app.rpc_node import Node
from app.rpc_x import XNode
from app.service import application
from app.settings import Settings

_OF_CONTRACTS = ("invokefunction", "invokescript", "getcontractstate", "eth_call", "eth_getCode")


def n3(settings: Settings) -> Starlette:
    """A Neo N3 node."""
    return _serving({"/": N3Node(settings.node_network, settings.node_lag, settings.node_fork)})


def x(settings: Settings) -> Starlette:
    """A Neo X node."""
    return _serving({"/": XNode(settings.node_network, settings.node_lag, settings.node_fork)})


def backups(_: Settings) -> Starlette:
    """Two more nodes of each chain, always well."""
    return _serving({"/n3/1": N3Node(), "/n3/2": N3Node(), "/x/1": XNode(), "/x/2": XNode()})


def _serving(nodes: dict[str, Node]) -> Starlette:
    metrics = Metrics()

    def heights() -> None:
        for node in nodes.values():
            metrics.put("neo_chain_height", node.line.height(), chain=node.chain)

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    metrics.before = heights
    for node in nodes.values():
        for outcome in ("ok", "error"):
            metrics.count("neo_contract_calls_total", 0, chain=node.chain, outcome=outcome)
    routes = [_route(path, node, metrics) for path, node in nodes.items()]
    return application([Route("/health", health), *routes], metrics)


def _route(path: str, node: Node, metrics: Metrics) -> Route:
    def answer(call: object) -> dict[str, object]:
        told = node.answer(call)
        method = call.get("method") if isinstance(call, dict) else None
        if method in _OF_CONTRACTS:
            outcome = "error" if "error" in told else "ok"
            metrics.count("neo_contract_calls_total", chain=node.chain, outcome=outcome)
        return told

    async def post(request: Request) -> JSONResponse:
        try:
            body = await request.json()
        except ValueError:
            return JSONResponse(node.unreadable())
        return JSONResponse([answer(one) for one in body] if isinstance(body, list) else answer(body))

    return Route(path, post, methods=["POST"])
