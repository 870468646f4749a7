"""Copies elsewhere: bring to each of the plan's copies what it lacks, and bring a set back from one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.procedure import current_watcher
from flows.steps import Steps
from recoup.catalog import Repository
from recoup.errors import PreconditionError, RecoupError, RecoveryError, first_line
from recoup.plan import DirectoryCopy, Plan, load_plan
from recoup.records import Frozen
from recoup.retention import Decision, Rule
from recoup.wal_retention import KeptBase
from tasks.copies import CopiedSet, CopyPlace
from tasks.copies_sync import Fetched, Synced, expiring, fetch_set_from, received_wal, rules, sync_copy
from tasks.wal_pruning import WalGone, bases_here, prune_received, prune_shipped


class CopyBackups(Frozen):
    """Which plan's copies to bring up to date."""

    plan: Path = Field(description="The plan's YAML file, on the machine that holds the backup sets")


class Copied(Frozen):
    """What became of each copy; ``failed`` names those that could not be used, with the reason."""

    synced: tuple[Synced, ...] = ()
    failed: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not self.failed and not any(one.problems for one in self.synced)

    def __str__(self) -> str:
        lines = [*(str(one) for one in self.synced), *(f"{one}" for one in self.failed)]
        return "\n".join(lines) or "the plan names no copies"


@flow(name="copy-backups", log_prints=False)
def copy_backups(request: CopyBackups) -> Copied:
    """Bring every copy up to date; raises RecoveryError, when all were tried, if one could not be."""
    made = run_copies(load_plan(request.plan))
    require_complete(made)
    return made


def run_copies(plan: Plan) -> Copied:
    """Bring every copy up to date, one after the other; one that fails does not hinder the next, nor raises."""
    repository = Repository(plan.platform.repository)
    steps = Steps(current_watcher())
    series, wal = rules(plan), received_wal(plan)
    synced: list[Synced] = []
    failed: list[str] = []
    # Directories first: they fail at once, where a server that is away is waited for.
    for spec in sorted(plan.platform.copies, key=lambda one: not isinstance(one, DirectoryCopy)):
        copy = CopyPlace.open(spec, repository.root)
        try:
            synced.append(
                steps.step(
                    f"Copy to {spec.name}", sync_copy, repository, copy, series, wal, name=f"copy-to-{spec.name}"
                )
            )
        except RecoupError as error:
            failed.append(f"{spec.name}: {first_line(error)}")
    return Copied(synced=tuple(synced), failed=tuple(failed))


def require_complete(made: Copied) -> None:
    """Raise RecoveryError when a copy lacks something that it should have."""
    if not made.complete:
        wrong = [*made.failed, *(f"{s.copy_name}: {problem}" for s in made.synced for problem in s.problems)]
        raise RecoveryError(
            "not every copy is complete:\n" + "\n".join(f"  - {one}" for one in wrong),
            state="the local sets are untouched, and so are the other copies",
            next_step="mend what is named; the next run goes on where this one ended: recoup backup copy",
        )


def fetch_latest(plan: Plan, copy_name: str, series: str) -> Fetched:
    """Bring the newest good set of a series from a copy into the local repository, which may be empty.

    An empty ``copy_name``: from the first of the plan's copies that has one. Raises RecoveryError when none has.
    """
    repository = Repository(plan.platform.repository)
    names = (copy_name,) if copy_name else tuple(spec.name for spec in plan.platform.copies)
    if not names:
        raise PreconditionError("the plan names no copies", next_step="add one to the plan (platform.copies)")
    copies = tuple(CopyPlace.of(plan, name) for name in names)
    step = Steps(current_watcher()).step
    return step(f"Fetch the newest good set of {series}", fetch_set_from, copies, series, repository)


def fetch_set(plan: Plan, copy_name: str, set_id: str) -> Path:
    """Bring one set from a copy into the local repository and give where it is."""
    return CopyPlace.of(plan, copy_name).fetch(set_id, Repository(plan.platform.repository)).path


@dataclass(frozen=True)
class Pruned:
    """What retention decided in one place, and what could not be done."""

    where: str
    decisions: tuple[Decision, ...]
    wal: tuple[WalGone, ...] = ()
    failed: tuple[str, ...] = ()


def prune_everywhere(
    plan: Plan, series: tuple[str, ...], *, dry_run: bool, by_schedule: bool = False
) -> Iterator[Pruned]:
    """Apply the plan's retention to these series here and in every copy, or say what it would do.

    ``by_schedule``: copies in which this host may not remove anything are passed over.
    """
    repository = Repository(plan.platform.repository)
    known = {name: rule for name, rule in rules(plan).items() if name in series}
    wal = {name: place for name, place in received_wal(plan).items() if name in series}
    decisions: list[Decision] = []
    for name, rule in known.items():
        decisions += repository.decisions(name, rule, wal.get(name))
        if not dry_run:
            repository.prune(name, rule, wal.get(name))
    gone = [one.set_id for one in decisions if not one.kept]
    unneeded: list[WalGone] = []
    here = bases_here(repository, wal, gone)
    for place in set(wal.values()):
        unneeded += prune_received(place, here, dry_run=dry_run)
    yield Pruned(str(repository.root), tuple(decisions), tuple(unneeded))
    for spec in plan.platform.copies:
        if by_schedule and not spec.removes:
            continue
        yield _prune_copy(CopyPlace.open(spec, repository.root), repository, known, wal, here, dry_run=dry_run)


def sets_at(plan: Plan, copy_name: str, series: str) -> tuple[CopiedSet, ...]:
    """Give the sets of a series in a copy, newest first."""
    return CopyPlace.of(plan, copy_name).sets(series)


def wrong_at(plan: Plan, copy_name: str, series: str, scratch: Path) -> Iterator[tuple[str, str]]:
    """Fetch and open every set of a series in a copy, and give its id with what is wrong, empty when it is whole."""
    copy = CopyPlace.of(plan, copy_name)
    for one in copy.sets(series):
        yield one.set_id, one.broken or copy.problems(one.set_id, scratch)


def _prune_copy(
    copy: CopyPlace,
    repository: Repository,
    known: Mapping[str, Rule],
    wal: Mapping[str, Path],
    here: tuple[KeptBase, ...],
    *,
    dry_run: bool,
) -> Pruned:
    unneeded: tuple[WalGone, ...] = ()
    decisions: list[Decision] = []
    failed: list[str] = []
    try:
        copy.place.check()
        for name, rule in known.items():
            decisions += expiring(copy, name, rule, wal.get(name))
    except RecoupError as error:
        failed.append(first_line(error))
    for one in decisions:
        if one.kept or dry_run:
            continue
        try:
            copy.remove(one.set_id)
        except RecoupError as error:
            failed.append(f"{one.set_id} was not removed: {first_line(error)}")
    if not failed:
        gone = [one.set_id for one in decisions if not one.kept]
        try:
            unneeded = prune_shipped(copy, repository, wal, here, gone=gone, dry_run=dry_run)
        except RecoupError as error:
            failed.append(first_line(error))
    return Pruned(f"{copy.name} ({copy.place.where})", tuple(decisions), unneeded, tuple(failed))
