"""Backup sets: what one holds, whether it is whole, which are there, and how one is published.

A set is a directory ``<UTC time>-<series>`` with a ``manifest.json`` that was written last. A series holds one kind of
copy of one store: its name is the store's (``database``, ``redis``), or for physical copies ``database-base``. The
written plan's own ``*-database.sql.gz`` dumps, which have no manifest, are listed after every set of ours.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from pydantic import ValidationError

from recoup.errors import PreconditionError, RecoveryError
from recoup.manifest import BaseBackup, DatabaseDump, FileEntry, Manifest, Verification
from recoup.records import now
from recoup.retention import Candidate, Decision, Keep, Rule, decide
from recoup.wal import left_behind

# A clock that is set right by less changes the order of some hours; by more, one set would be the newest for ever.
WRONG_CLOCK = timedelta(days=1)
MANIFEST = "manifest.json"
VERIFIED = "verified.json"
_PARTIAL = ".partial"
_LEGACY = "-database.sql.gz"
_DIGITS = re.compile(r"\D")
_NAME = re.compile(r"\d{8}T\d{6,12}Z-[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True)
class BackupSet:
    """A set in a repository; ``manifest`` is None for a dump of the written plan's own script.

    ``verified`` is what the last restore test of it found, None before the first.
    """

    set_id: str
    path: Path
    manifest: Manifest | None
    broken: str = ""
    verified: Verification | None = None

    @property
    def dump(self) -> DatabaseDump | None:
        """What is known of a logical copy of a database; None when the set holds anything else, or has no manifest."""
        holds = self.manifest.holds if self.manifest else None
        return holds if isinstance(holds, DatabaseDump) else None

    @property
    def base(self) -> BaseBackup | None:
        """What is known of a physical copy of a server; None when the set holds anything else."""
        holds = self.manifest.holds if self.manifest else None
        return holds if isinstance(holds, BaseBackup) else None

    @property
    def recovery_point(self) -> datetime | None:
        return self.manifest.recovery_point if self.manifest else None


@dataclass(frozen=True)
class Repository:
    """A directory that holds backup sets."""

    root: Path

    def sets(self, series: str) -> tuple[BackupSet, ...]:
        """Give the sets of a series, newest first; unreadable ones with ``broken`` saying why, legacy dumps last.

        One of a time that is still to come (see to_come) is after all others of ours: nobody knows how old it is.
        Raises PreconditionError when the directory may not be read: that is not the same as none.
        """
        try:
            found = list(self.root.iterdir()) if self.root.is_dir() else []
            ours = [p for p in found if _NAME.fullmatch(p.name) and series_of(p.name) == series and p.is_dir()]
            legacy = [p for p in found if p.name.endswith(_LEGACY) and p.is_file()] if series == "database" else []
        except PermissionError as error:
            raise PreconditionError(
                f"the backup repository {self.root} may not be read: {error.strerror}",
                next_step="run recoup as root or as who takes the backups, or give this user the right to read it",
            ) from None
        sets = sorted((_read(path) for path in sorted(ours, key=lambda p: p.name, reverse=True)), key=to_come)
        dumps = sorted(legacy, key=lambda p: (_DIGITS.sub("", p.name), p.stat().st_mtime), reverse=True)
        return (*sets, *(BackupSet(path.name, path, None) for path in dumps))

    def get(self, series: str, set_id: str) -> BackupSet:
        """Give one set by its id; raises PreconditionError naming those there are."""
        known = self.sets(series)
        for one in known:
            if one.set_id == set_id:
                return one
        names = ", ".join(s.set_id for s in known[:5]) or "none at all"
        raise PreconditionError(
            f"there is no backup set {set_id} in {self.root}", next_step=f"use one of: {names}, or 'latest'"
        )

    @contextmanager
    def staging(self, series: str, at: datetime) -> Iterator[Path]:
        """Give an empty directory for a new set; whatever is not published from it is removed.

        A backup that was killed leaves a directory whose name begins with a dot and ends in ``.partial``: it is
        never listed, and the next backup removes it.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for dead in self.root.glob(f".*-{series}.*{_PARTIAL}"):
                if not _alive(dead):
                    shutil.rmtree(dead, ignore_errors=True)
            path = self.root / f".{at:%Y%m%dT%H%M%S%fZ}-{series}.{os.getpid()}.{uuid4().hex[:6]}{_PARTIAL}"
            path.mkdir(mode=0o700)
        except OSError as error:
            raise PreconditionError(
                f"the backup repository {self.root} cannot be written: {error.strerror}",
                next_step="make the directory writable, or name another one in the plan (platform.repository)",
            ) from None
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def publish(self, staged: Path, manifest: Manifest) -> BackupSet:
        """Make a staged set visible in one rename, its manifest and files on the disk first."""
        final = self.root / manifest.set_id
        try:
            with (staged / MANIFEST).open("w", encoding="utf-8") as file:
                file.write(manifest.model_dump_json(indent=1))
                file.flush()
                os.fsync(file.fileno())
            for path in (*(p for p in staged.rglob("*") if p.is_file()), staged):
                _fsync(path)
            staged.rename(final)
            _fsync(self.root)
        except OSError as error:
            raise RecoveryError(
                f"the backup set {manifest.set_id} could not be published: {error.strerror}",
                state="no new set; the older ones are untouched",
                next_step=f"see to the space and rights of {self.root}, then run: recoup backup now",
            ) from None
        return BackupSet(manifest.set_id, final, manifest)

    def note_verified(self, one: BackupSet, found: Verification) -> None:
        """Write what a restore test of a set found beside its manifest, replacing the test before."""
        new = one.path / f".{VERIFIED}.{uuid4().hex[:6]}"
        try:
            new.write_text(found.model_dump_json(indent=1), encoding="utf-8")
            _fsync(new)
            new.rename(one.path / VERIFIED)
            _fsync(one.path)
        except OSError as error:
            raise RecoveryError(
                f"the restore test of {one.set_id} could not be written down: {error.strerror}",
                state="the set is as it was",
                next_step=f"see to the space and rights of {self.root}, then run: recoup backup verify",
            ) from None

    def decisions(self, series: str, rule: Rule | int, wal: Path | None = None) -> tuple[Decision, ...]:
        """Say of every set of ours whether it is kept, and why, newest first; a number means that many of the newest.

        Sets that cannot be read, or of a time still to come, are left out, and never removed. ``wal`` is the WAL
        received since base backups were taken; by it those are told that lead nowhere any more.
        """
        sets = self.sets(series)
        listed = {one.set_id: one for one in sets if one.manifest and not one.broken and not to_come(one)}
        candidates = [as_candidate(one, wal) for one in listed.values()]
        rule = Keep(rule) if isinstance(rule, int) else rule
        return decide(candidates, rule, lambda set_id: not problems(listed[set_id]), now())

    def prune(self, series: str, rule: Rule | int, wal: Path | None = None) -> tuple[str, ...]:
        """Remove the sets of a series that the rule does not keep; gives their ids."""
        gone = tuple(one.set_id for one in self.decisions(series, rule, wal) if not one.kept)
        for set_id in gone:
            # Out of the listing first: a removal that is killed half-way leaves no set that looks complete.
            hidden = self.root / f".{set_id}.0.pruned{_PARTIAL}"
            (self.root / set_id).rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        return gone


