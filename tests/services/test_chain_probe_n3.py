"""Probing the sandbox's stand-ins for nodes of Neo N3, ill ones among sound ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.rpc import Json
from tests.chain_looks import GENESIS, MAGIC, each_has_its_reason, healthy, looked, lying_ways, n3, said
from tests.rpc_proxy import Way, way_to
from tests.stand_in import stand_in


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


def test_n3_nodes_are_healthy(n3_way: Way, n3_backups: list[str]) -> None:
    found = looked(n3(n3_way.url, *n3_backups))
    assert healthy(found) == [True] * 3, found.endpoints
    assert set(n3_way.asked) == {"getversion", "getblockcount", "getbestblockhash", "getblockheader"}


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
        # In the environment file it may be written otherwise than in the plan: that makes no second voice of it.
        found = looked(n3(fork, n3_backups[0]), in_use=f"{fork}/")
        assert [one.url for one in found.endpoints] == [f"{fork}/", n3_backups[0]]
        assert healthy(found) == [False, False]
        assert healthy(looked(n3(later, n3_backups[0]))) == [False, True]


def test_an_n3_node_with_another_block_0_is_told_without_a_pin_too(n3_way: Way, n3_backups: list[str]) -> None:
    n3_way.change = lambda method, result: (
        result | {"hash": "0x" + "12" * 32} if isinstance(result, dict) and result.get("index") == 0 else result
    )
    assert "has another block 0" in said(looked(n3(n3_way.url, *n3_backups)).endpoints[0])
    found = looked(n3(n3_way.url, *n3_backups, genesis=None))
    assert healthy(found) == [False, True, True]
    assert "block 0 is 0x12121212…" in said(found.endpoints[0])
