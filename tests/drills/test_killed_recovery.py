"""The recovering process is killed at every step; nothing is lost, and a second run goes on and recovers."""

from __future__ import annotations

import os
import signal
from datetime import datetime

import pytest

from flows.procedure import watched_by
from recoup.errors import BusyError
from recoup.journal import Journal
from recoup.progress import Silent
from recoup.records import RecoveryRecord, StepOutcome, StepRecord, Verdict
from tasks.postgres_fault import Fault
from tests.drills.platform import Platform

WIPE = [
    "diagnose-database",
    "choose-backup",
    "stop-services",
    "make-new-server",
    "restore-beside",
    "swap-databases",
    "start-services",
    "check-integrity",
    "check-as-user",
]
RESTART = ["diagnose-database", "restart-database", "start-services", "check-integrity", "check-as-user"]
# What is not decided anew once it is done: the services are stopped, the copy is restored, the names are swapped.
KEPT = {"stop-services", "restore-beside", "swap-databases", "start-services"}


class Seen(Silent):
    """Remembers which steps really ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def step(self, step: StepRecord) -> None:
        if step.outcome is StepOutcome.RUNNING:
            self.ran.append(step.name)


def killed(platform: Platform, fault: Fault, *, step: str = "", note: str = "") -> tuple[datetime, Journal]:
    """Break the database, kill its recovery, and give the beginning and the journal that was left."""
    began = platform.break_it(fault)
    assert platform.recover_and_die(began, step, note) == -signal.SIGKILL
    left = Journal.unfinished(platform.plan.platform.state, platform.plan.platform.name, "database", "postgres")
    assert left is not None
    return began, left


def again(platform: Platform, began: datetime, left: Journal) -> tuple[RecoveryRecord, list[str]]:
    """Run the recovery again as the operator would; give its record and the steps that ran, having checked the rest."""
    watcher = Seen()
    with watched_by(watcher):
        # The operator who starts it again need not know the moment any more.
        record = platform.recover()
    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    assert record.run_id == left.header.run_id
    assert record.clock.began == began
    assert record.clock.started == left.marks["started"]
    assert record.clock.rto is not None
    assert platform.ledger.records()[-1] == record
    after = Journal.load(left.path)
    assert after is not None
    assert after.verdict == Verdict.RECOVERED
    done = {step.name for step in left.steps if step.outcome is StepOutcome.DONE} & KEPT
    assert done.isdisjoint(watcher.ran)
    assert {step.name for step in record.steps if step.resumed} >= done
    return record, watcher.ran


@pytest.mark.parametrize("step", WIPE)
def test_killed_at_a_step_of_a_restore(step: str, platform: Platform) -> None:
    before = platform.databases()
    began, left = killed(platform, Fault.WIPE, step=step)
    assert [(one.name, one.outcome) for one in left.steps][-1] == (step, StepOutcome.RUNNING)
    assert [one.name for one in left.steps] == WIPE[: WIPE.index(step) + 1], platform.log()
    record, ran = again(platform, began, left)
    assert step in ran
    assert platform.sql("SELECT count(*) FROM records WHERE id LIKE 'seed-%'") == "6000"
    # A wipe takes the databases of before with it; what the new server had made under that name is kept beside.
    (kept,) = (name for name in platform.databases() - before if "_before_" in name)
    assert kept in record.state_left
    assert not any("_restore_" in name for name in platform.databases())


@pytest.mark.parametrize("step", RESTART)
def test_killed_at_a_step_of_a_restart(step: str, platform: Platform) -> None:
    platform.sql(f"INSERT INTO records (id, body) VALUES ('before-{step}', '{{}}')")
    before = platform.databases()
    began, left = killed(platform, Fault.KILL, step=step)
    assert [one.name for one in left.steps] == RESTART[: RESTART.index(step) + 1], platform.log()
    record, _ = again(platform, began, left)
    assert record.backup is None
    assert platform.databases() == before
    assert platform.sql(f"SELECT count(*) FROM records WHERE id = 'before-{step}'") == "1"


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        pytest.param(Fault.KILL, "reading public.", id="after the restart, before the step has ended"),
        pytest.param(Fault.DROP_TABLE, "stopping records-service", id="between two services"),
        pytest.param(Fault.DROP_TABLE, "comparing public.", id="with the copy loaded and not yet compared"),
        pytest.param(Fault.CONTROL_FILE, "moving the old data aside", id="before the data are moved aside"),
    ],
)
def test_killed_in_the_middle_of_a_step(fault: Fault, note: str, platform: Platform) -> None:
    began, left = killed(platform, fault, note=note)
    assert left.steps[-1].outcome is StepOutcome.RUNNING
    again(platform, began, left)
    assert not any("_restore_" in name for name in platform.databases())


def test_killed_before_the_new_data_directory_the_old_one_is_kept_whole(platform: Platform) -> None:
    began, left = killed(platform, Fault.CONTROL_FILE, step="make-new-server")
    record, _ = again(platform, began, left)
    aside = record.state_left.split("old data directory kept at directory ")[1].split(";")[0]
    assert os.path.isfile(f"{aside}/PG_VERSION")
    assert os.path.isdir(f"{aside}/base")


def test_killed_at_the_swap_what_the_users_had_is_kept_beside(platform: Platform) -> None:
    platform.sql("INSERT INTO users (username) VALUES ('came-after-the-backup')")
    began, left = killed(platform, Fault.DROP_TABLE, step="swap-databases")
    record, _ = again(platform, began, left)
    kept = record.state_left.removeprefix("old database kept as ")
    assert platform.sql("SELECT count(*) FROM users WHERE username = 'came-after-the-backup'") == "0"
    platform.sql(f"ALTER DATABASE {kept} ALLOW_CONNECTIONS true", "postgres")
    assert platform.sql("SELECT count(*) FROM users WHERE username = 'came-after-the-backup'", kept) == "1"


class Interrupting(Silent):
    """Sends this process what Ctrl-C sends, once."""

    def __init__(self, note: str) -> None:
        self._note: str | None = note

    def note(self, text: str) -> None:
        if self._note and self._note in text:
            self._note = None
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_recovery_leaves_a_record_and_the_next_one_goes_on(platform: Platform) -> None:
    began = platform.break_it(Fault.DROP_TABLE)
    with watched_by(Interrupting("restoring ")), pytest.raises(KeyboardInterrupt):
        platform.recover(began)
    record = platform.ledger.records()[-1]
    assert (record.verdict, record.why) == (Verdict.UNPROVEN, "the run was interrupted")
    assert record.clock.began == began
    assert record.clock.restored is None
    assert "run the same command again" in record.next_step
    assert record.steps[-1].name == "restore-beside"
    assert record.steps[-1].detail == "interrupted"
    left = Journal.unfinished(platform.plan.platform.state, platform.plan.platform.name, "database", "postgres")
    assert left is not None
    assert left.header.run_id == record.run_id
    again(platform, began, left)


def test_while_one_recovery_runs_a_second_one_is_refused(platform: Platform) -> None:
    began = platform.break_it(Fault.KILL)
    with platform.recovering_elsewhere(began) as holder:
        databases, records = len(platform.ledger.records()), platform.ledger.records()
        with pytest.raises(BusyError, match=rf"process {holder}\)") as refused:
            platform.recover(began)
        assert refused.value.exit_code == 2
        assert refused.value.state == "this run changed nothing"
        assert len(platform.ledger.records()) == databases
        assert platform.ledger.records() == records
        assert not platform.stack.state("postgres").running
    # Its holder was killed, not ended: the lease is free at once all the same, and the run goes on.
    assert platform.recover(began).verdict is Verdict.RECOVERED
