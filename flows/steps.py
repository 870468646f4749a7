"""The steps of a run: each recorded before it acts, one after the other or several at the same time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from copy import copy
from typing import Any, TypeVar, get_type_hints

from prefect import Task
from pydantic import BaseModel

from recoup.errors import RecoupError
from recoup.journal import Journal
from recoup.progress import Watcher
from recoup.records import StepOutcome, StepRecord, now
from tasks.step import Watched, perform

M = TypeVar("M", bound=BaseModel)
AT_ONCE = 8


class Steps:
    """Runs steps, each recorded before it acts and completed whatever happens."""

    def __init__(self, watcher: Watcher, journal: Journal | None = None) -> None:
        self.watcher = watcher
        self.journal = journal
        self.records: dict[str, StepRecord] = {s.name: s for s in journal.steps} if journal else {}
        self._reached: set[str] = set()
        self._part = ""
        self._halted = threading.Event()

    def part(self, name: str) -> Steps:
        """Give the steps of one part of this run: in the same record and journal, each named after the part."""
        steps = copy(self)
        steps._part = name
        return steps

    def halt(self) -> None:
        """Let no further step of any part begin; those under way end."""
        self._halted.set()

    def step(self, title: str, task: Task[..., M], *args: Any, name: str = "", fresh: bool = False) -> M:
        """Run a step and give its result; one that a killed run had finished is not repeated, unless ``fresh``."""
        name = self._full(name or task.name)
        title = f"{self._part}: {title[0].lower()}{title[1:]}" if self._part else title
        if self._halted.is_set():
            raise KeyboardInterrupt
        if self.journal and not fresh and (done := self.journal.result_of(name)):
            record, text = done
            self._tell(record.model_copy(update={"resumed": True}))
            return _result_type(task).model_validate_json(text)
        record = StepRecord(name=name, title=title, started=now())
        if self.journal:
            self.journal.opened(record)
        self._tell(record)
        watched = Watched(self.watcher)
        outcome, detail, result = StepOutcome.FAILED, "interrupted", ""
        try:
            value = perform(task, watched, *args)
            outcome, detail, result = StepOutcome.DONE, str(value), value.model_dump_json()
            return value
        except RecoupError as error:
            detail = error.what
            raise
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"
            raise
        finally:
            ended = record.model_copy(
                update={"ended": now(), "outcome": outcome, "detail": detail, "attempts": max(watched.attempts, 1)}
            )
            if self.journal:
                self.journal.finished(ended, result)
            self._tell(ended)

    def at_once(self, task: Task[..., M], steps: Sequence[tuple[str, str, tuple[Any, ...]]]) -> tuple[M, ...]:
        """Run a step for each (title, name, arguments) at the same time and give their results in order.

        All of them are waited for; then the first error, if there was one, is raised.
        """
        with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
            # A thread knows neither the flow run nor who watches unless it is given a copy of this one's context.
            started = [
                pool.submit(copy_context().run, self._named, title, task, name, args) for title, name, args in steps
            ]
        return tuple(one.result() for one in started)

    def _named(self, title: str, task: Task[..., M], name: str, args: tuple[Any, ...]) -> M:
        return self.step(title, task, *args, name=name)

    def opened_before(self, task: Task[..., Any]) -> bool:
        """Say whether this run, killed or not, has ever opened the step."""
        return self._full(task.name) in self.records

    def done_before(self, task: Task[..., M]) -> M | None:
        """Give the result of a step that this run, killed or not, has done."""
        done = self.journal.result_of(self._full(task.name)) if self.journal else None
        return _result_type(task).model_validate_json(done[1]) if done else None

    def leave_behind(self) -> None:
        """Set down as skipped what a killed run had begun and this one, having gone another way, did not need."""
        for name, record in self.records.items():
            if name not in self._reached and record.outcome is not StepOutcome.DONE:
                self.records[name] = record.model_copy(
                    update={"outcome": StepOutcome.SKIPPED, "detail": "begun by the killed run; no longer needed"}
                )

    def _full(self, name: str) -> str:
        return f"{self._part}/{name}" if self._part else name

    def _tell(self, record: StepRecord) -> None:
        self._reached.add(record.name)
        self.records[record.name] = record
        self.watcher.step(record)


def _result_type(task: Task[..., M]) -> type[M]:
    found: type[M] = get_type_hints(task.fn)["return"]
    return found
