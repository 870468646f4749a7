"""Contracts on a real EVM node: deployed, then changed, exchanged behind a proxy, gone, and reverting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from recoup.plan_chain import EvmCall, PinnedContract, PinnedImplementation
from recoup.records import Outcome, Subject
from tasks import contract
from tasks.contract import prove
from tasks.contract_evm import BEACON_SLOT, IMPLEMENTATION_SLOT
from tasks.contract_pins import pins_now
from tasks.rpc import Json
from tests.anvil import EvmNode, evm_node
from tests.pinned import X, asking, looked_at, outcomes, pinning
from tests.rpc_proxy import Fault, Way, way_to

HURRIED = timedelta(seconds=1)
PASSED, FAILED, UNPROVEN = Outcome.PASSED, Outcome.FAILED, Outcome.UNPROVEN
# Runtime code that answers every call with one number; with nothing but a revert; with an invalid instruction.
EIGHT, NINE, REVERTS, INVALID = "600860005260206000f3", "600960005260206000f3", "60006000fd", "fe"
# The smallest proxy of EIP-1967: it hands every call on to the address in its slot.
PROXY = f"363d3d373d3d363d7f{IMPLEMENTATION_SLOT[2:]}545af43d6000803e6038573d6000fd5b3d6000f3"
DECIMALS = "0x313ce567"
ABSENT = "0x" + "12" * 20


def word(value: int) -> str:
    return f"0x{value:064x}"


@pytest.fixture(scope="module")
def node(anvil: Path) -> Iterator[EvmNode]:
    with evm_node(anvil, blocks=3) as node:
        yield node


def hash_by_the_node(node: EvmNode, address: str) -> str:
    """Have the EVM itself tell a code's hash, by its instruction EXTCODEHASH."""
    teller = node.deploy(f"73{address[2:]}3f60005260206000f3")
    told = node.ask("eth_call", {"to": teller}, "latest")
    assert isinstance(told, str)
    return told


def token(node: EvmNode, code: str = EIGHT) -> PinnedContract:
    address = node.deploy(code)
    call = EvmCall(data=DECIMALS, result=word(8))
    return PinnedContract(name="token", chain=X, hash=address, code_hash=hash_by_the_node(node, address), call=call)


def proxied(node: EvmNode) -> PinnedContract:
    proxy, behind = node.deploy(PROXY), node.deploy(EIGHT)
    point(node, proxy, behind)
    return PinnedContract(
        name="proxy",
        hash=proxy,
        code_hash=hash_by_the_node(node, proxy),
        implementation=PinnedImplementation(address=behind, code_hash=hash_by_the_node(node, behind)),
        call=EvmCall(data=DECIMALS, result=word(8)),
    )


def point(node: EvmNode, proxy: str, to: str) -> None:
    node.ask("anvil_setStorageAt", proxy, IMPLEMENTATION_SLOT, word(int(to, 16)))
    node.mine()


def replace(node: EvmNode, address: str, code: str) -> None:
    node.ask("anvil_setCode", address, f"0x{code}")
    node.mine()


def test_what_is_as_pinned_passes(node: EvmNode) -> None:
    for pinned in (token(node), proxied(node)):
        checks = looked_at(pinned, {X: node.url})
        assert outcomes(checks) == [PASSED, PASSED], checks
        assert {check.subject for check in checks} == {Subject.DATA}


def test_replaced_code_is_told_with_both_hashes(node: EvmNode) -> None:
    pinned = token(node)
    replace(node, pinned.hash, NINE)
    unchanged, responds = looked_at(pinned, {X: node.url})
    assert (unchanged.outcome, responds.outcome) == (FAILED, FAILED)
    assert unchanged.expected == f"code {pinned.code_hash}"
    assert unchanged.seen == f"code {hash_by_the_node(node, pinned.hash)}"
    assert responds.seen == f"returns {word(9)}"
    assert responds.expected == f"{DECIMALS} returns {word(8)}"


def test_a_contract_that_is_not_there_has_failed(node: EvmNode) -> None:
    pinned = token(node)
    replace(node, pinned.hash, "")
    unchanged, responds = looked_at(pinned, {X: node.url})
    assert unchanged.outcome is FAILED
    assert (unchanged.expected, unchanged.seen) == (f"a contract at {pinned.hash}", "there is none")
    assert (responds.outcome, responds.seen) == (FAILED, "returns 0x")


def test_a_proxy_with_another_implementation_keeps_its_code_and_has_failed(node: EvmNode) -> None:
    pinned = proxied(node)
    assert pinned.implementation is not None
    another = node.deploy(EIGHT)
    point(node, pinned.hash, another)
    unchanged, responds = looked_at(pinned, {X: node.url})
    assert (unchanged.outcome, responds.outcome) == (FAILED, PASSED)
    assert unchanged.expected == f"implementation {pinned.implementation.address}"
    assert unchanged.seen == f"implementation {another}"


def test_changed_code_behind_a_proxy_has_failed(node: EvmNode) -> None:
    pinned = proxied(node)
    assert pinned.implementation is not None
    replace(node, pinned.implementation.address, NINE)
    unchanged, responds = looked_at(pinned, {X: node.url})
    assert (unchanged.outcome, responds.outcome) == (FAILED, FAILED)
    assert unchanged.expected == f"implementation's code {pinned.implementation.code_hash}"
    replace(node, pinned.implementation.address, "")
    assert looked_at(pinned, {X: node.url})[0].seen == "implementation's code none"
    point(node, pinned.hash, "0x0")
    assert "implementation none" in looked_at(pinned, {X: node.url})[0].seen


