"""Asking a real EVM node, by a way that is made bad: bounded time, and a reason for each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.rpc import RpcError, Trouble, ask, number
from tests.anvil import CHAIN_ID, EvmNode, evm_node
from tests.rpc_proxy import Fault, Way, way_to

HURRIED = timedelta(seconds=1)
PATIENT = timedelta(seconds=20)


@pytest.fixture(scope="module")
def node(anvil: Path) -> Iterator[EvmNode]:
    with evm_node(anvil, blocks=20) as node:
        yield node


@pytest.fixture
def way(node: EvmNode) -> Iterator[Way]:
    with way_to(node.url) as way:
        yield way


def test_a_good_way_changes_nothing(way: Way, node: EvmNode) -> None:
    block = ask(way.url, "eth_getBlockByNumber", "0x14", False, deadline=PATIENT)
    assert isinstance(block, dict)
    assert block == node.ask("eth_getBlockByNumber", "0x14", False)
    assert number(block["number"]) == 20
    assert number(ask(way.url, "eth_chainId", deadline=PATIENT)) == CHAIN_ID
    assert way.asked == ["eth_getBlockByNumber", "eth_chainId"]


@pytest.mark.parametrize(
    ("fault", "trouble", "said"),
    [
        (Fault.CUT, Trouble.UNREACHABLE, ""),
        (Fault.CUT_HALF_WAY, Trouble.UNREACHABLE, ""),
        (Fault.DEAF, Trouble.SILENT, "no answer to eth_chainId within 1.0 s"),
        (Fault.DRIP, Trouble.SILENT, "no answer to eth_chainId within 1.0 s"),
        (Fault.TOO_MANY, Trouble.RATE_LIMITED, "status 429"),
        (Fault.LIMITED, Trouble.RATE_LIMITED, "error -32005: limit exceeded"),
        (Fault.HTML, Trouble.NOT_JSON, "status 200 and no JSON: <!DOCTYPE html>"),
        (Fault.NOT_JSON, Trouble.NOT_JSON, "no JSON"),
        (Fault.TWICE, Trouble.NOT_JSON, "'result' twice"),
        (Fault.GIANT, Trouble.TOO_LARGE, "more than 4194304 bytes"),
        (Fault.WRONG_ID, Trouble.NOT_RPC, "no answer of JSON-RPC"),
    ],
)
def test_each_fault_of_the_way_has_its_name(way: Way, fault: Fault, trouble: Trouble, said: str) -> None:
    way.fault = fault
    waits = trouble is Trouble.SILENT
    with pytest.raises(RpcError) as caught:
        ask(way.url, "eth_chainId", deadline=HURRIED if waits else PATIENT)
    assert caught.value.trouble is trouble, caught.value
    assert said in str(caught.value)
    way.fault = Fault.NONE
    assert number(ask(way.url, "eth_chainId", deadline=PATIENT)) == CHAIN_ID


def test_a_slow_node_is_silent_to_the_hurried_alone(way: Way) -> None:
    way.delay = 1.5
    with pytest.raises(RpcError) as caught:
        ask(way.url, "eth_chainId", deadline=HURRIED)
    assert caught.value.trouble is Trouble.SILENT
    assert number(ask(way.url, "eth_chainId", deadline=PATIENT)) == CHAIN_ID


def test_heights_that_are_none(way: Way) -> None:
    for lie in ("20", "-0x14", "0x", -20, 20.0, None, True, [20]):
        way.change = lambda method, result, lie=lie: lie  # type: ignore[misc]
        assert number(ask(way.url, "eth_blockNumber", deadline=PATIENT)) is None


def test_forked_nodes_share_a_history_and_nothing_after_it(anvil: Path, node: EvmNode) -> None:
    with evm_node(anvil) as other:
        other.follow(node)
        node.mine(3)
        other.mine(4, apart=timedelta(seconds=2))
        assert node.hash_at(20) == other.hash_at(20)
        assert node.hash_at(21) != other.hash_at(21)
        assert (node.height, other.height) == (23, 24)


def test_a_node_without_the_method_says_so(node: EvmNode) -> None:
    with pytest.raises(RpcError, match="Method not found") as caught:
        node.ask("getversion")
    assert (caught.value.trouble, caught.value.code) == (Trouble.ERROR, -32601)
