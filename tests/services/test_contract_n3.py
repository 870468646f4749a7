"""Contracts of Neo N3, told by the sandbox's stand-in and a way that changes what it tells."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

import recoup
from deployments.cli import run
from recoup.errors import RecoveryError
from recoup.plan_chain import Invocation, Parameter, PinnedContract
from recoup.records import Outcome
from tasks.contract import check_contracts, prove
from tasks.contract_pins import pins_now
from tasks.rpc import Json, ask
from tests.pinned import N3, X, asking, looked_at, outcomes, pinning
from tests.rpc_proxy import Fault, Way, changed, way_to
from tests.stand_in import stand_in

PASSED, FAILED, UNPROVEN = Outcome.PASSED, Outcome.FAILED, Outcome.UNPROVEN
_FILE = Path(recoup.__file__).parent.parent / "infra" / "sandbox" / "contracts.yaml"
ALL = tuple(PinnedContract.model_validate(one) for one in yaml.safe_load(_FILE.read_text()))
TOKEN = ALL[0]


@pytest.fixture(scope="module")
def backups() -> Iterator[str]:
    with stand_in("rpc-backups") as url:
        yield url


@pytest.fixture
def way(backups: str) -> Iterator[Way]:
    with way_to(f"{backups}/n3/1") as way:
        yield way


def state(way: Way) -> dict[str, Json]:
    found = ask(way.upstream, "getcontractstate", TOKEN.hash, deadline=timedelta(seconds=20))
    assert isinstance(found, dict)
    return copy.deepcopy(found)


def test_the_sandboxes_contracts_are_what_its_plans_pin(backups: str) -> None:
    seen = check_contracts.fn(pinning(*ALL), {N3: f"{backups}/n3/2", X: f"{backups}/x/1"})
    assert outcomes(seen.checks) == [PASSED] * 8, seen
    blank = [one.model_copy(update={"checksum": None, "manifest": None, "updates": None}) for one in ALL]
    assert pins_now(asking(pinning(*blank), neo_n3=f"{backups}/n3/1", neo_x=f"{backups}/x/2")) == ALL


def test_the_command_prints_what_can_be_pinned(
    backups: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blank = [one.model_copy(update={"checksum": None, "manifest": None, "code_hash": None}) for one in ALL]
    file = tmp_path / "plan.yaml"
    file.write_text(asking(pinning(*blank), neo_n3=f"{backups}/n3/1", neo_x=f"{backups}/x/1").dump_yaml())
    assert run(["contract", "pins", "--plan", str(file)]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert tuple(PinnedContract.model_validate(one) for one in printed) == ALL
    file.write_text(asking(pinning(*blank), neo_n3="http://127.0.0.1:9", neo_x=f"{backups}/x/1").dump_yaml())
    assert run(["contract", "pins", "--plan", str(file)]) == 1
    file.write_text(pinning().dump_yaml())
    assert run(["contract", "pins", "--plan", str(file)]) == 2
    said = capsys.readouterr()
    assert (said.out, "Traceback" in said.err) == ("", False)
    assert "the plan has no contract" in said.err


def test_each_pin_that_differs_is_told_with_expected_and_seen(way: Way) -> None:
    found = state(way)
    nef, manifest = found["nef"], found["manifest"]
    assert isinstance(nef, dict)
    assert isinstance(manifest, dict)
    changes: dict[str, dict[str, Json]] = {
        "NEF checksum": {**found, "nef": {**nef, "checksum": 12345}},
        "manifest": {**found, "manifest": {**manifest, "permissions": []}},
        "update counter": {**found, "updatecounter": 1},
    }
    for pin, told in changes.items():
        with changed(way, "getcontractstate", told):
            unchanged, responds = looked_at(TOKEN, {N3: way.url})
        assert (unchanged.outcome, responds.outcome) == (FAILED, PASSED), pin
        assert unchanged.expected.startswith(f"{pin} ")
        assert unchanged.seen.startswith(f"{pin} ")
        assert unchanged.expected != unchanged.seen
    with changed(way, "getcontractstate", {**found, "nef": {**nef, "checksum": 12345}}):
        assert looked_at(TOKEN, {N3: way.url})[0].seen == "NEF checksum 12345"


def test_a_manifest_written_in_another_order_is_the_same(way: Way) -> None:
    found = state(way)
    manifest = found["manifest"]
    assert isinstance(manifest, dict)
    with changed(way, "getcontractstate", {**found, "manifest": dict(reversed(manifest.items()))}):
        assert looked_at(TOKEN, {N3: way.url})[0].outcome is PASSED


def test_a_contract_that_is_not_there_has_failed(way: Way) -> None:
    gone = TOKEN.model_copy(update={"hash": "0x" + "12" * 20})
    unchanged, responds = looked_at(gone, {N3: way.url})
    assert (unchanged.outcome, unchanged.seen) == (FAILED, "there is none")
    assert responds.outcome is FAILED
    assert responds.seen == f"FAULT: Called Contract Does Not Exist: {gone.hash}"
    # Of other versions: null, and the code that it had before.
    with changed(way, "getcontractstate", None):
        assert looked_at(TOKEN, {N3: way.url})[0].seen == "there is none"
    way.error = {"code": -100, "message": "Unknown contract"}
    unchanged, responds = looked_at(TOKEN, {N3: way.url})
    assert (unchanged.outcome, responds.outcome) == (FAILED, UNPROVEN)
    with pytest.raises(RecoveryError, match="there is no contract"):
        pins_now(asking(pinning(TOKEN), neo_n3=way.url))


def test_a_call_must_halt_with_the_expected_stack(way: Way) -> None:
    unknown = TOKEN.model_copy(update={"invoke": Invocation(operation="owner", stack=())})
    unchanged, responds = looked_at(unknown, {N3: way.url})
    assert (unchanged.outcome, responds.outcome) == (PASSED, FAILED)
    assert responds.seen.startswith('FAULT: Method "owner" with 0 parameter(s)')
    stack = (Parameter(type="ByteString", value="R0FT"),)
    other = TOKEN.model_copy(update={"invoke": Invocation(operation="symbol", stack=stack)})
    responds = looked_at(other, {N3: way.url})[1]
    assert responds.outcome is FAILED
    assert "R0FT" in responds.expected
    assert "TlNM" in responds.seen


def test_an_integer_may_be_a_number_in_the_plan_and_a_boolean_is_none(way: Way) -> None:
    eight = TOKEN.model_copy(
        update={"invoke": Invocation(operation="decimals", stack=(Parameter(type="Integer", value=8),))}
    )
    assert looked_at(eight, {N3: way.url})[1].outcome is PASSED
    halted: dict[str, Json] = {"state": "HALT", "stack": [{"type": "Boolean", "value": 1}]}
    with changed(way, "invokefunction", halted):
        true = TOKEN.model_copy(
            update={"invoke": Invocation(operation="paused", stack=(Parameter(type="Boolean", value=True),))}
        )
        assert looked_at(true, {N3: way.url})[1].outcome is FAILED


@pytest.mark.parametrize(
    "error",
    [
        {"code": -600, "message": "Access denied"},
        {"code": -32601, "message": "Method not found - getcontractstate"},
        {"code": "-102", "message": ["Unknown contract"]},
        {"something": "else"},
        "Unknown contract",
        17,
    ],
)
def test_an_error_object_that_says_nothing_of_the_contract_proves_nothing(way: Way, error: Json) -> None:
    way.error = error
    assert outcomes(looked_at(TOKEN, {N3: way.url})) == [UNPROVEN, UNPROVEN]


@pytest.mark.parametrize("rubbish", [7, "HALT", [], {}, {"hash": 5, "state": 5}, {"hash": "0x" + "12" * 20}])
def test_answers_of_another_shape_prove_nothing(way: Way, rubbish: Json) -> None:
    way.change = lambda method, result: rubbish
    assert outcomes(looked_at(TOKEN, {N3: way.url})) == [UNPROVEN, UNPROVEN]


def test_a_pin_the_node_does_not_tell_is_unproven(way: Way) -> None:
    halves: list[dict[str, Json]] = [
        {"nef": {}},
        {"nef": {"checksum": "1301033134"}},
        {"manifest": []},
        {"updatecounter": "-1"},
    ]
    for half in halves:
        with changed(way, "getcontractstate", {**state(way), **half}):
            unchanged = looked_at(TOKEN, {N3: way.url})[0]
        assert unchanged.outcome is UNPROVEN
        assert "does not tell" in unchanged.seen


def test_an_answer_without_end_of_nesting_is_unproven(way: Way) -> None:
    way.fault = Fault.NESTED
    assert looked_at(TOKEN, {N3: way.url})[0].outcome is UNPROVEN


def test_a_manifest_nested_as_deep_as_can_be_read_is_never_the_one_that_was_pinned(way: Way) -> None:
    deep: Json = []
    for _ in range(700):
        deep = [deep]
    with changed(way, "getcontractstate", {**state(way), "manifest": {"extra": deep}}):
        # Python 3.11 gives up at it; a later one reads it, and sees another manifest.
        assert looked_at(TOKEN, {N3: way.url})[0].outcome is (UNPROVEN if sys.version_info < (3, 12) else FAILED)


def test_a_silent_chain_keeps_nobody_from_looking_at_the_other(way: Way, backups: str) -> None:
    way.fault = Fault.DEAF
    checks = prove(pinning(*ALL), {N3: way.url, X: f"{backups}/x/1"}, timedelta(seconds=1))
    assert outcomes(checks) == [UNPROVEN] * 4 + [PASSED] * 4