def as_candidate(one: BackupSet, wal: Path | None = None) -> Candidate:
    """Give what retention has to know of a set that has a manifest; ``wal`` as in ``Repository.decisions``."""
    assert one.manifest is not None
    holds = one.manifest.holds
    return Candidate(
        one.set_id,
        one.manifest.recovery_point,
        verified=one.verified is not None and one.verified.passed,
        needs=holds.parent if isinstance(holds, BaseBackup) else "",
        stranded=left_behind(wal, holds) if wal and isinstance(holds, BaseBackup) else "",
    )


def to_come(one: BackupSet) -> bool:
    """Say whether a set claims to be of a time that is still to come: a clock was wrong then, or is now."""
    return one.recovery_point is not None and one.recovery_point > now() + WRONG_CLOCK


def problems(one: BackupSet) -> str:
    """Say what is wrong with a set's files against its manifest (missing, size, sha256); empty when it is whole."""
    if one.broken or one.manifest is None:
        return one.broken
    listed = {entry.path for entry in one.manifest.files}
    with ThreadPoolExecutor(max_workers=2) as pool:
        for found in pool.map(lambda entry: _wrong(one.path, entry), one.manifest.files):
            if found:
                return found
    return "" if listed else "the manifest lists no file"


def entries(root: Path) -> tuple[FileEntry, ...]:
    """Give size and sha256 of every file below a directory, paths relative to it."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    with ThreadPoolExecutor(max_workers=2) as pool:
        digests = pool.map(sha256, files)
        return tuple(
            FileEntry(path=str(p.relative_to(root)), size=p.stat().st_size, sha256=digest)
            for p, digest in zip(files, digests, strict=True)
        )


def sha256(path: Path) -> str:
    """Give the SHA-256 (FIPS 180-4) of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_id(series: str, at: datetime) -> str:
    """Give the name of a set taken at a moment; names sort by time."""
    return f"{at.astimezone(UTC):%Y%m%dT%H%M%S%fZ}-{series}"


def base_series(store: str) -> str:
    """Give the name of the series that holds the base backups of a store."""
    return f"{store}-base"


def series_of(set_id: str) -> str:
    """Give the series a set belongs to, by its name."""
    return set_id.partition("-")[2]


def _wrong(root: Path, entry: FileEntry) -> str:
    path = root / entry.path
    try:
        if path.stat().st_size != entry.size:
            return f"{entry.path} has {path.stat().st_size} bytes, the manifest says {entry.size}"
        if sha256(path) != entry.sha256:
            return f"{entry.path} does not match its sha256"
    except OSError as error:
        return f"{entry.path}: {error.strerror}"
    return ""


def _read(path: Path) -> BackupSet:
    try:
        manifest = Manifest.model_validate_json((path / MANIFEST).read_bytes())
        return BackupSet(path.name, path, manifest, verified=_read_verified(path))
    except OSError as error:
        return BackupSet(path.name, path, None, broken=f"its manifest cannot be read: {error.strerror}")
    except ValidationError as error:
        return BackupSet(path.name, path, None, broken=f"its manifest is not valid: {error.errors()[0]['msg']}")


def _read_verified(path: Path) -> Verification | None:
    # A test whose result cannot be read proves nothing: the set counts as not tested yet.
    try:
        return Verification.model_validate_json((path / VERIFIED).read_bytes())
    except (OSError, ValidationError):
        return None


def _alive(staged: Path) -> bool:
    try:
        pid = int(staged.name.split(".")[2])
        os.kill(pid, 0)
    except (IndexError, ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return pid != 0


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
