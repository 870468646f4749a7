"""Versions of a sandbox really released and rolled back by the whole procedure; looked at from outside."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments import cli
from deployments.catalog import deployments
from flows.backup import run_backup
from flows.drill_rollback import RollbackDrill, drill_rollback
from flows.procedure import watched_by
from flows.rollback import Rollback, run_rollback
from recoup.catalog import Repository
from recoup.errors import PreconditionError
from recoup.journal import Journal
from recoup.ledger import Ledger
from recoup.places import drill_ledger
from recoup.plan import load_plan
from recoup.records import Outcome, RecoveryRecord, StepOutcome, Subject, Verdict, now
from recoup.release import release_of
from recoup.stacks import open_stack
from recoup.stacks.process import ProcessStack
from tasks.release_fault import ReleaseFault, inject
from tasks.sandbox import create, destroy
from tasks.sandbox_release import commit_version, deploy, migrate
from tasks.smoke import Door, round_of_requests
from tests.drills.platform import Killer, Platform, run_in_a_process_of_its_own

SERVICE = "records-service"
FIRST, NEWER = "0001_audit_by_record", "0002_record_note"


@dataclass(frozen=True)
class Released(Platform):
    """A sandbox with versions: 1.0.0 is good, 1.5.0 is not, and 2.0.0, with one migration more, is good and runs."""

    @property
    def checkout(self) -> Path:
        return release_of(self.plan).checkout

    def roll_back(self, version: str = "") -> RecoveryRecord:
        request = Rollback(plan=self.sandbox.plan, version=version, began=now())
        return run_rollback(self.plan, request, ledger=self.ledger.path)

    def migrations(self) -> list[str]:
        return self.sql("SELECT name FROM migrations ORDER BY name").split()

    def has_note(self) -> bool:
        return (
            self.sql("SELECT count(*) FROM pg_attribute WHERE attrelid = 'records'::regclass AND attname = 'note'")
            == "1"
        )

    def runs(self) -> str:
        """Give the version whose files the running process really has, by its environment in /proc."""
        pid = (self.sandbox.directory / "run" / f"{SERVICE}.pid").read_text().split()[0]
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        (place,) = [Path(os.fsdecode(one[11:])) for one in environment if one.startswith(b"PYTHONPATH=")]
        text = (place / "app" / "records.py").read_text()
        return text.rpartition("VERSION = ")[2].strip().strip("'") if "VERSION = " in text else "1.0.0"

    def serves(self) -> bool:
        return all(one.outcome is Outcome.PASSED for one in round_of_requests(Door.of(self.plan, self.stack)))

    def picture(self) -> tuple[object, ...]:
        """Give all that a refused rollback must leave as it was."""
        started = tuple(self.stack.state(name).started for name in self.stack.names)
        sets = len(Repository(self.plan.platform.repository).sets("database"))
        return started, sets, self.migrations(), sorted(self.checkout.parent.glob("checkout*/*"))

    def git(self, *arguments: str) -> str:
        argv = ("git", "-c", "user.name=x", "-c", "user.email=x@y", "-C", str(self.checkout), *arguments)
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


def _made() -> Released:
    made = create("process", released=True)
    return Released(made, load_plan(made.plan), ProcessStack.open(made.directory))


@pytest.fixture(scope="module")
def made(state: Path) -> Iterator[Released]:
    one = _made()
    try:
        migrate(one.plan)
        commit_version(one.checkout, "1.5.0", good=False, days_ago=2)
        commit_version(one.checkout, "2.0.0", good=True, days_ago=1, migration="both")
        yield one
    finally:
        destroy(one.sandbox)


@pytest.fixture
def released(made: Released) -> Released:
    """Give the sandbox with 2.0.0 deployed from its checkout, whatever the test before has left."""
    if made.runs() != "2.0.0" or made.stack.releases.deployment(SERVICE) is None or not made.has_note():
        deploy(made.plan, "2.0.0")
    return made


def test_a_bad_release_is_rolled_back_and_no_acknowledged_write_is_lost() -> None:
    record = drill_rollback.fn(RollbackDrill())
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.rto_met
    assert record.procedure == "rollback"
    for subject in (Subject.DATA, Subject.USER):
        assert [one for one in record.checks if one.subject is subject]
    assert record.stores[0].acknowledged_writes
    assert record.stores[0].acknowledged_writes_lost == 0
    names = [step.name for step in record.steps]
    # All stores were kept before anything was changed.
    changes = min(names.index(name) for name in ("migrate-down", "deploy-release"))
    for kept in ("postgres/take-database-backup", "redis/take-redis-backup"):
        assert names.index(kept) < changes


def test_a_version_that_is_no_better_is_given_up_and_the_drill_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    code = cli.run(["drill", "rollback", "--fault", "bad-version", "--json"])
    said = capfd.readouterr()
    assert code == 1, said.err
    record = RecoveryRecord.model_validate_json(said.out)
    assert record.verdict is Verdict.NOT_RECOVERED
    assert record.why.startswith("1.9.0 failed its smoke tests: gateway: read it back")
    assert record.state_left.startswith("2.0.0, which ran before, runs again, and users are served")
    assert record.clock.restored is None


def test_a_migration_that_cannot_be_undone_stops_the_drill_before_any_change() -> None:
    record = drill_rollback.fn(RollbackDrill(fault=ReleaseFault.IRREVERSIBLE_MIGRATION))
    assert record == [one for one in Ledger(drill_ledger()).records() if one.stack == record.stack][-1]
    assert record.verdict is Verdict.NOT_RECOVERED
    assert [step.name for step in record.steps] == ["choose-version"]
    assert record.state_left == "nothing was changed"


def test_what_is_offered_for_it_leads_back_to_the_version_before(state: Path) -> None:
    one = _made()
    try:
        migrate(one.plan)
        run_backup(one.plan, one.stack, verify=False)
        commit_version(one.checkout, "2.0.0", good=True, days_ago=1, migration="up")
        deploy(one.plan, "2.0.0")
        before = one.picture()
        with pytest.raises(PreconditionError, match=f"{NEWER} cannot be undone") as refused:
            one.roll_back()
        assert one.picture() == before
        offered = refused.value.next_step.partition(": ")[2].partition("; then: ")
        command = shlex.split(offered[0])
        assert command[:3] == ["recoup", "recover", "database"]
        assert offered[2] == "recoup rollback 1.0.0"
        assert cli.run([*command[1:], "--plan", str(one.sandbox.plan), "--yes"]) == 0
        record = one.roll_back("1.0.0")
        assert record.verdict is Verdict.RECOVERED, record.why
        assert (one.runs(), one.migrations(), one.has_note()) == ("1.0.0", [FIRST], False)
        assert one.serves()
    finally:
        destroy(one.sandbox)


def test_code_and_database_go_back_together_and_forward_again(released: Released) -> None:
    record = released.roll_back("v1.0.0")
    assert record.verdict is Verdict.RECOVERED, record.why
    assert (released.runs(), released.migrations(), released.has_note()) == ("1.0.0", [FIRST], False)
    # The checkout is the operator's: it is as it was, and clean.
    assert (released.git("describe", "--tags"), released.git("status", "--porcelain")) == ("v2.0.0", "")
    # Whoever makes a service anew does not jump forward in silence …
    open_stack(released.plan).recreate(SERVICE)
    assert released.runs() == "1.0.0"
    record = released.roll_back("2.0.0")
    assert record.verdict is Verdict.RECOVERED, record.why
    assert (released.runs(), released.migrations(), released.has_note()) == ("2.0.0", [FIRST, NEWER], True)
    released.roll_back("1.0.0")
    # … and what people deploy by hand afterwards is not undone in silence either.
    deploy(released.plan, "2.0.0")
    open_stack(released.plan).recreate(SERVICE)
    assert released.runs() == "2.0.0"


def test_a_version_that_fails_its_smoke_tests_gives_way_to_what_ran(released: Released) -> None:
    record = released.roll_back()
    assert record.verdict is Verdict.NOT_RECOVERED
    assert "1.5.0 failed its smoke tests" in record.why
    assert (released.runs(), released.migrations(), released.has_note()) == ("2.0.0", [FIRST, NEWER], True)
    assert released.serves()
    assert {step.outcome for step in record.steps} == {StepOutcome.DONE}


def test_a_way_down_that_fails_gives_way_to_what_ran(released: Released) -> None:
    files = released.checkout / "app" / "migrations"
    (files / "0003_worse.up.sql").write_text("CREATE TABLE worse (id int);\n")
    (files / "0003_worse.down.sql").write_text("DROP TABLE no_such_table;\n")
    released.git("add", "--all")
    released.git("commit", "--quiet", "--message", "a way down that fails")
    released.git("tag", "v2.1.0")
    try:
        deploy(released.plan, "2.1.0")
        record = released.roll_back("2.0.0")
        assert record.verdict is Verdict.NOT_RECOVERED
        assert "the migrations of 2.1.0 failed" in record.why
        assert "no_such_table" in record.why
        assert released.migrations() == [FIRST, NEWER, "0003_worse"]
        assert released.serves()
    finally:
        released.sql("DROP TABLE worse; DELETE FROM migrations WHERE name = '0003_worse'")
        deploy(released.plan, "2.0.0")
        released.git("tag", "--delete", "v2.1.0")


@pytest.mark.parametrize(
    ("version", "why", "next_step"),
    [("7.0.0", "has no version 7.0.0", "2.0.0, 1.5.0, 1.0.0"), ("2.0.0", "is what runs now", "1.0.0")],
)
def test_a_version_nobody_knows_or_that_runs_is_refused(
    version: str, why: str, next_step: str, released: Released
) -> None:
    before = released.picture()
    with pytest.raises(PreconditionError, match=why) as refused:
        released.roll_back(version)
    assert next_step in refused.value.next_step
    assert released.picture() == before


def test_without_an_earlier_tag_there_is_nothing_to_go_back_to(released: Released) -> None:
    before = released.picture()
    tags = {name: released.git("rev-parse", name) for name in ("v1.0.0", "v1.5.0")}
    released.git("tag", "--delete", *tags)
    try:
        with pytest.raises(PreconditionError, match=r"no version before 2\.0\.0"):
            released.roll_back()
    finally:
        for name, commit in tags.items():
            released.git("tag", name, commit)
    assert released.picture() == before


@pytest.mark.parametrize("hidden", [False, True])
def test_a_dirty_tree_is_refused_even_where_git_was_told_not_to_look(hidden: bool, released: Released) -> None:
    file = released.checkout / "app" / "gateway.py"
    was = file.read_text()
    if hidden:
        released.git("update-index", "--assume-unchanged", "app/gateway.py")
    file.write_text(f"{was}\n# changed on the server\n")
    before = released.picture()
    try:
        with pytest.raises(PreconditionError, match=r"changes that are in no commit: app/gateway\.py"):
            released.roll_back("1.0.0")
        assert file.read_text() != was
    finally:
        file.write_text(was)
        released.git("update-index", "--no-assume-unchanged", "app/gateway.py")
    assert released.picture() == before


def test_what_runs_is_told_from_what_runs_and_not_from_where_the_checkout_stands(released: Released) -> None:
    released.git("checkout", "--quiet", "v1.0.0")
    try:
        with pytest.raises(PreconditionError, match=r"what runs was deployed from 2\.0\.0"):
            released.roll_back("1.5.0")
    finally:
        released.git("checkout", "--quiet", "v2.0.0")


def test_a_plan_that_names_no_releases_is_told_so(released: Released) -> None:
    platform = released.plan.platform.model_copy(update={"release": None})
    plan = released.plan.model_copy(update={"platform": platform})
    with pytest.raises(PreconditionError, match="does not say where versions come from"):
        run_rollback(plan, Rollback(plan=released.sandbox.plan), ledger=released.ledger.path)


def test_a_dry_run_says_what_would_run_and_changes_nothing(
    released: Released, capsys: pytest.CaptureFixture[str]
) -> None:
    before = released.picture()
    assert cli.run(["rollback", "1.0.0", "--plan", str(released.sandbox.plan), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "2.0.0 runs, 1.0.0 is to; to be undone in the database: 0002_record_note" in said
    assert "back up postgres, redis, configuration" in said
    assert "worktree add" in said
    assert f"app.migrate down {FIRST}" in said
    assert "start records-service anew" in said
    assert released.picture() == before


@pytest.mark.parametrize("step", ["migrate-down", "deploy-release", "remember-version"])
def test_a_killed_rollback_goes_on(step: str, released: Released) -> None:
    assert _killed_at(step, "1.0.0", released) == -signal.SIGKILL
    state, name = released.plan.platform.state, released.plan.platform.name
    left = Journal.unfinished(state, name, "rollback", "release")
    assert left is not None
    request = Rollback(plan=released.sandbox.plan, version="1.0.0")
    record = run_rollback(released.plan, request, ledger=released.ledger.path)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.run_id == left.header.run_id
    assert (released.runs(), released.migrations(), released.has_note()) == ("1.0.0", [FIRST], False)
    assert released.serves()


def test_one_killed_while_it_returned_goes_on_returning(released: Released) -> None:
    assert _killed_at("deploy-back", "1.5.0", released) == -signal.SIGKILL
    request = Rollback(plan=released.sandbox.plan, version="1.5.0")
    record = run_rollback(released.plan, request, ledger=released.ledger.path)
    assert record.verdict is Verdict.NOT_RECOVERED
    assert "1.5.0 failed its smoke tests" in record.why
    assert (released.runs(), released.migrations(), released.has_note()) == ("2.0.0", [FIRST, NEWER], True)
    assert released.serves()


def test_it_is_offered_where_the_plan_says_where_versions_come_from(released: Released) -> None:
    path = released.sandbox.plan
    assert "rollback" in {one.name for one in deployments(path, released.plan)}
    platform = released.plan.platform.model_copy(update={"release": None})
    without = released.plan.model_copy(update={"platform": platform})
    assert "rollback" not in {one.name for one in deployments(path, without)}


def test_nothing_bad_is_released_where_there_is_no_sandbox(released: Released) -> None:
    with pytest.raises(PreconditionError, match="is not the sandbox"):
        inject(released.plan, released.stack, ReleaseFault.BAD_RELEASE, "another")
    assert released.serves()


def _killed_at(step: str, version: str, released: Released) -> int:
    return run_in_a_process_of_its_own(_roll_back_and_die, released.sandbox.plan, released.ledger.path, version, step)


def _roll_back_and_die(plan: Path, ledger: Path, version: str, step: str) -> None:
    with watched_by(Killer(step)):
        run_rollback(load_plan(plan), Rollback(plan=plan, version=version, began=now()), ledger=ledger)
