"""Keeps one copy in step with the local repository: what it lacks is brought there, what has expired is removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recoup.catalog import BackupSet, Repository, as_candidate, base_series
from recoup.errors import DamagedError, RecoupError, RecoveryError, WrongKeyError, first_line
from recoup.manifest import BaseBackup
from recoup.plan import (
    ConfigurationComponent,
    Plan,
    PostgresComponent,
    RedisComponent,
)
from recoup.records import BackupUse, Frozen, SkippedSet, now
from recoup.retention import Candidate, Decision, Rule, decide
from recoup.wal import left_behind
from tasks.copies import CopiedSet, CopyPlace
from tasks.step import note, step
from tasks.wal_pruning import bases_here, prune_shipped

COPYING = timedelta(hours=24)
# Another machine may be pushing to the same place; what has no list after this long is nobody's work any more.
ABANDONED = timedelta(hours=24)


class Synced(Frozen):
    """What one run did to one copy; ``problems`` are of single sets, the others went through."""

    copy_name: str
    pushed: tuple[str, ...] = ()
    size: int = 0
    removed: tuple[str, ...] = ()
    segments_removed: int = 0
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = f"{self.copy_name}: {len(self.pushed)} sets copied, {self.size / 1e6:.1f} MB"
        said += f", {len(self.removed)} removed" if self.removed else ""
        said += f", {self.segments_removed} files of WAL removed" if self.segments_removed else ""
        return said + "".join(f"\n  {problem}" for problem in self.problems)


class Fetched(Frozen):
    """The set that was brought from a copy, and those that were looked at and not used."""

    copy_name: str
    use: BackupUse

    def __str__(self) -> str:
        skipped = f", {len(self.use.skipped)} skipped" if self.use.skipped else ""
        return f"{self.use.set_id} from {self.copy_name}{skipped}"


def rules(plan: Plan) -> dict[str, Rule]:
    """Give the rule of every series that the plan backs up, by its name (``database``, ``database-base``, …)."""
    found: dict[str, Rule] = {}
    for component in plan.components.values():
        if isinstance(component, PostgresComponent | RedisComponent | ConfigurationComponent) and component.backup:
            found[component.store] = component.backup
        if isinstance(component, PostgresComponent) and component.continuous:
            found[base_series(component.store)] = component.continuous.base
    return found


def received_wal(plan: Plan) -> dict[str, Path]:
    """Give of every series of base backups where the WAL is received that is replayed on them."""
    return {
        base_series(component.store): component.continuous.wal
        for component in plan.components.values()
        if isinstance(component, PostgresComponent) and component.continuous
    }


@step(timeout=COPYING, retries=1)
def sync_copy(
    repository: Repository, copy: CopyPlace, series: Mapping[str, Rule], wal: Mapping[str, Path] = {}
) -> Synced:
    """Bring every set the copy should have and lacks there, newest first, and remove what has expired, WAL too.

    Where the plan says that this host removes nothing, what has expired stays for ``recoup backup prune``.
    ``wal``: where the WAL of each series is received. One set that cannot be copied does not stop the others. Raises
    RecoupError when the place itself cannot be used.
    """
    copy.place.check()
    pushed: list[str] = []
    removed: list[str] = []
    problems: list[str] = []
    size = 0
    for name, rule in series.items():
        there = {one.set_id: one for one in copy.sets(name)}
        for one in lacking(repository.sets(name), tuple(there.values()), rule, now(), wal.get(name)):
            note(f"copying {one.set_id} to {copy.name}")
            try:
                size += copy.push(one).size
                pushed.append(one.set_id)
            except RecoupError as error:
                problems.append(f"{one.set_id} was not copied: {first_line(error)}")
        _note_tested(repository, copy, name, there, problems)
        if not copy.spec.removes:
            continue
        for decision in expiring(copy, name, rule, wal.get(name)):
            if not decision.kept:
                _remove(copy, decision.set_id, removed, problems)
        for left in copy.leftovers(name):
            if (repository.root / left).exists() or taken(left) > now() - ABANDONED:
                continue
            _remove(copy, left, removed, problems)
    return Synced(
        copy_name=copy.name,
        pushed=tuple(pushed),
        size=size,
        removed=tuple(removed),
        segments_removed=_prune_wal(copy, repository, wal, problems) if copy.spec.removes else 0,
        problems=tuple(problems),
    )


@step(timeout=COPYING)
def fetch_set_from(copies: tuple[CopyPlace, ...], series: str, into: Repository) -> Fetched:
    """Bring the newest good set of a series from the first copy that has one; see fetch_from_any."""
    return fetch_from_any(copies, series, into)


def bring_newest(copy: CopyPlace, series: str, into: Repository) -> Fetched:
    """Bring the newest good set of a series into a repository; one that is damaged is passed over for the next older.

    Raises RecoveryError when the copy has none that can be used, RecoupError when one could not be brought for another
    reason: a line that breaks or a disk without room must not bring older data back.
    """
    skipped: list[SkippedSet] = []
    for one in copy.sets(series):
        reason = one.broken
        if not reason:
            note(f"fetching {one.set_id} from {copy.name}")
            try:
                got = copy.fetch(one.set_id, into)
            except (DamagedError, WrongKeyError) as error:
                reason = first_line(error)
            else:
                use = BackupUse(set_id=got.set_id, recovery_point=got.recovery_point, skipped=tuple(skipped))
                return Fetched(copy_name=copy.name, use=use)
        note(f"passed over {one.set_id}: {reason}")
        skipped.append(SkippedSet(set_id=one.set_id, reason=reason))
    why = "; ".join(f"{one.set_id}: {one.reason}" for one in skipped[:3]) or "it holds none"
    raise RecoveryError(
        f"{copy.name} ({copy.place.where}) has no good set of {series}: {why}",
        state=f"no set was added to {into.root}",
        next_step="try another copy, or mend what is named",
    )


def fetch_from_any(copies: tuple[CopyPlace, ...], series: str, into: Repository, wanted: str = "latest") -> Fetched:
    """Bring the newest good set of all these copies, or the named one from the first that has it.

    Raises RecoveryError with what was wrong in each when none has.
    """
    reasons: list[str] = []
    order = copies if wanted != "latest" else sorted(copies, key=lambda copy: _newest(copy, series), reverse=True)
    for copy in order:
        try:
            if wanted == "latest":
                return bring_newest(copy, series, into)
            note(f"fetching {wanted} from {copy.name}")
            got = copy.fetch(wanted, into)
            return Fetched(copy_name=copy.name, use=BackupUse(set_id=got.set_id, recovery_point=got.recovery_point))
        except RecoupError as error:
            reasons.append(f"{copy.name}: {first_line(error)}")
    raise RecoveryError(
        f"no copy has a good set of {series}:\n" + "\n".join(f"  - {one}" for one in reasons),
        state=f"no set was added to {into.root}",
        next_step="mend what is named, then: recoup backup fetch COPY SET",
    )


def _newest(copy: CopyPlace, series: str) -> str:
    """Give the name of the newest set a copy lists as whole, empty when it has none or cannot be asked."""
    try:
        return next((one.set_id for one in copy.sets(series) if not one.broken), "")
    except RecoupError:
        return ""


def lacking(
    here: tuple[BackupSet, ...], there: tuple[CopiedSet, ...], rule: Rule, at: datetime, wal: Path | None = None
) -> tuple[BackupSet, ...]:
    """Give the local sets to be copied: the newest and every tested one, and those they need, unless they would expire.

    One whose restore test failed is never copied; one that could not be tested whole is: there may be no other. Newest
    first, but each after the set it needs.
    """
    whole = {one.set_id: one for one in here if one.manifest is not None and not one.broken}
    usable = [one for one in whole.values() if one.verified is None or not one.verified.failed]
    wanted = {one.set_id: one for one in usable[:1] + [one for one in usable if one.verified is not None]}
    have = {one.set_id for one in there if not one.broken}
    known = {one.set_id: found for one in there if (found := _candidate(one, wal)) is not None}
    candidates: dict[str, Candidate] = {**known, **{name: as_candidate(one, wal) for name, one in wanted.items()}}
    kept = {one.set_id for one in decide(tuple(candidates.values()), rule, lambda _: True, at) if one.kept}
    order: dict[str, BackupSet] = {}

    def add(one: BackupSet) -> None:
        holds = one.manifest.holds if one.manifest else None
        parent = holds.parent if isinstance(holds, BaseBackup) else ""
        if parent in whole and parent not in order:
            add(whole[parent])
        order[one.set_id] = one

    for one in wanted.values():
        if one.set_id in kept and one.set_id not in order:
            add(one)
    return tuple(one for one in order.values() if one.set_id not in have)


def expiring(copy: CopyPlace, series: str, rule: Rule, wal: Path | None = None) -> tuple[Decision, ...]:
    """Say of every set in a copy whether it is kept, and why; locks are asked for only where one would go."""
    sets = {one.set_id: one for one in copy.sets(series)}
    candidates = [found for one in sets.values() if (found := _candidate(one, wal)) is not None]

    def whole(set_id: str) -> bool:
        return not sets[set_id].broken

    first = decide(candidates, rule, whole, now())
    going = {one.set_id for one in first if not one.kept}
    locks = {set_id: copy.locked_until(set_id) for set_id in going}
    if not any(locks.values()):
        return first
    locked = [replace(one, locked_until=locks.get(one.set_id)) for one in candidates]
    return decide(locked, rule, whole, now())


def taken(set_id: str) -> datetime:
    """Give the moment a set's name tells, to the second."""
    return datetime.strptime(set_id[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)


def _candidate(one: CopiedSet, wal: Path | None) -> Candidate | None:
    found, base = one.candidate, one.note.base if one.note else None
    return replace(found, stranded=left_behind(wal, base)) if found and base and wal else found


def _prune_wal(copy: CopyPlace, repository: Repository, wal: Mapping[str, Path], problems: list[str]) -> int:
    try:
        gone = prune_shipped(copy, repository, wal, bases_here(repository, wal))
    except RecoupError as error:
        problems.append(first_line(error))
        return 0
    return sum(len(one.names) for one in gone if not one.kept)


def _note_tested(
    repository: Repository, copy: CopyPlace, series: str, there: Mapping[str, CopiedSet], problems: list[str]
) -> None:
    for one in repository.sets(series):
        copied = there.get(one.set_id)
        if copied is None or copied.verified:
            continue
        try:
            copy.note_verified(one)
        except RecoupError as error:
            problems.append(f"the restore test of {one.set_id} was not noted: {first_line(error)}")


def _remove(copy: CopyPlace, set_id: str, removed: list[str], problems: list[str]) -> None:
    try:
        copy.remove(set_id)
        removed.append(set_id)
    except RecoupError as error:
        problems.append(f"{set_id} was not removed: {first_line(error)}")
