"""Probing the RPC endpoints of chains: all at the same time, each within a hard deadline, more than an HTTP 200 asked.

Neo N3: https://docs.neo.org/docs/n3/reference/rpc/api (getversion, getblockcount, getbestblockhash, getblockheader).
Neo X and other EVM chains: https://ethereum.github.io/execution-apis/ (eth_chainId, eth_getBlockByNumber, eth_syncing).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import httpx

from recoup.addresses import same_place
from recoup.chains import ChainSeen, Head, Look, common_height, judge
from recoup.plan import ChainComponent, Endpoint
from recoup.records import now
from tasks.rpc import Json, RpcError, Trouble, call, connection, member, number, text

# What an endpoint may take longer than the plan allows and still be told from one that is silent.
SLOWER = timedelta(milliseconds=500)
# From the first look at the height to the second.
APART = timedelta(milliseconds=700)
# Each of an endpoint's first questions resolves its name.
_MOST_NAMES = 400
# No block of any chain is made so far from its epoch.
_YEAR_3000 = 32_503_680_000
V = TypeVar("V", int, str)


@dataclass
class _Asked:
    """One endpoint being asked, and how that went."""

    client: httpx.AsyncClient
    url: str
    until: float
    calls: int = 0
    failed: int = 0
    slowest: timedelta = timedelta()
    trouble: list[str] = field(default_factory=list)

    async def ask(self, method: str, *params: Json) -> Json:
        """Give the answer to a call, which is made once more where it was refused quickly; raises RpcError."""
        for last in (False, True):
            left = timedelta(seconds=max(self.until - time.monotonic(), 0.001))
            self.calls += 1
            try:
                called = await call(self.client, self.url, method, params, left)
            except RpcError as error:
                self.failed += 1
                self.trouble.append(error.said)
                if last or error.trouble in (Trouble.SILENT, Trouble.REFUSED, Trouble.TOO_LARGE):
                    raise
                continue
            self.slowest = max(self.slowest, called.took)
            return called.result
        raise AssertionError("unreachable")


class _Odd(Exception):
    """An answer of another shape than the protocol has."""


def look_at_chains(chains: Mapping[str, tuple[ChainComponent, str]]) -> tuple[ChainSeen, ...]:
    """Probe every endpoint of these chains, each given with the endpoint in use, and judge them; raises nothing.

    One in use that the plan does not list is probed as well.
    """
    return asyncio.run(_look_at_all(chains))


def reached_at(endpoint: Endpoint) -> str:
    """Give the address by which this machine reaches an endpoint."""
    return endpoint.from_host or endpoint.url


def address_of(chain: ChainComponent, url: str) -> str:
    """Give the address by which this machine reaches what the services are told as ``url``."""
    return next((reached_at(one) for one in chain.endpoints if same_place(one.url) == same_place(url)), url)


class _Resolving(ThreadPoolExecutor):
    """Threads in which names are resolved, one for each; whoever has lost patience does not wait for them."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


async def _look_at_all(chains: Mapping[str, tuple[ChainComponent, str]]) -> tuple[ChainSeen, ...]:
    # A name server that is silent would hold up the sound ones, and the end of all.
    asyncio.get_running_loop().set_default_executor(_Resolving(max_workers=_MOST_NAMES))
    async with connection() as client:
        return tuple(await asyncio.gather(*(_chain(client, name, *one) for name, one in chains.items())))


async def _chain(client: httpx.AsyncClient, name: str, chain: ChainComponent, in_use: str) -> ChainSeen:
    endpoints = list(chain.endpoints)
    # What stands in a file may be no text at all.
    in_use = in_use.encode(errors="replace").decode()
    known = [same_place(one.url) for one in endpoints]
    if (place := same_place(in_use)) in known:
        # Written in another way it would be two who agree.
        one = endpoints[known.index(place)]
        endpoints[known.index(place)] = one.model_copy(update={"url": in_use, "from_host": reached_at(one)})
    elif in_use:
        # Whatever somebody has written into the environment file; asking it tells what is wrong with it.
        endpoints.append(Endpoint.model_construct(url=in_use))
    began = time.monotonic()
    looks = await asyncio.gather(*(_first(client, chain, one) for one in endpoints))
    at = now()
    # Some time has to pass, or no height could have moved.
    await asyncio.sleep(max(APART.total_seconds() - (time.monotonic() - began), 0))
    height = common_height(chain, looks, at)
    looks = await asyncio.gather(*(_second(client, chain, one, height) for one in looks))
    return ChainSeen(chain=name, in_use=in_use, at=at, endpoints=judge(chain, looks, at))


async def _first(client: httpx.AsyncClient, chain: ChainComponent, endpoint: Endpoint) -> Look:
    asked = _asking(client, chain, endpoint)
    look = Look(endpoint)
    try:
        look = await (_first_n3 if chain.protocol == "neo-n3" else _first_evm)(asked, look)
    except (RpcError, _Odd) as error:
        look = replace(look, wrong=error.said if isinstance(error, RpcError) else str(error))
    return _counted(look, asked)


