"""Which received WAL is kept: what base backups that are kept need. One pure function for every place."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from recoup.manifest import BaseBackup
from recoup.wal import Segment, parse_lsn

_PARTIAL = ".partial"
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class WalFile:
    """A file of WAL in some place: ``of`` is its directory, ``<system identifier>-<timeline>``; ``size`` in bytes.

    ``at`` is when it was last written, or sent there.
    """

    of: str
    name: str
    at: datetime
    size: int = 0


@dataclass(frozen=True)
class KeptBase:
    """A base backup that is kept, and when it was taken."""

    at: datetime
    base: BaseBackup


def unneeded(files: Mapping[K, WalFile], bases: Sequence[KeptBase]) -> dict[K, str]:
    """Say of every file that none of these base backups can be replayed with why that is so.

    Without any base backup all of it is needed: the first one may just be being taken. Histories of timelines are
    small and stay for as long as their server has a base backup.
    """
    if not bases:
        return {}
    first = min(bases, key=lambda one: one.at).at
    begins: dict[str, list[Segment]] = {}
    sizes: dict[str, int] = {}
    for one in bases:
        system, size = one.base.system_identifier, one.base.segment_size
        begins.setdefault(system, []).append(Segment(one.base.timeline, parse_lsn(one.base.start_lsn) // size))
        sizes[system] = size
    last: dict[str, datetime] = {}
    for file in files.values():
        system = file.of.partition("-")[0]
        last[system] = max(file.at, last.get(system, file.at))
    newest = _newest(files)
    found: dict[K, str] = {}
    for key, file in files.items():
        system = file.of.partition("-")[0]
        if system not in begins:
            # Of a server that is just beginning, the first base backup is still to come.
            if last[system] < first:
                found[key] = "of a server of which no base backup is kept"
        elif key not in newest:
            found[key] = "a newer state of it is there"
        elif (segment := Segment.of(file.name, sizes[system])) and not _needed(segment, begins[system]):
            found[key] = "older than every base backup that is kept"
    return found


def _needed(segment: Segment, begins: Sequence[Segment]) -> bool:
    """Say whether a replay can come through a segment: both numbers only ever grow on its way."""
    return any(segment.timeline >= one.timeline and segment.number >= one.number for one in begins)


def _newest(files: Mapping[K, WalFile]) -> set[K]:
    """Give of each segment the one to be used: what was received to its end, else what was sent last."""
    best: dict[tuple[str, str], tuple[bool, datetime, K]] = {}
    for key, file in files.items():
        name = (file.of, file.name.removesuffix(_PARTIAL))
        rank = (not file.name.endswith(_PARTIAL), file.at)
        if name not in best or rank > best[name][:2]:
            best[name] = (*rank, key)
    return {key for _, _, key in best.values()}
