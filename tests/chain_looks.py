"""Looks at the endpoints of a chain, and ways that lie in one method each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

from recoup.chains import ChainSeen, EndpointSeen
from recoup.plan import ChainComponent, Endpoint
from recoup.plan_chain import Protocol
from tasks.chain import look_at_chains
from tasks.rpc import Json
from tests.anvil import CHAIN_ID
from tests.rpc_proxy import changed, way_to

MAGIC = 860833102
GENESIS = "0x1f4d1defa46faa5e7b9b8d3f79a06bec777d7c26c4aa5f6f5899a291daa87c15"
SECOND = timedelta(seconds=1)
# A look ends by itself; on a machine with much else to do it may take this long.
BOUND = 30 * SECOND


def chain(
    *urls: str, protocol: Protocol = "evm", genesis: str | None = None, latency: timedelta = 5 * SECOND, lag: int = 5
) -> ChainComponent:
    return ChainComponent(
        tier="critical",
        protocol=protocol,
        network=CHAIN_ID if protocol == "evm" else MAGIC,
        genesis=genesis,
        variable="NEO_X_RPC_URL",
        endpoints=tuple(Endpoint(url=url) for url in urls),
        max_lag_blocks=lag,
        # The EVM nodes of this module mine no block while they are asked.
        max_age=timedelta(hours=1) if protocol == "evm" else timedelta(minutes=2),
        max_latency=latency,
    )


def looked(component: ChainComponent, in_use: str = "") -> ChainSeen:
    began = time.monotonic()
    (found,) = look_at_chains({"neo": (component, in_use)})
    assert time.monotonic() - began < BOUND.total_seconds()
    assert ChainSeen.model_validate_json(found.model_dump_json()) == found
    assert all(reason.isprintable() for one in found.endpoints for reason in one.reasons)
    return found


def said(found: EndpointSeen) -> str:
    return "; ".join(found.reasons)


def healthy(found: ChainSeen) -> list[bool]:
    return [one.healthy for one in found.endpoints]


@contextmanager
def lying_ways(upstream: str, lies: list[tuple[str, Json, str]]) -> Iterator[list[str]]:
    """Give the addresses of ways to one node, of which each has one method answered with something else."""
    with ExitStack() as stack:
        ways = [stack.enter_context(way_to(upstream)) for _ in lies]
        for way, (method, result, _) in zip(ways, lies, strict=True):
            stack.enter_context(changed(way, method, result))
        yield [way.url for way in ways]


def each_has_its_reason(found: ChainSeen, lies: list[tuple[str, Json, str]]) -> None:
    """Fail where a way is not told by what it lies about, or a node behind them is not healthy."""
    for one, (method, _, reason) in zip(found.endpoints, lies, strict=False):
        assert reason in said(one), (method, one)
    assert all(one.healthy for one in found.endpoints[len(lies) :]), found.endpoints[len(lies) :]
    assert len(found.endpoints) == len(lies) + 2


def n3(*urls: str, genesis: str | None = GENESIS) -> ChainComponent:
    return chain(*urls, protocol="neo-n3", genesis=genesis)
