"""Retention of WAL, here and in the copies: what no base backup that is kept can be replayed with is removed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from recoup.catalog import MANIFEST, Repository, series_of
from recoup.errors import PreconditionError
from recoup.manifest import BaseBackup, Manifest
from recoup.records import now
from recoup.wal import may_read, received
from recoup.wal_retention import KeptBase, WalFile, unneeded
from tasks.copies import CopiedSet, CopyPlace
from tasks.sending import PARALLEL
from tasks.wal_shipping import stored

K = TypeVar("K", Path, str)


@dataclass(frozen=True)
class WalGone:
    """Files of WAL in one directory that go, or that would if they were not locked; ``size`` in bytes."""

    of: str
    names: tuple[str, ...]
    size: int
    why: str
    kept: bool = False

    def __str__(self) -> str:
        span = self.names[0] if len(self.names) == 1 else f"{self.names[0]} to {self.names[-1]}"
        return f"wal/{self.of}: {len(self.names)} files, {self.size / 1e6:.1f} MB, {span}"


def bases_here(repository: Repository, series: Iterable[str], gone: Collection[str] = ()) -> tuple[KeptBase, ...]:
    """Give the base backups in the repository, without those that go.

    Raises PreconditionError while the manifest of one cannot be read: which WAL that one needs is not known.
    """
    sets = [one for name in series for one in repository.sets(name)]
    for one in sets:
        if one.manifest is None and _unreadable(one.path / MANIFEST):
            raise PreconditionError(
                f"no WAL is removed: {one.set_id} is there, and {one.broken}",
                next_step=f"see to the rights and the disk of {one.path}, then: recoup backup prune",
            )
    return tuple(
        KeptBase(one.manifest.recovery_point, one.base)
        for one in sets
        if one.manifest and one.base and one.set_id not in gone
    )


def _unreadable(path: Path) -> bool:
    """Say whether a file is there and cannot be read: that may pass, which a damaged one's state does not."""
    try:
        path.read_bytes()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def prune_received(wal: Path, bases: tuple[KeptBase, ...], *, dry_run: bool = False) -> tuple[WalGone, ...]:
    """Remove the received WAL that none of these needs, or only say what would go."""
    files: dict[Path, WalFile] = {}
    with may_read():
        for path in received(wal):
            try:
                found = path.stat()
            except FileNotFoundError:
                # Renamed since: it has just been received to its end.
                continue
            files[path] = WalFile(
                path.parent.name, path.name, datetime.fromtimestamp(found.st_mtime, UTC), found.st_size
            )
    going = unneeded(files, bases)
    if not dry_run:
        for path in going:
            path.unlink(missing_ok=True)
    return _told(files, going)


def prune_shipped(
    copy: CopyPlace,
    repository: Repository,
    series: Iterable[str],
    here: tuple[KeptBase, ...],
    *,
    gone: Collection[str] = (),
    dry_run: bool = False,
) -> tuple[WalGone, ...]:
    """Remove from a copy the WAL that no base backup needs which is there, or ``here`` and may still be copied.

    What is under a lock stays, and is told. Raises RecoupError when it cannot be told what is needed.
    """
    there = [one for name in series for one in copy.sets(name) if one.set_id not in gone]
    bases = tuple(_kept(copy, repository, one) for one in there if one.note is not None)
    if not bases:
        # The first one may be on its way.
        return ()
    files = {one.key: one.file for one in stored(copy)}
    going = unneeded(files, (*bases, *here))
    with ThreadPoolExecutor(PARALLEL) as pool:
        until = dict(zip(going, pool.map(copy.place.locked_until, going), strict=True))
    locked = {key: f"locked until {at:%Y-%m-%d %H:%M} UTC" for key, at in until.items() if at and at > now()}
    free = {key: why for key, why in going.items() if key not in locked}
    if not dry_run:
        copy.place.remove(free)
    return (*_told(files, free), *_told(files, locked, kept=True))


def _kept(copy: CopyPlace, repository: Repository, one: CopiedSet) -> KeptBase:
    assert one.note is not None
    base = one.note.base or _base_of(copy, repository, one)
    if base is None:
        raise PreconditionError(
            f"WAL in {copy.name} is not pruned: {one.set_id} there does not say which WAL it needs",
            next_step="nothing to do: it is of an older recoup, and will expire",
        )
    return KeptBase(one.note.recovery_point, base)


def _base_of(copy: CopyPlace, repository: Repository, one: CopiedSet) -> BaseBackup | None:
    """Give what an older recoup did not write into the list of a copy: from the set here, or a manifest in clear."""
    here = next((known.base for known in repository.sets(series_of(one.set_id)) if known.set_id == one.set_id), None)
    if here is not None or one.note is None or one.note.sealed:
        return here
    try:
        holds = Manifest.model_validate_json(copy.place.get_text(f"{one.set_id}/{MANIFEST}")).holds
    except (FileNotFoundError, ValidationError):
        return None
    return holds if isinstance(holds, BaseBackup) else None


def _told(files: Mapping[K, WalFile], going: Mapping[K, str], *, kept: bool = False) -> tuple[WalGone, ...]:
    together: dict[tuple[str, str], list[WalFile]] = {}
    for key, why in going.items():
        together.setdefault((files[key].of, why), []).append(files[key])
    return tuple(
        WalGone(of, tuple(sorted(one.name for one in some)), sum(one.size for one in some), why, kept)
        for (of, why), some in sorted(together.items())
    )
