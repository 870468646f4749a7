"""Continuous backup of the database: base backups by schedule, and the branch of its recovery that replays WAL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.backup import require_good
from flows.procedure import Run, current_watcher
from flows.steps import Steps
from recoup.catalog import Repository
from recoup.errors import RecoupError, first_line
from recoup.plan import Plan, load_plan
from recoup.records import BackupUse, Check, Frozen, Outcome, Subject
from recoup.stacks import Stack, open_stack
from tasks.postgres import Server
from tasks.postgres_base import BaseTaken, begin_anew, take_base_backup
from tasks.postgres_base_verify import verify_base_backup
from tasks.postgres_choice import ChosenBase, lost_since
from tasks.postgres_replay import Replayed, Resumed, replay_wal, start_replayed
from tasks.wal_receiver import prepare_continuous


class BaseRequest(Frozen):
    """Which server to copy, and whether whole."""

    plan: Path = Field(description="The plan's YAML file, on the machine that runs the backup")
    component: str = Field("", description="The postgres component of the plan; empty: the only one")
    verify: bool = Field(True, description="Replay it in a throwaway server at once, and look at it")
    full: bool = Field(True, description="The whole server, or what changed since the last copy (PostgreSQL 17+)")


@flow(name="back-up-base", log_prints=False)
def back_up_base(request: BaseRequest) -> BaseTaken:
    """Take one base backup and give what was published; raises RecoupError when none was."""
    plan = load_plan(request.plan)
    return run_base_backup(plan, open_stack(plan), request.component, full=request.full, verify=request.verify)


def run_base_backup(
    plan: Plan, stack: Stack, component: str = "", *, full: bool = True, verify: bool = True
) -> BaseTaken:
    """See that the WAL is received, take a base backup, replay it for a test; RecoveryError when it fails that."""
    server = Server.of(plan, stack, component or None)
    repository = Repository(plan.platform.repository)
    steps = Steps(current_watcher())
    steps.step("See that the WAL is received", prepare_continuous, server)
    taken = steps.step("Copy the server's files", take_base_backup, server, repository, not full)
    if verify:
        scratch = plan.platform.scratch
        found = steps.step("Replay for a test", verify_base_backup, server, repository, taken.set_id, scratch)
        require_good(found)
    return taken


def mending(plan: Plan, stack: Stack, component: str, tell: Callable[[str], None]) -> Callable[[], threading.Thread]:
    """Give what begins a base backup, in a thread of its own, if none can be replayed with the WAL received since."""
    busy = threading.Lock()

    def mend() -> None:
        with busy:
            try:
                if why := lost_since(Server.of(plan, stack, component or None), Repository(plan.platform.repository)):
                    tell(f"taking a new base backup: {why}")
                    tell(f"taken: {run_base_backup(plan, stack, component)}")
            except RecoupError as error:
                tell(f"no new base backup was taken: {first_line(error)}; take one: recoup backup now --store base")

    def begin() -> threading.Thread:
        thread = threading.Thread(target=mend, name="mend", daemon=True)
        thread.start()
        return thread

    return begin


def replay(run: Run, server: Server, repository: Repository, base: ChosenBase, to: str, label: str) -> Replayed:
    """Restore the server from a base backup and WAL, start it, and have its WAL received again."""
    step = run.steps.step
    scratch = run.job.plan.platform.scratch
    run.backup = BackupUse(
        set_id=base.set_id, recovery_point=base.recovery_point, skipped=base.skipped, why=f"continuous: {base.why}"
    )
    to = base.to or to
    done = step("Replay the WAL on a base backup", replay_wal, server, repository, base.set_id, to, label, scratch)
    run.checks.extend(done.checks)
    run.state_left = f"old data kept at {done.aside}" if done.aside else ""
    note_receiving(run, step("Start it and receive its WAL again", start_replayed, server))
    return done


def note_receiving(run: Run, resumed: Resumed) -> None:
    """Add what speaks against a recovered server whose WAL nobody receives."""
    if not resumed.received:
        run.checks.append(
            Check(
                name="the WAL is received again",
                subject=Subject.STATUS,
                outcome=Outcome.UNPROVEN,
                expected="a receiver that streams",
                seen=resumed.seen,
            )
        )


def begin_again(run: Run, server: Server, repository: Repository) -> None:
    """Begin a new base backup: what was taken before a restore is of another timeline, and a long way to replay."""
    begun = run.steps.step("Take a new base backup", begin_anew, server, repository, fresh=True)
    if not begun.set_id:
        run.next_step = (
            run.next_step or f"no base backup since the recovery ({begun.why}): recoup backup now --store base"
        )
