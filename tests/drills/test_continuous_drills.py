"""The database recovered by base backup and WAL, drilled whole; and killed on the way, on a platform that serves on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.backup import run_backup
from flows.continuous import run_base_backup
from flows.drill import DatabaseDrill, Policy, drill_database
from recoup.journal import Journal
from recoup.plan import load_plan
from recoup.process import Command, run
from recoup.records import Outcome, RecoveryRecord, StepOutcome, Verdict
from recoup.stacks.process import ProcessStack
from tasks.embedded import postgres_programs
from tasks.heartbeat import Witness
from tasks.postgres import identity
from tasks.postgres_fault import Fault
from tasks.postgres_replay import WITNESSED
from tasks.sandbox import create, destroy
from tasks.wal_receiver import continuous_of, receiver_of
from tests.drills.platform import Platform
from tests.stack_behaviour import SOON, eventually

REPLAYED = {"choose-base", "stop-services", "replay-wal", "start-replayed", "begin-anew"}
RESTORED = {"choose-backup", "restore-beside", "swap-databases"}


def drill(fault: Fault, policy: Policy) -> RecoveryRecord:
    record = drill_database.fn(DatabaseDrill(fault=fault, policy=policy))
    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    assert {check.outcome for check in record.checks} == {Outcome.PASSED}
    assert record.rto_met is True
    assert record.backup is not None
    return record


@pytest.mark.parametrize(
    ("fault", "policy"),
    [(Fault.WIPE, Policy.ZERO_LOSS), (Fault.WIPE, Policy.ASYNC), (Fault.CORRUPT, Policy.ASYNC)],
)
def test_it_is_recovered_by_replaying_wal(fault: Fault, policy: Policy) -> None:
    record = drill(fault, policy)
    assert record.backup is not None
    assert record.backup.why.startswith("continuous")
    steps = [step.name for step in record.steps]
    assert set(steps) >= REPLAYED
    assert not RESTORED & set(steps)
    order = ["choose-base", "stop-services", "replay-wal", "start-replayed", "start-services", "begin-anew"]
    assert [name for name in steps if name in order] == order
    names = {check.name for check in record.checks}
    assert {"all that was received is replayed", "the last heartbeat that was received is there"} <= names
    assert record.state_left.startswith("old data kept at ")
    (store,) = record.stores
    assert store.met is True
    assert store.acknowledged_writes is not None
    assert store.acknowledged_writes >= 20
    assert store.acknowledged_writes_lost is not None
    if policy is Policy.ZERO_LOSS:
        assert store.acknowledged_writes_lost == 0
    # Milliseconds, where a dump would lose all of them.
    assert store.acknowledged_writes_lost <= 3


def test_what_the_wal_would_drop_again_is_restored_from_a_dump_and_the_record_says_why() -> None:
    record = drill(Fault.DROP_TABLE, Policy.ASYNC)
    assert record.backup is not None
    assert record.backup.why.startswith("a dump: the WAL up to the latest moment drops the missing tables again")
    steps = {step.name for step in record.steps}
    assert steps >= RESTORED
    assert not {"choose-base", "replay-wal", "start-replayed"} & steps


@pytest.fixture(scope="module")
def platform(state: Path) -> Iterator[Platform]:
    """Give a platform whose every commit waits for the receiver, with one dump and one base backup."""
    made = create("process", policy="zero-loss")
    try:
        found = Platform(made, load_plan(made.plan), ProcessStack.open(made.directory))
        run_backup(found.plan, found.stack, verify=False)
        run_base_backup(found.plan, found.stack)
        yield found
    finally:
        destroy(made)


def write(platform: Platform, name: str) -> None:
    platform.sql(f"INSERT INTO records (id, body) VALUES ('{name}', '{{}}')")


def written(platform: Platform) -> list[str]:
    return platform.sql("SELECT id FROM records WHERE id LIKE 'before-%' ORDER BY id").split()


KILLED = [
    ("step", "choose-base"),
    ("note", "moving the old data aside"),
    ("note", "unpacking "),
    ("note", "replaying WAL"),
    ("step", "start-replayed"),
    ("step", "begin-anew"),
]


@pytest.mark.parametrize(("kind", "where"), KILLED, ids=[where for _, where in KILLED])
def test_killed_on_the_way_and_run_again_nothing_is_lost(kind: str, where: str, platform: Platform) -> None:
    name = "before-" + where.strip().replace(" ", "-")
    write(platform, name)
    before = written(platform)
    assert name in before
    began = platform.break_it(Fault.WIPE)
    assert platform.recover_and_die(began, **{kind: where}) == -signal.SIGKILL
    left = Journal.unfinished(platform.plan.platform.state, platform.plan.platform.name, "database", "postgres")
    assert left is not None
    assert left.steps[-1].outcome is StepOutcome.RUNNING

    record = platform.recover()

    data = {check.name: check.outcome for check in record.checks}
    assert record.run_id == left.header.run_id
    assert record.clock.began == began
    assert record.verdict in (Verdict.RECOVERED, Verdict.UNPROVEN), record.why
    assert Outcome.FAILED not in data.values()
    assert "replay-wal" in {step.name for step in record.steps}
    assert written(platform) == before
    assert platform.sql("SELECT count(*) FROM records WHERE id LIKE 'seed-%'") == "6000"
    assert platform.sql("SHOW synchronous_standby_names") == "recoup"
    eventually("each commit waits for the receiver again", lambda: receiver_of(platform.server).synchronous)
    eventually("nothing is left of either", lambda: not list(platform.plan.platform.scratch.iterdir()))


def test_half_of_a_recovery_is_refused_by_the_server_itself(platform: Platform) -> None:
    """Somebody starts the service by hand: what is there must not be served as if it were all."""
    write(platform, "before-half")
    before = written(platform)
    began = platform.break_it(Fault.WIPE)
    assert platform.recover_and_die(began, note="against its manifest") == -signal.SIGKILL
    data = platform.sandbox.directory / "services" / "postgres" / "data"
    eventually("it is half-made", lambda: (data / "PG_VERSION").is_file())
    assert (data / "recovery.signal").is_file()

    platform.stack.start("postgres")
    eventually("it gives up", lambda: not platform.stack.state("postgres").running)

    assert "must specify" in platform.log()
    assert platform.recover().verdict is not Verdict.NOT_RECOVERED
    assert written(platform) == before


def test_what_a_replay_made_that_was_not_believed_is_started_by_no_later_run(platform: Platform) -> None:
    write(platform, "before-rejected")
    before = written(platform)
    wal = continuous_of(platform.server).wal
    with platform.server.connect() as connection:
        system = identity(connection)
    never = Witness(system_identifier=system, at=datetime.now(UTC), lsn="FF/0")
    data = platform.sandbox.directory / "services" / "postgres" / "data"
    kept = wal / "witness.json"
    known = kept.read_bytes() if kept.exists() else None
    began = platform.break_it(Fault.WIPE)
    (data / "the-old-data").touch()
    kept.write_text(never.model_dump_json())
    try:
        first = platform.recover(began)
        assert first.verdict is Verdict.NOT_RECOVERED
        assert WITNESSED in first.why
        assert platform.recover(began).verdict is Verdict.NOT_RECOVERED, "it was started as if it had been believed"
        platform.stack.start("postgres")
        eventually("it gives up", lambda: not platform.stack.state("postgres").running)
    finally:
        kept.write_bytes(known) if known else kept.unlink()
    record = platform.recover(began)
    assert record.verdict is not Verdict.NOT_RECOVERED, record.why
    assert written(platform) == before
    aside = Path(record.state_left.removeprefix("old data kept at directory ").split(";")[0])
    assert (aside / "the-old-data").exists(), "what is called the old data is what a recovery had made"


def test_what_was_there_before_is_kept_whole(platform: Platform) -> None:
    write(platform, "before-always")
    record = platform.recover(restore="always", source="continuous")
    assert record.verdict in (Verdict.RECOVERED, Verdict.UNPROVEN), record.why
    aside = Path(record.state_left.removeprefix("old data kept at directory ").split(";")[0])
    assert "before-always" in written(platform)
    programs = postgres_programs(platform.sandbox.directory)
    looked = run(Command((str(programs / "pg_controldata"), "-D", str(aside))), timeout=SOON)
    assert "in production" in looked.text or "shut down" in looked.text
    assert os.path.getsize(aside / "PG_VERSION") > 0
