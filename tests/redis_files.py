"""The data directory of a Redis on disk: one append-only file before version 7, parts in a directory since."""

from __future__ import annotations

import shutil
from pathlib import Path


def empty(data: Path) -> None:
    """Remove all that a server has written into its data directory."""
    for path in data.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def kept(place: Path) -> dict[str, bytes]:
    """Return every file below a directory, by its path in it."""
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def everything_in(place: Path) -> bytes:
    """Return the content of every file below a directory, to look for a word in."""
    return b"\n".join(kept(place).values())


def append_log(data: Path) -> Path:
    """Return the append-only file that holds the newest writes."""
    parts = sorted(data.glob("appendonlydir/*.incr.aof"), key=lambda path: int(path.name.split(".")[-3]))
    return parts[-1] if parts else data / "appendonly.aof"
