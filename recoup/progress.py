"""How a run tells whoever watches what it is doing while it does it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from recoup.clock import human
from recoup.records import RecoveryRecord, StepRecord, now


def stamped(text: str) -> str:
    """Return a line of a log: the moment in UTC, then the text; its further lines are indented."""
    return f"{now():%H:%M:%S}Z  " + text.replace("\n", "\n           ")


def step_end(step: StepRecord) -> str:
    """Return how a step ended: its outcome, time and attempts, and what it found."""
    again = f", {step.attempts} attempts" if step.attempts > 1 else ""
    earlier = ", in the interrupted run" if step.resumed else ""
    return f"{step.outcome} in {human(step.took)}{again}{earlier}" + (f": {plain(step.detail)}" if step.detail else "")


def plain(text: str) -> str:
    """Return a text in which nothing can move the cursor or colour the screen."""
    return "".join(c if c.isprintable() else " " for c in text)


class Watcher(Protocol):
    """Told of a run as it goes; must never raise, for it may not stop a recovery."""

    def begin(self, record: RecoveryRecord) -> None: ...

    def step(self, step: StepRecord) -> None:
        """A step was opened (``running``) or has ended; the same name comes twice."""
        ...

    def note(self, text: str) -> None:
        """One line on what the running step is doing now."""
        ...

    def end(self, record: RecoveryRecord) -> None: ...


@dataclass(frozen=True)
class Pace:
    """How far something long is: bytes, rate, and the time that is left where it is known (or roughly) how many."""

    done: str
    whole: int = 0
    began: float = field(default_factory=time.monotonic)

    def at(self, size: int) -> str:
        """Give one line: ``copied 12 of 40 MB, 5 MB/s, 6 s left``."""
        rate = size / max(time.monotonic() - self.began, 0.1)
        of = f" of {self.whole / 1e6:.0f}" if self.whole else ""
        missing = self.whole - size
        left = f", {human(timedelta(seconds=round(missing / rate)))} left" if rate and missing > 0 else ""
        return f"{self.done} {size / 1e6:.0f}{of} MB, {rate / 1e6:.0f} MB/s{left}"


class Silent:
    """Watches nothing."""

    def begin(self, record: RecoveryRecord) -> None: ...

    def step(self, step: StepRecord) -> None: ...

    def note(self, text: str) -> None: ...

    def end(self, record: RecoveryRecord) -> None: ...
