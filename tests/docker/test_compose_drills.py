"""The whole database drill on a real Docker engine: each fault, and a newest backup that is bad."""

from __future__ import annotations

from pathlib import Path

import docker
import pytest

from flows.drill import DatabaseDrill, StackKind, drill_database
from recoup.ledger import Ledger
from recoup.records import Outcome, RecoveryRecord, Subject, Verdict
from tasks.postgres_fault import Fault
from tasks.spoil import Spoil

RESTORED = {Fault.DROP_TABLE, Fault.CORRUPT, Fault.WIPE, Fault.CONTROL_FILE}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECOUP_STATE", str(tmp_path))
    return tmp_path


def drill(engine: docker.DockerClient, request: DatabaseDrill) -> RecoveryRecord:
    record = drill_database.fn(request)
    sandbox = record.stack.rpartition("-")[2]
    assert len(sandbox) == 8, record.stack
    assert not {name for name in names(engine) if sandbox in name}, "the drill left something on the engine"
    return record


def names(engine: docker.DockerClient) -> set[str]:
    found = {f"container {c.name}" for c in engine.containers.list(all=True, ignore_removed=True)}
    found |= {f"volume {v.name}" for v in engine.volumes.list()}
    return found | {f"network {n.name}" for n in engine.networks.list()}


@pytest.mark.parametrize("fault", list(Fault))
def test_a_broken_database_is_recovered_and_proven(fault: Fault, engine: docker.DockerClient, state: Path) -> None:
    record = drill(engine, DatabaseDrill(fault=fault, stack=StackKind.COMPOSE))

    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.stack.startswith("compose:")
    assert record.rto_met
    assert record.fault == fault
    assert (record.backup is not None) == (fault in RESTORED)
    steps = {step.name for step in record.steps}
    assert ("make-new-server" in steps) == (fault in (Fault.CONTROL_FILE, Fault.WIPE))
    assert ("restart-database" in steps) == (fault not in (Fault.WIPE, Fault.DROP_TABLE, Fault.CORRUPT))
    subjects = {check.subject for check in record.checks if check.outcome is Outcome.PASSED}
    assert {Subject.DATA, Subject.USER} <= subjects
    (store,) = record.stores
    assert store.met
    if fault not in RESTORED:
        assert store.acknowledged_writes_lost == 0
    else:
        assert store.acknowledged_writes_lost, "a restore that loses nothing was not measured"
    assert Ledger(state / "ledger.jsonl").last() == record


def test_a_bad_newest_backup_is_skipped_for_the_older(engine: docker.DockerClient) -> None:
    record = drill(engine, DatabaseDrill(stack=StackKind.COMPOSE, spoil=Spoil.FLIP_BYTE))

    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.backup is not None
    (skipped,) = record.backup.skipped
    assert skipped.set_id > str(record.backup.set_id)
    assert "sha256" in skipped.reason


def test_without_a_good_backup_it_never_says_recovered(engine: docker.DockerClient) -> None:
    record = drill(engine, DatabaseDrill(stack=StackKind.COMPOSE, spoil=Spoil.TRUNCATE, older=False))

    assert record.verdict is Verdict.NOT_RECOVERED
    assert "no good backup set" in record.why
    assert "no data was touched" in record.state_left
