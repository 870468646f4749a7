"""Sends the files of one backup set to a place, sealed or not, and goes on where a killed run ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from recoup.catalog import sha256
from recoup.errors import DamagedError
from recoup.manifest import FileEntry
from recoup.sealing import SUFFIX, encrypt_file
from tasks.places import Place
from tasks.step import note

# Larger files are sent one after the other, each in parts; smaller ones several at once.
LARGE = 16 * 1024 * 1024
PARALLEL = 4
T = TypeVar("T")


@dataclass(frozen=True)
class Sender:
    """Sends the files of one set, and remembers in the spool which have arrived."""

    place: Place
    set_id: str
    spool: Path
    recipients: tuple[str, ...] = ()

    def send(self, files: list[tuple[Path, FileEntry]]) -> list[FileEntry]:
        """Send files and give them as they are stored."""
        done = self._done()
        there = self.place.listing(f"{self.set_id}/") if done else {}
        stored: dict[str, FileEntry] = {}

        def one(job: tuple[Path, FileEntry]) -> None:
            source, entry = job
            before = done.get(entry.path)
            if before is not None and there.get(self._key(entry)) == before.size:
                stored[entry.path] = before
                return
            stored[entry.path] = self._send(source, entry)

        each(one, files, lambda job: job[1].size)
        return [stored[entry.path] for _, entry in files]

    def _send(self, source: Path, entry: FileEntry) -> FileEntry:
        note(f"copying {entry.path} ({entry.size / 1e6:.1f} MB) to {self.place.where}")
        if not self.recipients:
            self.place.put(source, self._key(entry), entry)
            self._arrived(entry)
            return entry
        # Sealed anew it would be another file: it stays until it has arrived, so that its parts can be used again.
        sealed = self.spool / "sealed" / f"{entry.path}{SUFFIX}"
        if not sealed.exists():
            if source.stat().st_size != entry.size or sha256(source) != entry.sha256:
                raise DamagedError(
                    f"{entry.path} of {self.set_id} on this machine is not what its manifest lists",
                    state="no set appeared in the copy",
                    next_step="run: recoup backup verify, and take a new backup",
                )
            sealed.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            encrypt_file(source, sealed, self.recipients)
        as_sealed = FileEntry(path=entry.path, size=sealed.stat().st_size, sha256=sha256(sealed))
        self.place.put(sealed, self._key(entry), as_sealed)
        self._arrived(as_sealed)
        sealed.unlink()
        return as_sealed

    def _key(self, entry: FileEntry) -> str:
        return f"{self.set_id}/{entry.path}" + (SUFFIX if self.recipients else "")

    def _arrived(self, entry: FileEntry) -> None:
        with (self.spool / "arrived").open("a", encoding="utf-8") as file:
            file.write(entry.model_dump_json() + "\n")

    def _done(self) -> dict[str, FileEntry]:
        try:
            lines = (self.spool / "arrived").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        found = []
        for line in lines:
            try:
                found.append(FileEntry.model_validate_json(line))
            except ValidationError:
                # The last line of a killed run.
                continue
        return {entry.path: entry for entry in found}


def each(act: Callable[[T], None], items: Iterable[T], size: Callable[[T], int]) -> None:
    """Do small ones several at once, then large ones one by one; the first failure ends it."""
    small: list[T] = []
    large: list[T] = []
    for item in items:
        (small if size(item) <= LARGE else large).append(item)
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(act, item) for item in small]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    for item in large:
        act(item)
