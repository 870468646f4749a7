"""What looking at one item of the checklist gives: an outcome and its evidence in one line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from recoup.records import Outcome

PATIENCE = timedelta(seconds=5)
_WORST = (Outcome.FAILED, Outcome.UNPROVEN, Outcome.PASSED)


@dataclass(frozen=True)
class Found:
    """One item, or one part of it, as it was seen."""

    outcome: Outcome
    seen: str


def passed(seen: str) -> Found:
    return Found(Outcome.PASSED, seen)


def failed(seen: str) -> Found:
    return Found(Outcome.FAILED, seen)


def unproven(seen: str) -> Found:
    return Found(Outcome.UNPROVEN, seen)


def together(parts: Iterable[Found], nothing: str) -> Found:
    """Give the worst outcome of the parts and what was seen of those; with no part, unproven and ``nothing``."""
    found = list(parts)
    for outcome in _WORST:
        if these := [part.seen for part in found if part.outcome is outcome]:
            return Found(outcome, "; ".join(these))
    return unproven(nothing)
