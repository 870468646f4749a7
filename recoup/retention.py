"""Which backup sets are kept and which expire, each with the reason: one pure function for every place."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

BEYOND = "beyond what the plan keeps"


class Rule(Protocol):
    """What a plan says is to be kept, as ``BackupPolicy`` does."""

    @property
    def keep(self) -> int: ...

    @property
    def daily(self) -> int: ...

    @property
    def weekly(self) -> int: ...

    @property
    def monthly(self) -> int: ...


@dataclass(frozen=True)
class Keep:
    """A rule without a plan."""

    keep: int
    daily: int = 0
    weekly: int = 0
    monthly: int = 0


@dataclass(frozen=True)
class Candidate:
    """A set that may expire: when it was taken, whether its restore test passed, and the set it needs, if any.

    ``stranded`` says why it leads nowhere any more: a physical copy of a history that a restore has undone.
    """

    set_id: str
    at: datetime
    verified: bool = False
    needs: str = ""
    locked_until: datetime | None = None
    stranded: str = ""


@dataclass(frozen=True)
class Decision:
    """What becomes of one set, and why."""

    set_id: str
    kept: bool
    reason: str


def decide(
    candidates: Sequence[Candidate], rule: Rule, whole: Callable[[str], bool], now: datetime
) -> tuple[Decision, ...]:
    """Decide on every set, newest first.

    ``whole`` says of a set whether all of it is there: it may have to read the set, so it is asked only when something
    would expire, and only until one is found. With none whole left everything stays: somebody may want the pieces.
    """
    order = sorted(candidates, key=lambda one: (one.at, one.set_id), reverse=True)
    of_use = [one for one in order if not one.stranded]
    reasons: dict[str, str] = {}
    _newest(order, max(rule.keep, 1), reasons)
    if of_use:
        _by_calendar(of_use, rule, reasons)
    if (tested := next((one for one in (*of_use, *order) if one.verified), None)) is not None:
        reasons.setdefault(tested.set_id, "the last one whose restore test passed")
    for one in order:
        if one.locked_until is not None and one.locked_until > now:
            reasons.setdefault(one.set_id, f"locked until {one.locked_until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC")
    _needed(order, reasons)
    _last_whole(order, reasons, whole)
    _needed(order, reasons)
    return tuple(
        Decision(one.set_id, one.set_id in reasons, reasons.get(one.set_id, one.stranded or BEYOND)) for one in order
    )


def _newest(order: Sequence[Candidate], keep: int, reasons: dict[str, str]) -> None:
    count = 0
    for one in order:
        if count == keep:
            return
        if one.stranded:
            reasons[one.set_id] = f"fewer than {keep} newer ones can be recovered from, though {one.stranded}"
            continue
        if one.needs:
            # What changed since a whole one shortens the way from it, and reaches no further back.
            reasons[one.set_id] = f"it goes with one of the newest {keep}" if keep > 1 else "it goes with the newest"
            continue
        reasons[one.set_id] = f"one of the newest {keep}" if keep > 1 else "the newest"
        count += 1


def _by_calendar(order: Sequence[Candidate], rule: Rule, reasons: dict[str, str]) -> None:
    newest = _day(order[0])
    monday = newest - timedelta(days=newest.isoweekday() - 1)
    months = newest.year * 12 + newest.month
    spans: tuple[tuple[str, Callable[[date], Hashable], set[Hashable]], ...] = (
        ("day", lambda day: day, {newest - timedelta(days=n) for n in range(rule.daily)}),
        ("week", _week, {_week(monday - timedelta(weeks=n)) for n in range(rule.weekly)}),
        ("month", lambda day: day.year * 12 + day.month, {months - n for n in range(rule.monthly)}),
    )
    for name, span, wanted in spans:
        for one in order:
            if (this := span(_day(one))) in wanted:
                wanted.discard(this)
                reasons.setdefault(one.set_id, f"the last of its {name}")


def _last_whole(order: Sequence[Candidate], reasons: dict[str, str], whole: Callable[[str], bool]) -> None:
    parents = {one.set_id: one.needs for one in order if not one.stranded}

    def usable(set_id: str) -> bool:
        # An incremental set is worth no more than the sets below it.
        seen: set[str] = set()
        while set_id and set_id not in seen:
            if set_id not in parents or not whole(set_id):
                return False
            seen.add(set_id)
            set_id = parents[set_id]
        return True

    going = [one for one in order if one.set_id not in reasons]
    if not going or any(usable(one.set_id) for one in order if one.set_id in reasons):
        return
    if (good := next((one for one in going if usable(one.set_id)), None)) is not None:
        reasons[good.set_id] = "the last one that is whole"
        return
    for one in going:
        reasons[one.set_id] = "no set is whole: nothing is removed"


def _needed(order: Sequence[Candidate], reasons: dict[str, str]) -> None:
    needs = {one.set_id: one.needs for one in order}
    for one in order:
        child = one.set_id
        while child in reasons and (parent := needs.get(child, "")) and parent in needs and parent not in reasons:
            reasons[parent] = f"needed by {child}"
            child = parent


def _day(one: Candidate) -> date:
    return one.at.astimezone(UTC).date()


def _week(day: date) -> tuple[int, int]:
    return day.isocalendar()[:2]
