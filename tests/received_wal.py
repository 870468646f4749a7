"""Directories as pg_receivewal fills them, with real page headers."""

from __future__ import annotations

import struct
from pathlib import Path

from recoup.manifest import BaseBackup
from recoup.wal import Segment, places, write_lsn

# The smallest segment PostgreSQL allows.
SIZE = 1 << 20
SYSTEM = "7711374764273281710"


def base(start: int, *, timeline: int = 1, stop: int = 0) -> BaseBackup:
    """Give a base backup that begins in the segment ``start``."""
    return BaseBackup(
        server_version=180006,
        system_identifier=SYSTEM,
        timeline=timeline,
        start_lsn=write_lsn(start * SIZE + 0x28),
        stop_lsn=write_lsn(stop or start * SIZE + 0x120),
        segment_size=SIZE,
        compression="gzip",
    )


class Received:
    """A directory as pg_receivewal fills it, one for each timeline."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def dirs(self) -> tuple[Path, ...]:
        return places(self.root, SYSTEM)

    def of(self, timeline: int) -> Path:
        place = self.root / f"{SYSTEM}-{timeline}"
        place.mkdir(parents=True, exist_ok=True)
        return place

    def put(self, number: int, *, timeline: int = 1, partial: bool = False, page: int | None = None) -> Path:
        """Write a segment; ``page``: the timeline its first page is of, if another."""
        name = Segment(timeline, number).name(SIZE) + (".partial" if partial else "")
        path = self.of(timeline) / name
        head = struct.pack("<HHIQI", 0xD118, 2, page or timeline, number * SIZE, 0)
        path.write_bytes(head + bytes(SIZE - len(head)))
        return path

    def history(self, timeline: int, *before: tuple[int, int]) -> None:
        lines = [f"{parent}\t{write_lsn(lsn)}\tno recovery target specified\n" for parent, lsn in before]
        (self.of(timeline) / f"{timeline:08X}.history").write_text("# a comment\n\n" + "\n".join(lines))
