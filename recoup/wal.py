"""Received WAL: what is there, and how far a base backup can be replayed from it.

Names and contents of segments: PostgreSQL manual, section 28.6, and ``src/include/access/xlog_internal.h``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from recoup.errors import PreconditionError
from recoup.manifest import BaseBackup

_SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})(\.partial)?")
_PLACE = re.compile(r"(\d+)-(\d+)(?:\.(\d+))?")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history")
# xlp_magic, xlp_info, xlp_tli, xlp_pageaddr: the beginning of every page.
_PAGE = struct.Struct("<HHIQ")


@dataclass(frozen=True, order=True)
class Segment:
    """One segment of the WAL by timeline and number; ``number`` × segment size is its first LSN."""

    timeline: int
    number: int

    def name(self, size: int) -> str:
        per_id = 0x100000000 // size
        return f"{self.timeline:08X}{self.number // per_id:08X}{self.number % per_id:08X}"

    @classmethod
    def of(cls, name: str, size: int) -> Segment | None:
        """Give the segment of a file's name, ``.partial`` or not; None for any other file."""
        match = _SEGMENT.fullmatch(name)
        if match is None:
            return None
        timeline, high, low = (int(match[n], 16) for n in (1, 2, 3))
        return cls(timeline, high * (0x100000000 // size) + low)


@dataclass(frozen=True)
class Reach:
    """How far the WAL goes on from a base backup.

    ``whole`` is the LSN up to which complete segments follow each other, ``partial`` whether one that was being
    received comes after; ``wrong`` says what is missing or damaged on the way, empty when nothing is.
    """

    timeline: int
    whole: int
    partial: bool
    wrong: str = ""


def parse_lsn(text: str) -> int:
    """Give the byte position of an LSN as PostgreSQL writes it (``0/3000028``); ValueError for anything else."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def write_lsn(lsn: int) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@contextmanager
def may_read() -> Iterator[None]:
    """Turn a refusal of the system into words: PreconditionError with what may not be read, and by whom it can be."""
    try:
        yield
    except PermissionError as error:
        raise PreconditionError(
            f"received WAL may not be read: {error.filename or 'a file of it'}: {error.strerror}",
            next_step="run recoup as root or as the server's user, or give this user the right to read it",
        ) from None


@may_read()
def places(root: Path, system_identifier: str) -> tuple[Path, ...]:
    """Give the directories that hold the received WAL of one server, that of the newest timeline first.

    A timeline has several when WAL was lost before it was received: one for what comes after each gap.
    """
    if not root.is_dir():
        return ()
    found = [
        place
        for place in root.iterdir()
        if (named := _PLACE.fullmatch(place.name)) and named[1] == system_identifier and place.is_dir()
    ]
    return tuple(sorted(found, key=_order, reverse=True))


def timeline_of(place: Path) -> int:
    """Give the timeline whose WAL a directory of received WAL was made for."""
    return _order(place)[0]


def _order(place: Path) -> tuple[int, int]:
    named = _PLACE.fullmatch(place.name)
    if named is None:
        raise ValueError(f"{place} is no directory of received WAL")
    return int(named[2]), int(named[3] or 0)


@may_read()
def reach(dirs: tuple[Path, ...], base: BaseBackup) -> Reach:
    """Say how far a base backup can be replayed: every segment from where it begins is there, whole, and in order."""
    size = base.segment_size
    files = _files(dirs, size)
    number = parse_lsn(base.start_lsn) // size
    line, left = _line(_histories(dirs), base)
    if left:
        return Reach(base.timeline, number * size, False, left)
    while True:
        # A timeline goes on with a copy of the very segment in which it branched off.
        timeline = max(one for one, begins in line if begins // size <= number)
        now = Segment(timeline, number)
        if found := files.get((now, False)):
            if wrong := _damaged(found, now, size):
                return Reach(timeline, number * size, False, wrong)
            number += 1
            continue
        partial = files.get((now, True))
        try:
            end = Reach(timeline, number * size, partial is not None and partial.stat().st_size > 0)
        except FileNotFoundError:
            # It was completed, and so renamed, since the directory was read.
            return reach(dirs, base)
        on = {one for one, _ in line if one >= timeline}
        if any(one.timeline in on and one.number > number for one, _ in files):
            missing = f"the segment {now.name(size)} is missing, though later ones are there"
            return Reach(timeline, end.whole, False, missing)
        if end.whole < parse_lsn(base.stop_lsn) and not end.partial:
            return Reach(timeline, end.whole, False, f"the WAL ends before the base backup does, at {now.name(size)}")
        return end


@may_read()
def left_behind(root: Path, base: BaseBackup) -> str:
    """Say why a base backup leads nowhere any more: its server was restored to before it. Empty while it does."""
    return _line(_histories(places(root, base.system_identifier)), base)[1]


@may_read()
def on_the_way(dirs: tuple[Path, ...], base: BaseBackup, timeline: int, lsn: int) -> bool:
    """Say whether a replay to the latest moment has to come past an LSN of a timeline.

    A restore may have undone it; of a timeline that nothing tells of yet it has not.
    """
    histories = _histories(dirs)
    line, _ = _line(histories, base)
    newest = line[-1][0] if line else base.timeline
    if timeline >= newest:
        return True
    left = histories.get(newest, {}).get(timeline)
    return left is not None and lsn <= left


@may_read()
def in_order(dirs: tuple[Path, ...], base: BaseBackup) -> Mapping[int, Path]:
    """Give by number the segments a replay goes through, up to the first that is missing; the last may be partial."""
    files = _files(dirs, base.segment_size)
    line, _ = _line(_histories(dirs), base)
    found: dict[int, Path] = {}
    number = parse_lsn(base.start_lsn) // base.segment_size
    while line:
        now = Segment(max(one for one, begins in line if begins // base.segment_size <= number), number)
        path = files.get((now, False)) or files.get((now, True))
        if path is None:
            break
        found[number] = path
        number += 1
    return found


def received(root: Path) -> Iterator[Path]:
    """Give every file of received WAL (segments, what is being received, histories), the oldest name first."""
    with may_read():
        for place in sorted(root.iterdir()) if root.is_dir() else ():
            if place.is_dir():
                yield from sorted(p for p in place.iterdir() if is_wal(p.name))


def is_wal(name: str) -> bool:
    """Say whether a file has the name of a segment, of one that is being received, or of a timeline's history."""
    return bool(_SEGMENT.fullmatch(name) or _HISTORY.fullmatch(name))


def _files(dirs: tuple[Path, ...], size: int) -> Mapping[tuple[Segment, bool], Path]:
    found: dict[tuple[Segment, bool], Path] = {}
    for place in dirs:
        for path in place.iterdir():
            if segment := Segment.of(path.name, size):
                found.setdefault((segment, path.name.endswith(".partial")), path)
    return found


def _line(histories: Mapping[int, Mapping[int, int]], base: BaseBackup) -> tuple[list[tuple[int, int]], str]:
    """Give the timelines a replay goes through, each with the LSN where it begins; else why there is no way.

    The newest is looked for as PostgreSQL does for recovery_target_timeline=latest: one number after the other.
    """
    newest = base.timeline
    while newest + 1 in histories:
        newest += 1
    line, begins = [(base.timeline, 0)], 0
    for timeline, ends in sorted(histories[newest].items()) if newest != base.timeline else ():
        if timeline > base.timeline:
            line.append((timeline, begins))
        elif timeline == base.timeline and ends < parse_lsn(base.stop_lsn):
            return [], f"the server was restored, on timeline {newest}, to {write_lsn(ends)}, which is before it"
        begins = ends
    if newest != base.timeline:
        if base.timeline not in histories[newest]:
            return [], f"the server went on with timeline {newest}, which did not come of timeline {base.timeline}"
        line.append((newest, begins))
    return line, ""


def _histories(dirs: tuple[Path, ...]) -> Mapping[int, Mapping[int, int]]:
    """Give for each timeline those before it, each with the LSN where it was left (the lines of its history file)."""
    found: dict[int, dict[int, int]] = {}
    for place in dirs:
        for path in place.iterdir():
            if match := _HISTORY.fullmatch(path.name):
                lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
                before = {
                    int(line[0]): parse_lsn(line[1]) for line in lines if len(line) >= 2 and line[0].strip().isdecimal()
                }
                if before:
                    found[int(match[1], 16)] = before
    return found


@may_read()
def is_whole(path: Path, size: int) -> bool:
    """Say whether a file of WAL is what its name says as far as size and first page tell; ``.partial`` ones always."""
    segment = Segment.of(path.name, size)
    return segment is None or path.name.endswith(".partial") or not _damaged(path, segment, size)


def _damaged(path: Path, segment: Segment, size: int) -> str:
    found = path.stat().st_size
    if found != size:
        return f"the segment {path.name} has {found} bytes instead of {size}"
    with path.open("rb") as file:
        _, _, timeline, address = _PAGE.unpack(file.read(_PAGE.size))
    # A segment where a timeline begins is a copy, and holds pages of the one before.
    if address != segment.number * size or timeline > segment.timeline:
        return f"the segment {path.name} holds something else"
    return ""
