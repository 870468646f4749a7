"""Where copies of backup sets are kept: what a place must be able to do, and the place that is a directory."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from recoup.catalog import sha256
from recoup.errors import DamagedError, PreconditionError, RecoveryError
from recoup.manifest import FileEntry

# Sets may hold files whose names begin with a dot, such as .env.
_UNFINISHED = re.compile(r"\..+\.\d+\.new", re.DOTALL)


class Place(Protocol):
    """Holds files by their keys (``set/path``); sizes in bytes. Raises RecoupError, never a client's own exceptions."""

    @property
    def where(self) -> str:
        """Its address, for people."""
        ...

    def check(self) -> None:
        """Raise PreconditionError when it cannot be used."""
        ...

    def put(self, source: Path, key: str, expected: FileEntry) -> None:
        """Copy a file here; raises DamagedError when it is not, or does not arrive as, what was expected."""
        ...

    def put_text(self, text: str, key: str) -> None: ...

    def get(self, key: str, target: Path, expected: FileEntry) -> None:
        """Copy a file from here; raises DamagedError when what comes is not what was expected."""
        ...

    def get_text(self, key: str) -> str:
        """Give a small file's content; raises FileNotFoundError when it is not there."""
        ...

    def listing(self, prefix: str = "") -> dict[str, int]:
        """Give the keys that begin so, with their sizes."""
        ...

    def remove(self, keys: Iterable[str]) -> None:
        """Remove what is there under these keys; RecoveryError when something may not be removed."""
        ...

    def locked_until(self, key: str) -> datetime | None:
        """Give the moment until which nobody can remove a file; None without a lock."""
        ...

    def forget_unfinished(self, prefix: str) -> None:
        """Give up what a killed copy left half-way under keys that begin so."""
        ...


@dataclass(frozen=True)
class Directory:
    """A directory of this machine: another disk, or a mounted one."""

    root: Path

    @property
    def where(self) -> str:
        return str(self.root)

    def check(self) -> None:
        # Made by hand on purpose: an unmounted disk's mount point must not be filled instead of the disk.
        if not self.root.is_dir():
            raise PreconditionError(
                f"the directory {self.root} is not there",
                next_step="mount the disk it is on, or make the directory once by hand",
            )
        if not os.access(self.root, os.W_OK | os.X_OK):
            raise PreconditionError(
                f"the directory {self.root} cannot be written", next_step="give this user the right"
            )

    def put(self, source: Path, key: str, expected: FileEntry) -> None:
        target = self.root / key
        beside = _beside(target)
        with self._in_our_words():
            if target.is_file() and target.stat().st_size == expected.size and sha256(target) == expected.sha256:
                return
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                shutil.copyfile(source, beside)
                beside.chmod(0o600)
                # Read again, so that what is compared is what was written.
                _compare(beside, key, expected)
                _appear(beside, target)
            finally:
                beside.unlink(missing_ok=True)

    def put_text(self, text: str, key: str) -> None:
        target = self.root / key
        with self._in_our_words():
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            beside = _beside(target)
            beside.write_text(text, encoding="utf-8")
            _appear(beside, target)

    def get(self, key: str, target: Path, expected: FileEntry) -> None:
        with self._in_our_words():
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (self.root / key).is_file():
                raise DamagedError(f"{key} is missing in {self.where}", next_step="use another copy, or an older set")
            shutil.copyfile(self.root / key, target)
            _compare(target, key, expected)

    def get_text(self, key: str) -> str:
        with self._in_our_words(absent=True):
            return (self.root / key).read_text(encoding="utf-8", errors="replace")

    def listing(self, prefix: str = "") -> dict[str, int]:
        within = self.root / prefix.rpartition("/")[0]
        with self._in_our_words():
            found = (path for path in within.rglob("*") if path.is_file() and not _UNFINISHED.fullmatch(path.name))
            named = ((str(path.relative_to(self.root)), path) for path in found)
            return {key: path.stat().st_size for key, path in named if key.startswith(prefix)}

    def remove(self, keys: Iterable[str]) -> None:
        with self._in_our_words():
            for key in keys:
                path = self.root / key
                path.unlink(missing_ok=True)
                for parent in path.parents:
                    if parent == self.root or any(parent.iterdir()):
                        break
                    parent.rmdir()

    def locked_until(self, key: str) -> datetime | None:
        return None

    def forget_unfinished(self, prefix: str) -> None:
        with self._in_our_words():
            for path in (self.root / prefix.rpartition("/")[0]).rglob(".*.new"):
                if _UNFINISHED.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    @contextmanager
    def _in_our_words(self, *, absent: bool = False) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            # The step's own.
            raise
        except OSError as error:
            if absent and isinstance(error, FileNotFoundError):
                raise
            raise RecoveryError(
                f"{self.root} refused: {error.strerror or error}",
                state="no set appeared there; what is there whole stays",
                next_step="see to the space and rights of the directory; the next run continues",
            ) from None


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.new")


def _compare(path: Path, key: str, expected: FileEntry) -> None:
    size = path.stat().st_size
    if size != expected.size or sha256(path) != expected.sha256:
        raise DamagedError(
            f"{key} is not what it should be ({size} bytes, sha256 differs from {expected.sha256[:12]}…)",
            next_step="use another copy of it, or an older set",
        )


def _appear(beside: Path, target: Path) -> None:
    _flush(beside)
    beside.rename(target)
    _flush(target.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
