"""Probing real EVM nodes and the sandbox's stand-ins, by ways that are made bad: a verdict on each, and why."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from recoup.chains import ChainSeen, EndpointSeen
from recoup.plan import ChainComponent, Endpoint
from recoup.plan_chain import Protocol
from tasks.chain import look_at_chains
from tasks.rpc import Json
from tests.anvil import CHAIN_ID, EvmNode, evm_node
from tests.rpc_proxy import Fault, Way, changed, way_to
from tests.stand_in import stand_in

MAGIC = 860833102
GENESIS = "0x1f4d1defa46faa5e7b9b8d3f79a06bec777d7c26c4aa5f6f5899a291daa87c15"
SECOND = timedelta(seconds=1)
# A look ends by itself; on a machine with much else to do it may take this long.
BOUND = 30 * SECOND
NESTED: Json = None
for _ in range(900):
    NESTED = [NESTED]


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


@pytest.fixture(scope="module")
def nodes(anvil: Path) -> Iterator[tuple[EvmNode, EvmNode]]:
    """Give two nodes of one history, whose heads are of now and older by and by."""
    with evm_node(anvil, blocks=20) as one, evm_node(anvil) as two:
        two.follow(one)
        yield one, two


@pytest.fixture(scope="module")
def evm_ways(nodes: tuple[EvmNode, EvmNode]) -> Iterator[tuple[Way, Way]]:
    with way_to(nodes[0].url) as one, way_to(nodes[1].url) as two:
        yield one, two


@pytest.fixture
def way(evm_ways: tuple[Way, Way]) -> Way:
    """Give a way to the first node that is a good one again; the second node is asked directly."""
    return restored(evm_ways[0])


@pytest.fixture
def good(nodes: tuple[EvmNode, EvmNode]) -> str:
    return nodes[1].url


@pytest.fixture(scope="module")
def n3_node() -> Iterator[str]:
    with stand_in("rpc-n3") as url:
        yield url


@pytest.fixture(scope="module")
def n3_backups() -> Iterator[list[str]]:
    with stand_in("rpc-backups") as url:
        yield [f"{url}/n3/1", f"{url}/n3/2"]


@pytest.fixture
def n3_way(n3_node: str) -> Iterator[Way]:
    with way_to(n3_node) as way:
        yield way


def restored(way: Way) -> Way:
    way.fault, way.delay, way.error, way.change = Fault.NONE, 0, None, lambda method, result: result
    way.asked.clear()
    return way


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


# Sound ones.


def test_sound_nodes_are_healthy_and_shown_with_what_they_said(way: Way, good: str, nodes: tuple[EvmNode, ...]) -> None:
    genesis = nodes[0].hash_at(0)
    found = looked(chain(way.url, good, genesis=genesis), in_use=good)
    assert found.well
    assert [str(one) for one in found.endpoints] == [f"{way.url}: healthy", f"{good}: healthy"]
    for one in found.endpoints:
        assert (one.height, one.moved, one.calls, one.failed) == (20, 0, 6, 0)
        assert one.age
        assert one.latency
    assert set(way.asked) == {"eth_chainId", "eth_getBlockByNumber", "eth_syncing", "eth_blockNumber"}


def test_a_height_that_rises_is_seen_rising(anvil: Path) -> None:
    with evm_node(anvil, blocks=5, mine_every=1) as node:
        # Between the two questions of one look there may be no block.
        found = next(one for _ in range(20) if (one := looked(chain(node.url)).endpoints[0]).moved)
    assert found.healthy


def test_n3_nodes_are_healthy(n3_way: Way, n3_backups: list[str]) -> None:
    found = looked(n3(n3_way.url, *n3_backups))
    assert healthy(found) == [True] * 3, found.endpoints
    assert set(n3_way.asked) == {"getversion", "getblockcount", "getbestblockhash", "getblockheader"}


# The way is bad.

FAULTS = [
    (Fault.CUT, "connection cut off"),
    (Fault.CUT_HALF_WAY, "connection cut off"),
    (Fault.DEAF, "no answer to eth_chainId within"),
    (Fault.DRIP, "no answer to eth_chainId within"),
    (Fault.TOO_MANY, "eth_chainId is answered with status 429: too many requests"),
    (Fault.LIMITED, "eth_chainId is answered with error -32005: limit exceeded"),
    (Fault.HTML, "eth_chainId is answered with status 200 and no JSON: <!DOCTYPE html>"),
    (Fault.NOT_JSON, "eth_chainId is answered with status 200 and no JSON"),
    (Fault.TWICE, "eth_chainId is answered with an object that has 'result' twice"),
    (Fault.GIANT, "eth_chainId is answered with more than 4194304 bytes"),
    (Fault.WRONG_ID, "eth_chainId is answered with what is no answer of JSON-RPC"),
]


def test_each_fault_has_its_reason_and_costs_the_good_node_nothing(
    nodes: tuple[EvmNode, EvmNode], good: str, n3_node: str, n3_backups: list[str]
) -> None:
    with ExitStack() as stack:
        ways = [stack.enter_context(way_to(url)) for url in (nodes[0].url, n3_node) for _ in FAULTS]
        for way, (fault, _) in zip(ways, [*FAULTS, *FAULTS], strict=True):
            way.fault = fault
        urls = [way.url for way in ways]
        chains = {
            "evm": (chain(*urls[: len(FAULTS)], good), ""),
            "n3": (n3(*urls[len(FAULTS) :], *n3_backups), ""),
        }
        evm, neo = look_at_chains(chains)
    for one, (fault, reason) in zip(evm.endpoints[:-1], FAULTS, strict=True):
        assert reason in said(one), (fault, one)
    for one, (fault, reason) in zip(neo.endpoints[:-2], FAULTS, strict=True):
        assert reason.replace("eth_chainId", "getversion") in said(one), (fault, one)
    assert evm.endpoints[-1].healthy, evm.endpoints[-1]
    assert all(one.healthy for one in neo.endpoints[-2:]), neo.endpoints[-2:]


def test_a_slow_node_is_told_as_slow_and_not_as_silent(way: Way, good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine, too, it has to be seen that there is an answer.
    monkeypatch.setattr("tasks.chain.SLOWER", 10 * SECOND)
    way.delay = 2.1
    found = looked(chain(way.url, good, latency=2 * SECOND))
    assert healthy(found) == [False, True]
    assert said(found.endpoints[0]).startswith("took ")
    assert said(found.endpoints[0]).endswith("for an answer, and may take 2 s")


def test_a_node_as_slow_as_the_plan_allows_is_healthy(way: Way, good: str) -> None:
    way.delay = 1.3
    found = looked(chain(way.url, good))
    assert healthy(found) == [True, True], found.endpoints


def test_an_endpoint_that_cannot_be_asked_at_all_is_told(good: str) -> None:
    told = {
        "http://127.0.0.1:1": "connection refused",
        "http://127.0.0.1:99999": "there is no port 99999",
        "http://[::1": "unreachable",
        "http://xn--a": "unreachable",
        "https" + good.removeprefix("http"): "TLS",
    }
    found = looked(chain(*told, good))
    assert healthy(found) == [False] * len(told) + [True]
    for one in found.endpoints[:-1]:
        assert told[one.url] in said(one), one


def test_names_that_no_server_resolves_hold_up_neither_the_look_nor_the_others(
    good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, over = socket.getaddrinfo, threading.Event()

    def hanging(host: bytes | str, *rest: Any, **more: Any) -> Any:
        if b"hangs" in (host.encode() if isinstance(host, str) else host):
            over.wait()
        return resolve(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    timer = threading.Timer(BOUND.total_seconds(), over.set)
    timer.start()
    try:
        # More of them than asyncio has threads to resolve names by itself.
        hung = [f"http://hangs-{n}.example" for n in range(40)]
        found = looked(chain(*hung, good.replace("127.0.0.1", "localhost"), latency=2 * SECOND))
        assert not over.is_set()
    finally:
        over.set()
        timer.cancel()
    assert healthy(found) == [False] * len(hung) + [True], found.endpoints[-1]
    assert all("no answer to" in said(one) for one in found.endpoints[:-1])


@pytest.mark.parametrize("in_use", ["garbage", "\udcff", "http://", "two words"])
def test_whatever_stands_in_the_environment_file_is_told(good: str, in_use: str) -> None:
    found = looked(chain(good), in_use=in_use)
    assert not found.well
    assert found.current is not None
    assert said(found.current).startswith("unreachable")
    assert found.endpoints[0].healthy


def test_twenty_endpoints_of_which_half_are_silent(nodes: tuple[EvmNode, EvmNode]) -> None:
    with ExitStack() as stack:
        ways = [stack.enter_context(way_to(nodes[n % 2].url)) for n in range(20)]
        for way in ways[::2]:
            way.fault = Fault.DEAF
        began = time.monotonic()
        found = looked(chain(*(way.url for way in ways), latency=3 * SECOND))
        print(f"20 endpoints, 10 of them silent, max_latency 3 s: {time.monotonic() - began:.2f} s")
    assert healthy(found) == [False, True] * 10
    assert all("no answer to" in said(one) for one in found.endpoints[::2])


# The node is bad.


EVM_LIES: list[tuple[str, Json, str]] = [
    ("eth_chainId", hex(12227332), "is on network 12227332, not 47763"),
    ("eth_chainId", CHAIN_ID, "answers eth_chainId with rubbish: 47763"),
    ("eth_chainId", "47763", "answers eth_chainId with rubbish: '47763'"),
    ("eth_chainId", None, "answers eth_chainId with rubbish: None"),
    ("eth_chainId", NESTED, "answers eth_chainId with rubbish: [[["),
    ("eth_getBlockByNumber", None, "answers eth_getBlockByNumber with rubbish"),
    ("eth_getBlockByNumber", {"number": "20", "hash": GENESIS, "timestamp": "0x1"}, "with rubbish: '20'"),
    ("eth_getBlockByNumber", {"number": "-0x14", "hash": GENESIS, "timestamp": "0x1"}, "with rubbish: '-0x14'"),
    ("eth_getBlockByNumber", {"number": -20, "hash": GENESIS, "timestamp": "0x1"}, "with rubbish: -20"),
    ("eth_getBlockByNumber", {"number": "0x14", "hash": "0x1", "timestamp": "0x1"}, "with rubbish: '0x1'"),
    ("eth_getBlockByNumber", {"number": "0x14", "hash": GENESIS, "timestamp": "0x" + "f" * 64}, "with rubbish"),
    ("eth_getBlockByNumber", {"number": "0x14", "hash": GENESIS, "timestamp": 10**400}, "with rubbish"),
    ("eth_blockNumber", "0x13", "went back from block 20 to 19"),
    ("eth_blockNumber", "20", "answers eth_blockNumber with rubbish: '20'"),
    ("eth_blockNumber", -20, "answers eth_blockNumber with rubbish: -20"),
    ("eth_syncing", {"currentBlock": "0x1", "highestBlock": "0x20"}, "says itself that it lacks 31 blocks"),
    ("eth_syncing", True, "answers eth_syncing with rubbish: True"),
]


def test_evm_nodes_that_say_something_wrong(nodes: tuple[EvmNode, EvmNode], good: str) -> None:
    with lying_ways(nodes[0].url, EVM_LIES) as urls:
        found = looked(chain(*urls, good, nodes[0].url))
    each_has_its_reason(found, EVM_LIES)


@pytest.mark.parametrize("ahead", [4000, 2**255])
def test_of_two_nodes_a_liar_about_its_height_is_not_trusted(way: Way, good: str, ahead: int) -> None:
    def lying(method: str, result: Json) -> Json:
        if method == "eth_blockNumber":
            return hex(20 + ahead)
        if isinstance(result, dict) and result["number"] == "0x14":
            return result | {"number": hex(20 + ahead)}
        return result

    way.change = lying
    found = looked(chain(way.url, good))
    assert not found.endpoints[0].healthy
    assert "contradicts others, and nothing tells who is right" in said(found.endpoints[0])
    three = looked(chain(way.url, good, good.replace("127.0.0.1", "localhost")))
    assert healthy(three) == [False, True, True], three.endpoints


def test_a_stopped_miner_has_an_old_head(anvil: Path, nodes: tuple[EvmNode, EvmNode], good: str) -> None:
    with way_to(nodes[0].url) as stopped:
        stopped.change = lambda method, result: (
            result | {"timestamp": hex(int(time.time()) - 7200)}
            if isinstance(result, dict) and method == "eth_getBlockByNumber"
            else result
        )
        found = looked(chain(stopped.url, good))
    assert healthy(found) == [False, True]
    assert "its newest block 20 is 2 h" in said(found.endpoints[0])
    assert "and it does not move" in said(found.endpoints[0])


def test_forked_nodes_are_out_where_a_majority_says_so(anvil: Path) -> None:
    with ExitStack() as stack:
        one, two, fork = (stack.enter_context(evm_node(anvil, blocks=n)) for n in (20, 0, 0))
        two.follow(one)
        fork.follow(one)
        one.mine(4)
        two.follow(one)
        fork.mine(4, apart=2 * SECOND)
        assert one.hash_at(20) == fork.hash_at(20)
        assert (one.hash_at(24), fork.height) == (two.hash_at(24), 24)
        found = looked(chain(one.url, fork.url, two.url))
        assert healthy(found) == [True, False, True], found.endpoints
        assert "is on another fork" in said(found.endpoints[1])
        alone = looked(chain(one.url, fork.url))
        assert healthy(alone) == [False, False]
        assert all("nothing tells who is right" in said(node) for node in alone.endpoints)


def test_a_node_that_lags_and_is_not_old_is_behind_the_others(anvil: Path) -> None:
    with evm_node(anvil, blocks=20) as late, evm_node(anvil) as one:
        one.follow(late)
        one.mine(10)
        found = looked(chain(late.url, one.url))
        assert healthy(found) == [False, True], found.endpoints
        assert said(found.endpoints[0]) == "is 10 blocks behind the others (20, and they are at 30)"


def test_a_node_of_another_network_with_the_same_id_is_told_by_its_genesis(
    anvil: Path, nodes: tuple[EvmNode, EvmNode]
) -> None:
    # Another history from the first block on; it tells the id that the plan wants.
    with evm_node(anvil, blocks=25) as other:
        pinned = looked(chain(nodes[0].url, other.url, genesis=nodes[0].hash_at(0)))
        assert healthy(pinned) == [True, False]
        assert "has another block 0" in said(pinned.endpoints[1])
        voted = looked(chain(nodes[0].url, other.url, nodes[1].url))
        assert healthy(voted) == [True, False, True], voted.endpoints
        assert "block 0 is" in said(voted.endpoints[1])


# Neo N3.


def test_an_n3_node_that_answers_with_an_error(n3_way: Way, n3_backups: list[str]) -> None:
    n3_way.error = {"code": -401, "message": "Access denied", "data": "\ud800\u001b[2J"}
    found = looked(n3(n3_way.url, *n3_backups))
    assert healthy(found) == [False, True, True]
    assert said(found.endpoints[0]) == "getversion is answered with error -401: Access denied"
    n3_way.error = {"code": "\ud800", "message": "\u001b[2J\ud800 two\nlines"}
    assert "two lines" in said(looked(n3(n3_way.url)).endpoints[0])


N3_LIES: list[tuple[str, Json, str]] = [
    ("getversion", {}, "answers getversion with rubbish: None"),
    ("getversion", {"protocol": {"network": str(MAGIC)}}, "answers getversion with rubbish: '860833102'"),
    ("getblockcount", "6900000", "answers getblockcount with rubbish: '6900000'"),
    ("getblockcount", "0x694920", "answers getblockcount with rubbish: '0x694920'"),
    ("getblockcount", -5, "answers getblockcount with rubbish: -5"),
    ("getblockcount", 10**400, "answers getblockcount with rubbish: 1000"),
    ("getblockcount", 5, "contradicts itself: 5 blocks, and the best one has the index"),
    ("getbestblockhash", "rubbish", "answers getbestblockhash with rubbish: 'rubbish'"),
    ("getblockheader", {"index": 1, "hash": GENESIS, "time": 10**400}, "answers getblockheader with rubbish: 1000"),
    ("getblockheader", "AAAA", "answers getblockheader with rubbish: 'AAAA'"),
]


def test_n3_nodes_that_say_something_wrong(n3_node: str, n3_backups: list[str]) -> None:
    with lying_ways(n3_node, N3_LIES) as urls:
        found = looked(n3(*urls, *n3_backups))
    each_has_its_reason(found, N3_LIES)


def test_ill_n3_nodes_among_sound_ones(n3_backups: list[str]) -> None:
    with (
        stand_in("rpc-n3", NODE_NETWORK=894710606) as other,
        stand_in("rpc-n3", NODE_LAG=500) as late,
        stand_in("rpc-n3", NODE_LAG=30) as later,
        stand_in("rpc-n3", NODE_FORK=20) as fork,
    ):
        found = looked(n3(other, late, later, fork, *n3_backups))
        assert healthy(found) == [False] * 4 + [True] * 2, found.endpoints
        reasons = [said(one) for one in found.endpoints]
        assert "is on network 894710606, not 860833102" in reasons[0]
        assert "has another block 0" in reasons[0]
        assert "old, and it does not move" in reasons[1]
        assert "blocks behind the others" in reasons[1]
        assert "blocks behind the others" in reasons[2]
        assert "old" not in reasons[2]
        assert "is on another fork" in reasons[3]
        assert healthy(looked(n3(fork, n3_backups[0]))) == [False, False]
        assert healthy(looked(n3(later, n3_backups[0]))) == [False, True]


def test_an_n3_node_with_another_block_0_is_told_without_a_pin_too(n3_way: Way, n3_backups: list[str]) -> None:
    n3_way.change = lambda method, result: (
        result | {"hash": "0x" + "12" * 32} if isinstance(result, dict) and result.get("index") == 0 else result
    )
    assert "has another block 0" in said(looked(n3(n3_way.url, *n3_backups)).endpoints[0])
    found = looked(n3(n3_way.url, *n3_backups, genesis=None))
    assert healthy(found) == [False, True, True]
    assert "block 0 is 0x12121212…" in said(found.endpoints[0])