async def _first_n3(asked: _Asked, look: Look) -> Look:
    version, genesis, count, best = await _all(
        asked.ask("getversion"),
        asked.ask("getblockheader", 0, True),
        asked.ask("getblockcount"),
        asked.ask("getbestblockhash"),
    )
    best = _need(text(best, 32), "getbestblockhash", best)
    blocks = _need(number(count) if not isinstance(count, str) else None, "getblockcount", count)
    header = await asked.ask("getblockheader", best, True)
    head = _head(header, "getblockheader", member(header, "index"), member(header, "time"), 1000)
    # One or two blocks may have come between the two questions.
    if not -2 <= head.height - (blocks - 1) <= 2:
        raise _Odd(f"contradicts itself: {blocks} blocks, and the best one has the index {head.height}")
    network = member(version, "protocol", "network")
    block_0 = member(genesis, "hash")
    return replace(
        look,
        network=_need(number(network) if not isinstance(network, str) else None, "getversion", network),
        genesis=_need(text(block_0, 32), "getblockheader 0", block_0),
        head=head,
    )


async def _first_evm(asked: _Asked, look: Look) -> Look:
    identity, genesis, block, syncing = await _all(
        asked.ask("eth_chainId"),
        asked.ask("eth_getBlockByNumber", "0x0", False),
        asked.ask("eth_getBlockByNumber", "latest", False),
        asked.ask("eth_syncing"),
    )
    block_0 = member(genesis, "hash")
    height = member(block, "number")
    if not isinstance(height, str):
        raise _Odd(_rubbish("eth_getBlockByNumber", height))
    return replace(
        look,
        network=_need(number(identity) if isinstance(identity, str) else None, "eth_chainId", identity),
        genesis=_need(text(block_0, 32), "eth_getBlockByNumber 0x0", block_0),
        head=_head(block, "eth_getBlockByNumber", height, member(block, "timestamp"), 1),
        behind=_missing(syncing),
    )


async def _second(client: httpx.AsyncClient, chain: ChainComponent, look: Look, height: int | None) -> Look:
    """Look again at one that told its head in time: whether it has moved, and what its block at ``height`` is."""
    if look.head is None or look.latency > chain.max_latency:
        return look
    asked = _asking(client, chain, look.endpoint)
    # One that is not there yet has nothing to be compared; that it is behind is told anyway.
    height = height if height is not None and height <= look.head.height else None
    try:
        later, common = await (_second_n3 if chain.protocol == "neo-n3" else _second_evm)(asked, height)
        look = replace(look, later=later, common=common)
    except (RpcError, _Odd) as error:
        look = replace(look, wrong=error.said if isinstance(error, RpcError) else str(error))
    return _counted(look, asked)


async def _second_n3(asked: _Asked, height: int | None) -> tuple[int, Head | None]:
    method = "getblockheader"
    count, header = await _all(asked.ask("getblockcount"), _at(asked, height, method, height, True))
    blocks = _need(number(count) if not isinstance(count, str) else None, "getblockcount", count)
    if header is None:
        return blocks - 1, None
    return blocks - 1, _common(_head(header, method, member(header, "index"), member(header, "time"), 1000), height)


async def _second_evm(asked: _Asked, height: int | None) -> tuple[int, Head | None]:
    method = "eth_getBlockByNumber"
    newest, block = await _all(asked.ask("eth_blockNumber"), _at(asked, height, method, hex(height or 0), False))
    later = _need(number(newest) if isinstance(newest, str) else None, "eth_blockNumber", newest)
    if block is None:
        return later, None
    return later, _common(_head(block, method, member(block, "number"), member(block, "timestamp"), 1), height)


async def _at(asked: _Asked, height: int | None, method: str, *params: Json) -> Json:
    return await asked.ask(method, *params) if height is not None else None


def _common(block: Head, height: int | None) -> Head:
    if block.height != height:
        raise _Odd(f"contradicts itself: asked for block {height}, it gives block {block.height}")
    return block


def _asking(client: httpx.AsyncClient, chain: ChainComponent, endpoint: Endpoint) -> _Asked:
    until = time.monotonic() + (chain.max_latency + SLOWER).total_seconds()
    return _Asked(client, reached_at(endpoint), until)


async def _all(*questions: Awaitable[Json | str]) -> list[Json]:
    """Give all answers; raises the first error when every question has its answer."""
    answers = await asyncio.gather(*questions, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if not isinstance(answer, BaseException)]


def _missing(syncing: Json) -> int:
    if syncing is False:
        return 0
    current, highest = number(member(syncing, "currentBlock")), number(member(syncing, "highestBlock"))
    if current is None or highest is None:
        raise _Odd(_rubbish("eth_syncing", syncing))
    return max(highest - current, 0)


def _head(block: Json, method: str, height: Json, at: Json, per_second: int) -> Head:
    index, ticks, digest = number(height), number(at), text(member(block, "hash"), 32)
    if index is None or ticks is None or digest is None or ticks / per_second > _YEAR_3000:
        raise _Odd(_rubbish(method, block if digest is None else (height if index is None else at)))
    return Head(index, digest, datetime.fromtimestamp(ticks / per_second, UTC))


def _need(value: V | None, method: str, seen: Json) -> V:
    if value is None:
        raise _Odd(_rubbish(method, seen))
    return value


def _rubbish(method: str, seen: Json) -> str:
    return f"answers {method} with rubbish: {' '.join(repr(seen).split())[:80]}"


def _counted(look: Look, asked: _Asked) -> Look:
    return replace(
        look,
        calls=look.calls + asked.calls,
        failed=look.failed + asked.failed,
        latency=max(look.latency, asked.slowest),
        trouble=(*look.trouble, *asked.trouble),
    )