def test_a_proxy_whose_implementation_nobody_pinned_is_unproven(node: EvmNode) -> None:
    unpinned = proxied(node).model_copy(update={"implementation": None})
    unchanged, responds = looked_at(unpinned, {X: node.url})
    assert (unchanged.outcome, responds.outcome) == (UNPROVEN, PASSED)
    assert "no implementation is pinned" in unchanged.seen


def test_a_proxy_that_asks_a_beacon_is_unproven(node: EvmNode) -> None:
    pinned = token(node)
    node.ask("anvil_setStorageAt", pinned.hash, BEACON_SLOT, word(4711))
    node.mine()
    unchanged, responds = looked_at(pinned, {X: node.url})
    assert (unchanged.outcome, responds.outcome) == (UNPROVEN, PASSED)
    assert f"beacon 0x{4711:040x}" in unchanged.seen


@pytest.mark.parametrize("code", [REVERTS, INVALID])
def test_a_call_that_is_refused_has_failed(node: EvmNode, code: str) -> None:
    unchanged, responds = looked_at(token(node, code), {X: node.url})
    assert (unchanged.outcome, responds.outcome) == (PASSED, FAILED)
    assert responds.seen == "the call is reverted"


def test_what_nobody_pinned_is_unproven_and_never_passed(node: EvmNode) -> None:
    bare = PinnedContract(name="bare", chain=X, hash=node.deploy(EIGHT))
    unchanged, responds = looked_at(bare, {X: node.url})
    assert (unchanged.outcome, responds.outcome) == (UNPROVEN, UNPROVEN)
    assert "pinned" in unchanged.seen
    assert "pinned" in responds.seen


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
def test_a_node_that_is_ill_proves_nothing(node: EvmNode, fault: Fault) -> None:
    pinned = token(node)
    with way_to(node.url) as way:
        way.fault = fault
        checks = looked_at(
            pinned, {X: way.url}, HURRIED if fault in (Fault.DEAF, Fault.DRIP) else timedelta(seconds=20)
        )
    assert outcomes(checks) == [UNPROVEN, UNPROVEN], checks
    assert all(check.seen.startswith(f"could not be asked for: {way.url}: ") for check in checks)


@pytest.mark.parametrize("rubbish", [None, 7, "0x1", "0xzz", "6008", "-0x10", [], {"code": "0x"}])
def test_answers_that_are_no_bytes_prove_nothing(node: EvmNode, rubbish: Json) -> None:
    pinned = token(node)
    with way_to(node.url) as way:
        way.change = lambda method, result: rubbish
        assert outcomes(looked_at(pinned, {X: way.url})) == [UNPROVEN, UNPROVEN]


def without_state(way: Way) -> None:
    way.error = {"code": -32000, "message": "missing trie node 1a2b (path ) state 0x3c is not available"}


def refusing(way: Way) -> None:
    way.error = {"code": -32601, "message": "the method eth_getCode does not exist/is not available"}


@pytest.mark.parametrize("ill", [without_state, refusing])
def test_an_error_of_the_node_is_none_of_the_contract(node: EvmNode, ill: Callable[[Way], None]) -> None:
    pinned = token(node)
    with way_to(node.url) as way:
        ill(way)
        assert outcomes(looked_at(pinned, {X: way.url})) == [UNPROVEN, UNPROVEN]


def test_all_are_looked_at_at_once_and_no_longer_than_the_bound(node: EvmNode, monkeypatch: pytest.MonkeyPatch) -> None:
    first = token(node)
    many = [first.model_copy(update={"name": f"token-{n}", "hash": f"0x{n + 4096:040x}"}) for n in range(1, 60)]
    checks = prove(pinning(first, *many), {X: node.url})
    assert outcomes(checks[:2]) == [PASSED, PASSED]
    assert len(checks) == 120
    assert {check.outcome for check in checks[2:]} == {FAILED}
    monkeypatch.setattr(contract, "_WHOLE", timedelta(seconds=1))
    with way_to(node.url) as way:
        way.fault = Fault.DEAF
        checks = prove(pinning(first, *many), {X: way.url}, timedelta(minutes=10))
    assert len(checks) == 120
    assert {check.seen for check in checks} == {"not found out within 1 s"}
    assert {check.outcome for check in checks} == {UNPROVEN}


def test_contracts_of_a_chain_that_is_not_asked_for_are_left_out(node: EvmNode) -> None:
    assert prove(pinning(token(node)), {}) == ()


def test_the_pins_of_now_are_what_passes(node: EvmNode) -> None:
    good = proxied(node)
    blank = PinnedContract(name="proxy", chain=X, hash=good.hash, call=EvmCall(data=DECIMALS, result="0x"))
    (pinned,) = pins_now(asking(pinning(blank), neo_x=node.url))
    assert pinned == good.model_copy(update={"chain": X})
    assert outcomes(looked_at(pinned, {X: node.url})) == [PASSED, PASSED]
