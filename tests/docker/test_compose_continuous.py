"""Zero-loss drills on a real Docker engine: the database is wiped, and no acknowledged write is gone."""

from __future__ import annotations

import tempfile

import docker
import pytest

from flows.drill import DatabaseDrill, Policy, StackKind, drill_database
from recoup.records import Outcome, Verdict
from tasks.postgres_fault import Fault


@pytest.mark.parametrize(
    ("standby", "way"),
    [(False, "continuous"), (True, "the standby postgres-standby took over")],
    ids=["wal", "standby"],
)
def test_a_wiped_database_loses_no_acknowledged_write(
    standby: bool, way: str, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The directory of a socket lies below it, whose path must be short.
    with tempfile.TemporaryDirectory(prefix="recoup-") as state:
        monkeypatch.setenv("RECOUP_STATE", state)
        request = DatabaseDrill(fault=Fault.WIPE, policy=Policy.ZERO_LOSS, stack=StackKind.COMPOSE, standby=standby)
        record = drill_database.fn(request)

    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    assert {check.outcome for check in record.checks} == {Outcome.PASSED}
    assert record.stack.startswith("compose:")
    assert record.backup is not None
    assert record.backup.why.startswith(way)
    (store,) = record.stores
    assert store.acknowledged_writes is not None
    assert store.acknowledged_writes >= 20
    assert store.acknowledged_writes_lost == 0
    sandbox = record.stack.rpartition("-")[2]
    assert len(sandbox) == 8, record.stack
    left = {str(one.name) for one in engine.containers.list(all=True, ignore_removed=True)}
    left |= {str(one.name) for one in engine.volumes.list()} | {str(one.name) for one in engine.networks.list()}
    assert not {name for name in left if sandbox in name}, "the drill left something on the engine"
