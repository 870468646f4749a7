"""The sandbox's stand-ins for nodes: one history on every node of a network, and answers of the real shape."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest

from tasks.rpc import Json, RpcError, ask, member, number
from tests.stand_in import stand_in

SOON = timedelta(seconds=10)
GENESIS = "0x1f4d1defa46faa5e7b9b8d3f79a06bec777d7c26c4aa5f6f5899a291daa87c15"
MAGIC, CHAIN_ID = 860833102, 47763
N3, X = ("/n3/1", "/n3/2"), ("/x/1", "/x/2")


@pytest.fixture(scope="module")
def backups() -> Iterator[str]:
    with stand_in("rpc-backups") as url:
        yield url


def told(url: str, method: str, *params: Json) -> Json:
    return ask(url, method, *params, deadline=SOON)


def n3_height(url: str) -> int:
    count = told(url, "getblockcount")
    assert isinstance(count, int)
    return count - 1


def x_block(url: str, height: int | None) -> dict[str, Json]:
    block = told(url, "eth_getBlockByNumber", "latest" if height is None else hex(height), False)
    assert isinstance(block, dict)
    return block


def test_nodes_of_a_network_have_one_history(backups: str) -> None:
    with stand_in("rpc-n3") as n3, stand_in("rpc-x") as x:
        height = n3_height(n3) - 3
        nodes = [n3, *(backups + path for path in N3)]
        assert len({str(told(one, "getblockhash", height)) for one in nodes}) == 1
        assert {told(one, "getblockhash", 0) for one in nodes} == {GENESIS}
        assert {member(told(one, "getversion"), "protocol", "network") for one in nodes} == {MAGIC}
        nodes = [x, *(backups + path for path in X)]
        height = (number(told(x, "eth_blockNumber")) or 0) - 3
        assert len({str(x_block(one, height)["hash"]) for one in nodes}) == 1
        assert {number(told(one, "eth_chainId")) for one in nodes} == {CHAIN_ID}
        assert told(x, "net_version") == str(CHAIN_ID)
        assert told(x, "eth_syncing") is False


def test_an_n3_header_fits_its_neighbours_and_the_clock(backups: str) -> None:
    url = backups + N3[0]
    best = told(url, "getbestblockhash")
    header = told(url, "getblockheader", best, True)
    height = member(header, "index")
    assert isinstance(height, int)
    by_height = told(url, "getblockheader", height, 1)
    assert member(header, "hash") == member(by_height, "hash") == best == told(url, "getblockhash", height)
    assert member(header, "previousblockhash") == told(url, "getblockhash", height - 1)
    assert member(told(url, "getblockheader", height - 1, True), "nextblockhash") == best
    made = member(header, "time")
    assert isinstance(made, int)
    assert abs(time.time() - made / 1000) < SOON.total_seconds()
    raw = told(url, "getblockheader", height)
    assert isinstance(raw, str)
    assert len(base64.b64decode(raw)) == member(header, "size")
    assert raw == told(url, "getblockheader", best, False)


def test_an_x_block_fits_its_parent_and_the_clock(backups: str) -> None:
    url = backups + X[0]
    head = x_block(url, None)
    height, made = number(head["number"]), number(head["timestamp"])
    assert height
    assert made
    assert abs(time.time() - made) < SOON.total_seconds()
    parent = x_block(url, height - 1)
    assert head["parentHash"] == parent["hash"]
    assert number(parent["timestamp"]) == made - 1
    assert told(url, "eth_getBlockByNumber", hex(height + 1000), False) is None


def test_a_node_that_is_behind_stands_still_with_an_old_head() -> None:
    with stand_in("rpc-x", NODE_LAG=500) as lagging, stand_in("rpc-n3", NODE_LAG=500) as n3:
        head = x_block(lagging, None)
        made = number(head["timestamp"])
        assert made
        assert time.time() - made >= 499
        height = n3_height(n3)
        time.sleep(1.2)
        assert x_block(lagging, None) == head
        assert n3_height(n3) == height
        with stand_in("rpc-x") as well:
            assert x_block(well, number(head["number"])) == head


def test_a_forked_node_shares_only_what_came_before(backups: str) -> None:
    with stand_in("rpc-x", NODE_FORK=20) as x, stand_in("rpc-n3", NODE_FORK=20) as n3:
        height = number(told(x, "eth_blockNumber"))
        assert height
        assert x_block(x, height - 40) == x_block(backups + X[0], height - 40)
        assert x_block(x, height - 5)["hash"] != x_block(backups + X[0], height - 5)["hash"]
        height = n3_height(n3)
        before, after = height - 40, height - 5
        assert told(n3, "getblockhash", before) == told(backups + N3[0], "getblockhash", before)
        assert told(n3, "getblockhash", after) != told(backups + N3[0], "getblockhash", after)


def test_a_node_of_another_network_says_so_and_has_another_genesis() -> None:
    with stand_in("rpc-n3", NODE_NETWORK=894710606) as n3, stand_in("rpc-x", NODE_NETWORK=12227332) as x:
        assert member(told(n3, "getversion"), "protocol", "network") == 894710606
        assert told(n3, "getblockhash", 0) != GENESIS
        assert number(told(x, "eth_chainId")) == 12227332


@pytest.mark.parametrize(
    ("path", "method", "params", "code", "message"),
    [
        ("/n3/1", "getblockhash", [4294967295], -109, "Unknown height"),
        ("/n3/1", "getblockhash", ["-5"], -32602, "Invalid params - Invalid uint32 value: -5"),
        ("/n3/1", "getblockheader", ["0x" + "12" * 32, 1], -101, "Unknown block"),
        ("/n3/1", "getcontractstate", ["0x" + "12" * 20], -102, "Unknown contract"),
        ("/n3/1", "getcontractstate", ["token"], -32602, "Invalid params - Invalid UInt160 value: token"),
        ("/n3/1", "eth_chainId", [], -32601, "Method not found - eth_chainId"),
        ("/x/1", "getversion", [], -32601, "the method getversion does not exist/is not available"),
        ("/x/1", "eth_getBlockByNumber", ["latest"], -32602, "missing value for required argument 1"),
        ("/x/1", "eth_getCode", ["0x12", "latest"], -32602, "invalid argument 0: hex string has length 2, want 40"),
    ],
)
def test_errors_are_those_of_real_nodes(
    backups: str, path: str, method: str, params: list[Json], code: int, message: str
) -> None:
    with pytest.raises(RpcError) as caught:
        told(backups + path, method, *params)
    assert caught.value.code == code
    assert message in str(caught.value)


def test_the_metrics_tell_heights_and_calls(backups: str) -> None:
    with pytest.raises(RpcError):
        told(backups + N3[0], "getcontractstate", "0x" + "12" * 20)
    said = httpx.get(f"{backups}/metrics", timeout=5, trust_env=False).text
    assert 'neo_chain_height{chain="neo-n3"}' in said
    assert 'neo_chain_height{chain="neo-x"}' in said
    assert 'neo_contract_calls_total{chain="neo-x",outcome="ok"} 0' in said
    assert 'neo_contract_calls_total{chain="neo-n3",outcome="error"} 0' not in said
