"""Where a restore looks for a set: in the repository here first, then in the plan's copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from recoup.catalog import Repository
from recoup.errors import PreconditionError, RecoupError, RecoveryError
from recoup.plan import Plan
from tasks.copies import CopyPlace
from tasks.copies_sync import fetch_from_any
from tasks.step import note

C = TypeVar("C")


def copies_of(plan: Plan) -> tuple[CopyPlace, ...]:
    """Give every copy of a plan, opened."""
    return tuple(CopyPlace.open(spec, plan.platform.repository) for spec in plan.platform.copies)


def here_or_fetched(
    find: Callable[[str], C], copies: tuple[CopyPlace, ...], series: str, repository: Repository, wanted: str
) -> C:
    """Give what ``find`` finds for the wanted set; where it finds none that is good, one is fetched from a copy first.

    Raises what ``find`` raised when there are no copies, RecoveryError with what was wrong in each when none has one.
    """
    try:
        return find(wanted)
    except (RecoveryError, PreconditionError) as error:
        if not copies:
            raise
        note(f"{error.what}; looking in {', '.join(copy.name for copy in copies)}")
        fetched = fetch_from_any(copies, series, repository, wanted)
        return find(fetched.use.set_id or wanted)


def would_fetch(plan: Plan, error: RecoupError) -> tuple[str, ...]:
    """Give the lines of a preview where no good set is here: one would be fetched, or it is not possible."""
    if not plan.platform.copies:
        return (f"not possible: {error.what}",)
    names = ", ".join(copy.name for copy in plan.platform.copies)
    return (error.what, f"one would be fetched from {names} first")
