"""The witness of the last heartbeat: of the present history, and not fooled by a clock that is wrong or set back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.database import DatabaseRecovery, When, run_recovery
from recoup.records import Outcome, RecoveryRecord, Verdict, now
from tasks.heartbeat import Witness, watching, witness_of
from tasks.postgres_fault import Fault, inject
from tasks.postgres_replay import WITNESSED
from tasks.standing import received_until
from tasks.wal_receiver import have_it_received
from tests.continuous import Continuous, continuous, failed
from tests.stack_behaviour import eventually

HOUR = timedelta(hours=1)
# From Debian's package libfaketime.
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


@pytest.fixture
def at(sandbox_state: Path) -> Iterator[Continuous]:
    with continuous("async", sandbox_state) as made:
        made.sql("CREATE TABLE public.notes (n int)")
        yield made


def witnessed(at: Continuous) -> Witness:
    """Keep watch until a heartbeat of now was received, and give its witness."""
    quick = at.with_policy(heartbeat=timedelta(seconds=0.2))
    before = witness_of(at.wal)
    with watching(quick.server, lambda _: None):
        eventually("it is witnessed", lambda: witness_of(at.wal) != before)
    found = witness_of(at.wal)
    assert found is not None
    return found


def recovered(at: Continuous, ledger: Path, **asked: object) -> RecoveryRecord:
    request = DatabaseRecovery.model_validate({"plan": at.sandbox.plan, **asked})
    record = run_recovery(at.plan, request, ledger=ledger)
    assert record.verdict is Verdict.RECOVERED, record.why
    return record


def set_clock(at: Continuous, ahead: timedelta) -> None:
    """Start the server again with a clock that is not that of this machine."""
    path = at.sandbox.directory / "stack.json"
    spec = json.loads(path.read_text())
    (postgres,) = (one for one in spec["services"] if one["name"] == "postgres")
    wrapped = at.sandbox.directory / "clock"
    real = next(place for one in postgres["bin"] if one != str(wrapped) and (place := Path(one) / "postgres").exists())
    # Of the server alone: what it starts as another user could not use what libfaketime shares between processes.
    wrapped.mkdir(exist_ok=True)
    clock = (
        f"LD_PRELOAD={FAKETIME} FAKETIME={ahead.total_seconds():+.0f}s FAKETIME_DONT_FAKE_MONOTONIC=1" if ahead else ""
    )
    (wrapped / "postgres").write_text(f'#!/bin/sh\nexec env {clock} {real} "$@"\n')
    (wrapped / "postgres").chmod(0o755)
    postgres["bin"] = [str(wrapped), *(one for one in postgres["bin"] if one != str(wrapped))]
    path.write_text(json.dumps(spec))
    at.stack.recreate("postgres")
    eventually("it answers", lambda: at.stack.state("postgres").health == "healthy")
    have_it_received(at.server)


def clock(at: Continuous) -> datetime:
    return datetime.fromisoformat(at.sql("SELECT clock_timestamp() AT TIME ZONE 'UTC'")).replace(tzinfo=UTC)


def test_right_after_a_restore_to_a_moment_a_second_recovery_is_judged_by_the_present_history(
    at: Continuous, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    at.base()
    at.sql("INSERT INTO public.notes VALUES (1)")
    moment = clock(at)
    at.sql("INSERT INTO public.notes VALUES (2)")
    undone = witnessed(at)
    assert undone.timeline == 1
    recovered(at, ledger, to=moment.isoformat())
    # Nobody keeps watch: the recovery itself has left a witness of what it made.
    renewed = witness_of(at.wal)
    assert renewed is not None
    assert (renewed.timeline, renewed.at > moment) == (2, True)
    record = recovered(at, ledger, restore=When.ALWAYS)
    assert [check.outcome for check in record.checks if check.name == WITNESSED] == [Outcome.PASSED]
    assert at.sql("SELECT string_agg(n::text, ' ') FROM public.notes") == "1"

    # Killed before it could: what was undone is not missed, and nothing is claimed.
    (at.wal / "witness.json").write_text(undone.model_dump_json())
    bases = at.repository.sets("database-base")
    with at.restored(bases[0].set_id, "latest") as (_, checks):
        assert not failed(checks)
        assert checks[WITNESSED].outcome is Outcome.UNPROVEN
    assert "of its present history" in received_until(at.plan.postgres()[1], bases)[1]


def test_a_witness_of_a_history_that_nothing_tells_of_is_missed(at: Continuous) -> None:
    base = at.base()
    seen = witnessed(at)
    later = seen.model_copy(update={"timeline": 3, "lsn": "0/7F000000"})
    (at.wal / "witness.json").write_text(later.model_dump_json())
    with at.restored(base.set_id, "latest") as (_, checks):
        assert "is before 0/7F000000, which had been received" in str(failed(checks))


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
def test_a_server_whose_clock_is_ahead_loses_no_less_for_it(at: Continuous, tmp_path: Path) -> None:
    set_clock(at, HOUR)
    at.base()
    seen = witnessed(at)
    assert abs(seen.ahead - HOUR) < timedelta(seconds=30)
    received, trouble = received_until(at.plan.postgres()[1], at.repository.sets("database-base"))
    assert trouble == ""
    assert received is not None
    assert received <= now()
    time.sleep(1.5)
    began = now()
    inject(at.server, Fault.WIPE, at.sandbox.id)
    record = recovered(at, tmp_path / "ledger.jsonl", began=began)
    (store,) = record.stores
    assert store.recovery_point is not None
    assert store.recovery_point < began
    assert store.achieved is not None
    assert timedelta(seconds=1) < store.achieved < timedelta(minutes=2)


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
def test_a_clock_that_is_set_back_makes_no_heartbeat_look_lost(at: Continuous) -> None:
    set_clock(at, HOUR)
    base = at.base()
    before = witnessed(at)
    set_clock(at, timedelta(0))
    after = witnessed(at)
    assert after.at < before.at
    assert after.count > before.count
    # The server died when the newer heartbeat was received, and not noted yet.
    (at.wal / "witness.json").write_text(before.model_dump_json())
    with at.restored(base.set_id, "latest") as (_, checks):
        assert not failed(checks)
        assert checks[WITNESSED].outcome is Outcome.PASSED


def test_a_machine_whose_clock_was_set_back_claims_nothing(at: Continuous) -> None:
    at.base()
    seen = witnessed(at)
    to_come = seen.model_copy(update={"seen": now() + HOUR, "at": seen.at + HOUR})
    (at.wal / "witness.json").write_text(to_come.model_dump_json())
    received, trouble = received_until(at.plan.postgres()[1], at.repository.sets("database-base"))
    assert received is None
    assert "a clock was set back" in trouble
