"""Everything recoup raises on purpose.

RecoupError
├── PlanError             the plan is wrong; carries every problem at once
├── PreconditionError     could not begin; nothing was changed
│   ├── BusyError         another run holds the platform's lease
│   └── WrongKeyError     what is encrypted does not open with this identity
└── RecoveryError         began and did not finish; something may have changed
    ├── ProgramError      a program answered with a failure or ran out of time
    └── DamagedError      what is encrypted was changed or cut short

Exit codes: PlanError and PreconditionError 2, RecoveryError 1.
"""

from __future__ import annotations


class RecoupError(Exception):
    """What happened, what state was left, and the next step, in words for the person on call."""

    exit_code = 1

    def __init__(self, what: str, *, state: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.state = state
        self.next_step = next_step

    def __str__(self) -> str:
        parts = [self.what]
        if self.state:
            parts.append(f"State left: {self.state}")
        if self.next_step:
            parts.append(f"Next: {self.next_step}")
        return "\n".join(parts)


class PreconditionError(RecoupError):
    """The run could not begin; nothing was changed."""

    exit_code = 2

    def __init__(self, what: str, *, state: str = "nothing was changed", next_step: str = "") -> None:
        super().__init__(what, state=state, next_step=next_step)


class PlanError(PreconditionError):
    """The plan is wrong; ``problems`` holds every problem found, one line each."""

    def __init__(self, what: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(what, next_step="correct the plan, then run: recoup plan check")
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  - {p}" for p in self.problems)])


class BusyError(PreconditionError):
    """Another run holds the platform's lease; only one destructive procedure runs at a time."""


class WrongKeyError(PreconditionError):
    """What is encrypted does not open with this identity."""


class RecoveryError(RecoupError):
    """A step failed after the run began; ``state`` says what may have changed."""


class DamagedError(RecoveryError):
    """What is encrypted was changed or cut short; nothing of it is to be believed."""


class ProgramError(RecoveryError):
    """A program failed or ran out of time; the message carries the end of its error output, masked."""

    def __init__(self, what: str, *, returncode: int | None, stderr: str, state: str = "", next_step: str = "") -> None:
        super().__init__(what, state=state, next_step=next_step)
        self.returncode = returncode
        self.stderr = stderr


def first_line(error: BaseException) -> str:
    """Give the first line of what an error says, or its name when it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
