"""Known-bad backups for drills: what a set can suffer from, done to the newest set of a sandbox's repository."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

from recoup.catalog import MANIFEST, Repository
from recoup.errors import PreconditionError


class Spoil(StrEnum):
    """What is done to the newest backup set."""

    NOTHING = "nothing"
    FLIP_BYTE = "flip-byte"
    TRUNCATE = "truncate"
    REMOVE_FILE = "remove-file"
    BREAK_MANIFEST = "break-manifest"


def spoil(repository: Repository, how: Spoil, store: str = "database") -> None:
    """Spoil the newest set; raises PreconditionError when there is none."""
    if how is Spoil.NOTHING:
        return
    newest = next(iter(repository.sets(store)), None)
    if newest is None:
        raise PreconditionError("there is no backup set to spoil")
    target = max((newest.path / "dump").iterdir(), key=lambda p: p.stat().st_size)
    match how:
        case Spoil.FLIP_BYTE:
            _flip(target)
        case Spoil.TRUNCATE:
            os.truncate(target, target.stat().st_size // 2)
        case Spoil.REMOVE_FILE:
            target.unlink()
        case Spoil.BREAK_MANIFEST:
            manifest = newest.path / MANIFEST
            manifest.write_text(manifest.read_text(encoding="utf-8")[:-40], encoding="utf-8")


def _flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0xFF]))
