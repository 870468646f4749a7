"""A running sandbox as the tests of procedures see it: broken, recovered, and looked at from outside with psql."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from flows.backup import run_backup
from flows.database import DatabaseRecovery, run_recovery
from flows.platform import PlatformRecovery, run_platform_recovery
from flows.procedure import watched_by
from recoup.ledger import Ledger
from recoup.plan import Plan, load_plan
from recoup.progress import Silent
from recoup.records import RecoveryRecord, StepOutcome, StepRecord
from recoup.stacks import open_stack
from recoup.stacks.process import ProcessStack
from tasks.postgres_fault import Fault, inject
from tasks.sandbox import Sandbox
from tests.database_in_use import DatabaseInUse
from tests.stack_behaviour import SOON, eventually

# A process of its own for each recovery that is to be killed, without the seconds its imports would take.
_SEPARATE = multiprocessing.get_context("forkserver")
_SEPARATE.set_forkserver_preload(["tests.drills.platform"])


@dataclass(frozen=True)
class Platform(DatabaseInUse):
    """A sandbox, its plan and its stack."""

    sandbox: Sandbox
    plan: Plan
    stack: ProcessStack

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.sandbox.directory / "ledger.jsonl")

    def break_it(self, fault: Fault) -> datetime:
        """Inject a fault and give the moment."""
        broken = inject(self.server, fault, self.sandbox.id)
        broken.held.close()
        return broken.at

    def recover(self, began: datetime | None = None, **request: object) -> RecoveryRecord:
        """Run the recovery here and give its record."""
        asked = DatabaseRecovery.model_validate({"plan": self.sandbox.plan, "began": began, **request})
        return run_recovery(self.plan, asked, ledger=self.ledger.path)

    def recover_and_die(self, began: datetime, step: str = "", note: str = "") -> int:
        """Run the recovery in a process that is killed when it opens a step, or says something; gives its exit code."""
        return run_in_a_process_of_its_own(_recover_and_die, self.sandbox.plan, self.ledger.path, began, step, note)

    def back_up_and_die(self, note: str) -> int:
        """Take a backup in a process that is killed when it says something; gives its exit code."""
        return run_in_a_process_of_its_own(_back_up_and_die, self.sandbox.plan, note)

    @contextmanager
    def recovering_elsewhere(self, began: datetime) -> Iterator[int]:
        """Give the pid of a recovery that stands still at its first step while the block runs, and is killed after."""
        child = _SEPARATE.Process(
            target=_recover_and_wait, args=(self.sandbox.plan, self.ledger.path, began, self.sandbox.directory / "held")
        )
        child.start()
        try:
            eventually("the other recovery is under way", (self.sandbox.directory / "held").exists)
            assert child.pid is not None
            yield child.pid
        finally:
            child.kill()
            child.join(10)

    def sql(self, statement: str, database: str = "neo_service_layer") -> str:
        """Run SQL as the owner through the server's own socket, past everything that is tested."""
        argv = ("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "neo", "-d", database, "-c", statement)
        return self.stack.execute("postgres", argv, timeout=SOON).text

    def log(self) -> str:
        return self.stack.logs("postgres", tail=60)

    def databases(self) -> set[str]:
        return set(self.sql("SELECT datname FROM pg_database", "postgres").split())


def rebuild_and_die(platform: Platform, began: datetime, step: str) -> int:
    """Rebuild the whole platform in a process that is killed when it opens a step; gives its exit code."""
    return run_in_a_process_of_its_own(_rebuild_and_die, platform.sandbox.plan, platform.ledger.path, began, step)


def run_in_a_process_of_its_own(function: Callable[..., None], *args: object) -> int:
    """Run a function of a module in a process, and give its exit code."""
    child = _SEPARATE.Process(target=function, args=args)
    child.start()
    child.join(100)
    if child.is_alive():
        child.kill()
        raise AssertionError(f"{function.__name__} has not ended within 100 s")
    assert child.exitcode is not None
    return child.exitcode


class Killer(Silent):
    """Kills its own process when a step is opened, or something is said."""

    def __init__(self, step: str, note: str = "") -> None:
        self._step, self._note = step, note

    def step(self, step: StepRecord) -> None:
        if step.name == self._step and step.outcome is StepOutcome.RUNNING:
            os.kill(os.getpid(), signal.SIGKILL)

    def note(self, text: str) -> None:
        if self._note and self._note in text:
            os.kill(os.getpid(), signal.SIGKILL)


class _Standing(Silent):
    def __init__(self, sign: Path) -> None:
        self._sign = sign

    def step(self, step: StepRecord) -> None:
        self._sign.touch()
        time.sleep(100)


def _recover_and_wait(plan: Path, ledger: Path, began: datetime, sign: Path) -> None:
    with watched_by(_Standing(sign)):
        run_recovery(load_plan(plan), DatabaseRecovery(plan=plan, began=began), ledger=ledger)


def _recover_and_die(plan: Path, ledger: Path, began: datetime, step: str, note: str) -> None:
    with watched_by(Killer(step, note)):
        request = DatabaseRecovery(plan=plan, began=began)
        run_recovery(load_plan(plan), request, ledger=ledger)


def _rebuild_and_die(plan: Path, ledger: Path, began: datetime, step: str) -> None:
    with watched_by(Killer(step, "")):
        run_platform_recovery(load_plan(plan), PlatformRecovery(plan=plan, began=began), ledger=ledger)


def _back_up_and_die(path: Path, note: str) -> None:
    plan = load_plan(path)
    with watched_by(Killer("", note)):
        run_backup(plan, open_stack(plan), verify=False)
