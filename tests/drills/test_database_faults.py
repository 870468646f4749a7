"""Every way to break the database, drilled whole: a new sandbox, a canary writing, the fault, the real procedure."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.drill import DatabaseDrill, drill_database
from recoup.ledger import Ledger
from recoup.places import drill_ledger
from recoup.records import Outcome, RecoveryRecord, StepOutcome, Subject, Verdict
from recoup.stacks import proctable
from tasks.postgres_fault import Fault

IN_PLACE = {"diagnose-database", "restart-database", "start-services", "check-integrity", "check-as-user"}
ANEW = {"choose-backup", "stop-services", "restore-beside", "swap-databases"}
# What each fault asks for beyond looking and proving; a step more, or less, is another way than the one wanted.
WAYS = {
    Fault.KILL: IN_PLACE,
    Fault.STOP: IN_PLACE,
    Fault.EXHAUST: IN_PLACE,
    Fault.DROP_TABLE: (IN_PLACE | ANEW | {"check-as-user-before"}) - {"restart-database"},
    Fault.CORRUPT: (IN_PLACE | ANEW) - {"restart-database"},
    # Never restarted on nothing: it would make a new database there, and take writes that nobody keeps.
    Fault.WIPE: (IN_PLACE | ANEW | {"make-new-server"}) - {"restart-database"},
    Fault.CONTROL_FILE: IN_PLACE | ANEW | {"make-new-server"},
}
# Services may have to be restarted when they hold on to dead connections; both ways are right.
ALLOWED = {"count-lost-writes", "restart-services", "check-as-user-again"}
NOTHING_LOST = {Fault.KILL, Fault.STOP, Fault.EXHAUST}


@dataclass(frozen=True)
class Drilled:
    fault: Fault
    record: RecoveryRecord
    left: tuple[str, ...]


@pytest.fixture(scope="module", params=list(Fault), ids=str)
def drilled(request: pytest.FixtureRequest, state: Path) -> Drilled:
    record = drill_database.fn(DatabaseDrill(fault=request.param))
    # Others may drill on this machine at the same time; these are the sandboxes that this very process made.
    owners = {file.parent.name: json.loads(file.read_text()) for file in (state / "sandboxes").glob("*/sandbox.json")}
    return Drilled(request.param, record, tuple(name for name, who in owners.items() if who["pid"] == os.getpid()))


def test_every_fault_has_a_way_it_should_go() -> None:
    assert set(WAYS) == set(Fault)


def test_it_is_recovered_within_the_objective_and_proven(drilled: Drilled) -> None:
    record = drilled.record
    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    assert record.drill
    assert record.fault == drilled.fault
    assert record.clock.rto is not None
    assert record.clock.rto.total_seconds() > 0
    assert record.rto_met is True
    assert record.clock.began_source == "injected fault"
    assert {check.outcome for check in record.checks} == {Outcome.PASSED}
    assert {Subject.DATA, Subject.USER} <= {check.subject for check in record.checks}
    (store,) = record.stores
    assert store.met is True


def test_the_moments_of_the_outage_are_in_order(drilled: Drilled) -> None:
    clock = drilled.record.clock
    moments = [clock.began, clock.declared, clock.started, clock.approved, clock.restored, clock.closed]
    known = [moment for moment in moments if moment is not None]
    assert len(known) == len(moments)
    assert clock.began is not None
    assert clock.declared is not None
    assert clock.restored is not None
    assert clock.closed is not None
    assert clock.began <= clock.declared <= clock.started <= clock.restored <= clock.closed


def test_it_goes_the_way_the_fault_asks_for(drilled: Drilled) -> None:
    steps = [step.name for step in drilled.record.steps]
    assert set(steps) - ALLOWED == WAYS[drilled.fault]
    assert {step.outcome for step in drilled.record.steps} == {StepOutcome.DONE}
    assert all(step.took is not None for step in drilled.record.steps)
    restored = "restore-beside" in steps
    assert restored is (drilled.record.backup is not None)
    if restored:
        assert steps.index("stop-services") < steps.index("restore-beside") < steps.index("swap-databases")
        assert steps.index("swap-databases") < steps.index("start-services") < steps.index("check-integrity")
        assert "old database kept as neo_service_layer_before_" in drilled.record.state_left
    assert ("old data directory kept at" in drilled.record.state_left) is ("make-new-server" in steps)


def test_no_acknowledged_write_is_lost_without_excuse(drilled: Drilled) -> None:
    (store,) = drilled.record.stores
    assert store.acknowledged_writes is not None
    assert store.acknowledged_writes >= 20
    assert store.acknowledged_writes_lost is not None
    if drilled.fault in NOTHING_LOST:
        assert store.acknowledged_writes_lost == 0
        assert store.achieved is not None
        assert store.achieved.total_seconds() == 0
    else:
        # All twenty before the fault were written after the one backup; that these are found to be gone is the proof
        # that the count looks.
        assert 20 <= store.acknowledged_writes_lost < store.acknowledged_writes
        assert store.achieved is not None
        assert store.achieved.total_seconds() > 0
        assert drilled.record.backup is not None
        assert store.recovery_point == drilled.record.backup.recovery_point


def test_its_record_is_in_the_ledger(drilled: Drilled) -> None:
    kept = [record for record in Ledger(drill_ledger()).records() if record.run_id == drilled.record.run_id]
    assert kept == [drilled.record]


def test_nothing_of_the_sandbox_is_left(drilled: Drilled, state: Path) -> None:
    assert drilled.left == ()
    sandbox = drilled.record.stack.rpartition(":")[2]
    directory = state / "sandboxes" / sandbox
    assert len(sandbox) == 8
    assert not directory.exists()
    assert proctable.dwelling(directory) == ()
