"""How a run tells whoever watches what it is doing while it does it."""

from __future__ import annotations

from typing import Protocol

from recoup.records import RecoveryRecord, StepRecord


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


class Silent:
    """Watches nothing."""

    def begin(self, record: RecoveryRecord) -> None: ...

    def step(self, step: StepRecord) -> None: ...

    def note(self, text: str) -> None: ...

    def end(self, record: RecoveryRecord) -> None: ...
