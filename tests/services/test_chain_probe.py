"""Probing real EVM nodes and the sandbox's stand-ins, by ways that are made bad: a verdict on each, and why."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tasks.chain import look_at_chains
from tasks.rpc import Json
from tests.anvil import CHAIN_ID, EvmNode, evm_node
from tests.chain_looks import BOUND, GENESIS, SECOND, chain, each_has_its_reason, healthy, looked, lying_ways, n3, said
from tests.rpc_proxy import Fault, Way, way_to
from tests.stand_in import stand_in

NESTED: Json = None
for _ in range(900):
    NESTED = [NESTED]


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


def restored(way: Way) -> Way:
    way.fault, way.delay, way.error, way.change = Fault.NONE, 0, None, lambda method, result: result
    way.asked.clear()
    return way


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


def test_each_fault_has_its_reason_and_costs_the_good_node_nothing(nodes: tuple[EvmNode, EvmNode], good: str) -> None:
    with ExitStack() as stack:
        n3_node, backups = stack.enter_context(stand_in("rpc-n3")), stack.enter_context(stand_in("rpc-backups"))
        ways = [stack.enter_context(way_to(url)) for url in (nodes[0].url, n3_node) for _ in FAULTS]
        for way, (fault, _) in zip(ways, [*FAULTS, *FAULTS], strict=True):
            way.fault = fault
        urls = [way.url for way in ways]
        chains = {
            "evm": (chain(*urls[: len(FAULTS)], good), ""),
            "n3": (n3(*urls[len(FAULTS) :], f"{backups}/n3/1", f"{backups}/n3/2"), ""),
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
        found = looked(chain(*hung, good.replace("127.0.0.1", "localhost"), latency=5 * SECOND))
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
    ("eth_blockNumber", "0x1", "went back from block 20 to 1"),
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
