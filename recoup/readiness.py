"""Whether a plan's backups would carry a recovery now, as a pure function of what was seen.

Asked of each store: its age against the RPO, whether a restore was proven, and 3-2-1: three copies, on two kinds of
place, one of them elsewhere; and of a database with a standby, whether that one could take over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from recoup.clock import human


@dataclass(frozen=True)
class PlaceSeen:
    """The newest good set of one store in one place.

    ``kind`` tells places apart that fail together (this machine's disk, another disk, a bucket). ``point`` None: there
    is no set; ``trouble``: it could not be looked at. ``lacks_since``: the moment of the oldest set
    that should have been copied there and was not.
    """

    name: str
    kind: str
    offsite: bool
    point: datetime | None = None
    trouble: str = ""
    lacks_since: datetime | None = None


@dataclass(frozen=True)
class StoreSeen:
    """One store: its objective, its newest set here, what is newer than that, and where else it is.

    ``interval`` is how often the plan backs it up. ``continuous`` is how far WAL that was received reaches,
    ``wal_trouble`` why it does not count. ``local``
    is the repository of this machine, ``copies`` the plan's copies. ``proven`` is the moment the newest proven set
    holds, ``failed`` says that the newest set's restore test failed. ``unprotected`` says what changed since the newest
    set, for a store with an objective of 0. ``standby`` is what state the plan's standby is in, ``standby_ready``
    whether it could take over.
    """

    name: str
    rpo: timedelta
    interval: timedelta
    local: PlaceSeen
    copies: Sequence[PlaceSeen] = ()
    continuous: datetime | None = None
    wal_trouble: str = ""
    proven: datetime | None = None
    failed: bool = False
    unprotected: str = ""
    standby: str = ""
    standby_ready: bool = False
    production: str = "this machine's disk"


@dataclass(frozen=True)
class Finding:
    """One thing that was asked of one store; ``why`` is in words for the person who has to mend it."""

    store: str
    asked: str
    met: bool
    why: str


def judge(stores: Sequence[StoreSeen], now: datetime) -> tuple[Finding, ...]:
    """Judge every store: RPO, proven, and the three parts of 3-2-1 (the production data count as one copy)."""
    found: list[Finding] = []
    for store in stores:
        found += [_age(store, now), _proven(store, now), *_three_two_one(store, now)]
        if store.standby:
            found.append(Finding(store.name, "standby", store.standby_ready, store.standby))
    return tuple(found)


def ready(findings: Sequence[Finding]) -> bool:
    """Say whether everything asked is met; nothing asked is not ready."""
    return bool(findings) and all(one.met for one in findings)


def _age(store: StoreSeen, now: datetime) -> Finding:
    points = [point for point in (store.local.point, store.continuous) if point is not None]
    if store.local.trouble or not points:
        why = store.local.trouble or f"there is no good set in {store.local.name}; take one: recoup backup now"
        return Finding(store.name, "RPO", False, why)
    if store.local.point is None:
        return Finding(store.name, "RPO", False, "WAL without a set to replay it on; take one: recoup backup now")
    if store.failed:
        return Finding(store.name, "RPO", False, "the restore test of the newest set failed; take another one")
    age = max(now - max(points), timedelta(0))
    by = "received WAL" if store.continuous and max(points) == store.continuous else "newest set"
    if not store.rpo:
        # A set of it is published only when something changed: its age says nothing.
        why = (
            store.unprotected
            or f"kept by version control; the newest set is {human(age)} old, nothing has changed since"
        )
        return Finding(store.name, "RPO", not store.unprotected, why)
    why = f"{by} is {human(age)} old, RPO {human(store.rpo)}"
    if store.wal_trouble:
        # The plan counts on it: a set that happens to be young enough does not make up for it.
        return Finding(store.name, "RPO", False, f"{why}; received WAL does not count: {store.wal_trouble}")
    return Finding(store.name, "RPO", age <= store.rpo, why)


def _proven(store: StoreSeen, now: datetime) -> Finding:
    if store.proven is None:
        return Finding(
            store.name, "proven", False, "no set's restore test has passed; recoup backup now makes a set and tests it"
        )
    return Finding(store.name, "proven", True, f"the newest proven set is {human(now - store.proven)} old")


def _three_two_one(store: StoreSeen, now: datetime) -> tuple[Finding, Finding, Finding]:
    places = (store.local, *store.copies)
    holding = [place for place in places if not _lacks(place, now, store)]
    lacking = [f"{place.name}: {why}" for place in places if (why := _lacks(place, now, store))]
    add = "" if store.copies else "; name a copy in the plan (platform.copies)"
    because = (f" ({'; '.join(lacking)})" if lacking else "") + add
    names = ", ".join(["production", *(place.name for place in holding)])
    kinds = sorted({store.production, *(place.kind for place in holding)})
    away = [place.name for place in holding if place.offsite]
    enough, apart = len(holding) >= 2, len(kinds) >= 2
    return (
        Finding(store.name, "3 copies", enough, f"{1 + len(holding)}: {names}" + ("" if enough else because)),
        Finding(
            store.name,
            "2 kinds of place",
            apart,
            ", ".join(kinds) + ("" if apart else f" alone: one failure takes all{because}"),
        ),
        Finding(store.name, "1 elsewhere", bool(away), ", ".join(away) if away else f"none is offsite{because}"),
    )


def _lacks(place: PlaceSeen, now: datetime, store: StoreSeen) -> str:
    """Say why a place does not count as a copy: empty, out of reach, or so old that it has been left behind."""
    if place.trouble:
        return place.trouble
    if place.point is None:
        return "no good set of it"
    late = 2 * max(store.interval, store.rpo)
    if place.lacks_since is not None and now - place.lacks_since > late:
        return f"it lacks sets for {human(now - place.lacks_since)}; run: recoup backup copy"
    return ""
