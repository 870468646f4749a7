"""The journal of one run: what was opened and finished, on disk before anything more is done.

A killed run leaves a journal without a closing line; the next run of the same job takes it up there.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError

from recoup.errors import PreconditionError, RecoveryError
from recoup.records import Frozen, StepOutcome, StepRecord, now

_RUN_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_NEVER = datetime.min.replace(tzinfo=UTC)


class RunHeader(Frozen):
    """What a run was started with; ``parameters`` is JSON and holds no secret."""

    run_id: str
    platform: str
    procedure: str
    component: str
    began: AwareDatetime | None = None
    began_source: str = "unknown"
    parameters: str = "{}"


class _Headed(Frozen):
    kind: Literal["header"] = "header"
    at: AwareDatetime
    header: RunHeader


class _Opened(Frozen):
    kind: Literal["opened"] = "opened"
    at: AwareDatetime
    step: StepRecord


class _Finished(Frozen):
    kind: Literal["finished"] = "finished"
    at: AwareDatetime
    step: StepRecord
    result: str


class _Marked(Frozen):
    kind: Literal["mark"] = "mark"
    at: AwareDatetime
    name: str
    when: AwareDatetime


class _Closed(Frozen):
    kind: Literal["closed"] = "closed"
    at: AwareDatetime
    verdict: str


_Line = _Headed | _Opened | _Finished | _Marked | _Closed
_LINE: TypeAdapter[_Line] = TypeAdapter(Annotated[_Line, Field(discriminator="kind")])


class Journal:
    """One run's append-only file ``<state>/runs/<run_id>.jsonl``, each line on disk when the call returns.

    Safe to use from several threads of the one process that holds the platform's lease.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._steps: dict[str, StepRecord] = {}
        self._results: dict[str, str] = {}
        self._marks: dict[str, datetime] = {}
        self._header: RunHeader | None = None
        self._opened = self._last = _NEVER
        self._closed: str | None = None
        self._end = 0

    @classmethod
    def create(cls, state: Path, run_id: str, header: RunHeader) -> Journal:
        """Begin the journal of a new run; raises PreconditionError when it exists or cannot be written."""
        if not _RUN_ID.match(run_id):
            raise PreconditionError(f"run id {run_id!r} cannot name a file", next_step="use letters, digits, . _ and -")
        journal = cls(state / "runs" / f"{run_id}.jsonl")
        try:
            journal.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(journal.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            raise PreconditionError(f"run {run_id} already has a journal: {journal.path}") from None
        except OSError as error:
            raise PreconditionError(
                f"the journal {journal.path} cannot be made: {error.strerror}",
                next_step=f"make {state} a directory this user may write to, with space left",
            ) from None
        journal._add(_Headed(at=now(), header=header))
        _sync_directory(journal.path.parent)
        return journal

    @classmethod
    def load(cls, path: Path) -> Journal | None:
        """Read a journal as far as it is whole; None when not even its header is."""
        journal = cls(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PreconditionError(
                f"the journal {path} cannot be read: {error.strerror}",
                next_step="give this user the right to read it; if it is damaged, move it elsewhere",
            ) from None
        for raw in content.splitlines(keepends=True):
            try:
                line = _LINE.validate_json(raw)
            except ValidationError:
                break
            # A line without its end was cut off by a crash; what follows it cannot be trusted either.
            if not raw.endswith(b"\n"):
                break
            journal._take(line)
            journal._end += len(raw)
        return journal if journal._header is not None else None

    @classmethod
    def unfinished(
        cls,
        state: Path,
        platform: str,
        procedure: str,
        component: str,
        max_age: timedelta = timedelta(hours=24),
    ) -> Journal | None:
        """Give the newest journal of this job that was never closed and last wrote within ``max_age``, or None."""
        age = max_age.total_seconds()
        # Those of long ago are not even opened: one that cannot be read would hinder every recovery after it.
        recent = (p for p in (state / "runs").glob("*.jsonl") if now().timestamp() - p.stat().st_mtime <= age)
        found = (cls.load(path) for path in recent)
        wanted = (platform, procedure, component)
        candidates = [j for j in found if j and j.job == wanted and j.verdict is None and now() - j._last <= max_age]
        return max(candidates, key=lambda j: (j._opened, j.path.name), default=None)

    @property
    def header(self) -> RunHeader:
        assert self._header is not None, "create and load both see to the header"
        return self._header

    @property
    def job(self) -> tuple[str, str, str]:
        """Platform, procedure and component: what makes two runs the same job."""
        return self.header.platform, self.header.procedure, self.header.component

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        """The latest record of each step, in the order they were first opened."""
        return tuple(self._steps.values())

    @property
    def marks(self) -> Mapping[str, datetime]:
        """The moments of the outage clock seen so far, by name, aware UTC."""
        return dict(self._marks)

    @property
    def verdict(self) -> str | None:
        """The verdict of the closing line; None while the run is unfinished."""
        return self._closed

    def opened(self, step: StepRecord) -> None:
        """Note that a step is about to act."""
        self._add(_Opened(at=now(), step=step))

    def finished(self, step: StepRecord, result: str) -> None:
        """Note how a step ended, and its result as JSON text."""
        self._add(_Finished(at=now(), step=step, result=result))

    def result_of(self, step_name: str) -> tuple[StepRecord, str] | None:
        """Give a step's record and result when its last word was ``done``; otherwise it has to be done again."""
        step = self._steps.get(step_name)
        if step is None or step.outcome is not StepOutcome.DONE or step_name not in self._results:
            return None
        return step, self._results[step_name]

    def mark(self, name: str, when: datetime) -> None:
        """Note a moment of the outage clock (began, declared, started, approved, restored)."""
        self._add(_Marked(at=now(), name=name, when=when))

    def close(self, verdict: str) -> None:
        """Write the closing line: the run is over and will not be taken up again."""
        self._add(_Closed(at=now(), verdict=verdict))

    def _take(self, line: _Line) -> None:
        self._last = line.at
        match line:
            case _Headed():
                self._header, self._opened = line.header, line.at
            case _Opened():
                self._steps[line.step.name] = line.step
                self._results.pop(line.step.name, None)
            case _Finished():
                self._steps[line.step.name] = line.step
                self._results[line.step.name] = line.result
            case _Marked():
                self._marks[line.name] = line.when
            case _Closed():
                self._closed = line.verdict

    def _add(self, line: _Line) -> None:
        with self._guard:
            try:
                self._end = _append(self.path, self._end, line.model_dump_json().encode() + b"\n")
            except OSError as error:
                raise RecoveryError(
                    f"the journal {self.path} cannot be written: {error.strerror}",
                    state="the steps recorded so far are done; nothing was begun after them",
                    next_step="free space or restore access there, then run the same command again: it resumes",
                ) from None
            self._take(line)


def _append(path: Path, end: int, line: bytes) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        if torn := os.pread(descriptor, os.fstat(descriptor).st_size, end):
            # Kept for whoever asks what the crash cut off; the steps after it are idempotent and are done again.
            path.with_suffix(".torn").write_bytes(torn)
            os.ftruncate(descriptor, end)
        try:
            written = 0
            while written < len(line):
                written += os.pwrite(descriptor, line[written:], end + written)
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
        return end + len(line)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
