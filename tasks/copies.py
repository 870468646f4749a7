"""Copies of backup sets elsewhere: in a bucket or another directory, sealed where the plan names recipients.

Below the place each set has a directory of its own: its files (``.age`` when sealed), its manifest, and last of all a
clear ``copy.json`` that lists what is stored. Without that one there is no set. ``verified.json`` says that the restore
test passed, and comes when it has.
"""

from __future__ import annotations

import fcntl
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from pydantic import AwareDatetime, ValidationError

from recoup.catalog import MANIFEST, VERIFIED, BackupSet, Repository, as_candidate, problems, series_of, sha256
from recoup.errors import BusyError, DamagedError, PreconditionError, RecoveryError
from recoup.manifest import BaseBackup, FileEntry, Manifest, Verification
from recoup.plan import Copy, DirectoryCopy, Plan
from recoup.records import Check, Frozen, Outcome, Subject, now
from recoup.retention import Candidate
from recoup.sealing import SUFFIX, decrypt_file, public_keys
from tasks.objects import Bucket
from tasks.places import Directory, Place
from tasks.sending import PARALLEL, Sender, each
from tasks.step import note

NOTE = "copy.json"
_SET = re.compile(r"\d{8}T\d{6,12}Z-[a-z0-9][a-z0-9-]*")


class CopyNote(Frozen):
    """What ``copy.json`` says: the files as they are stored, sealed or not, the manifest among them.

    ``base`` tells of a base backup which WAL it needs, so that retention can be applied without the private key.
    """

    format: int = 1
    set_id: str
    recovery_point: AwareDatetime
    copied: AwareDatetime
    sealed: bool
    needs: str = ""
    base: BaseBackup | None = None
    files: tuple[FileEntry, ...]

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files)


@dataclass(frozen=True)
class CopiedSet:
    """A set in a copy; ``broken`` says why it cannot be used, as far as its list and the sizes tell."""

    set_id: str
    note: CopyNote | None
    verified: bool = False
    broken: str = ""

    @property
    def candidate(self) -> Candidate | None:
        """What retention has to know; None for a set whose list cannot be read, which is never removed."""
        if self.note is None:
            return None
        return Candidate(self.set_id, self.note.recovery_point, self.verified, self.note.needs)


@dataclass(frozen=True)
class CopyPlace:
    """One of the plan's copies. ``spool`` is where a push notes how far it came, and keeps what it has sealed."""

    spec: Copy
    place: Place
    spool: Path

    @classmethod
    def of(cls, plan: Plan, name: str) -> CopyPlace:
        """Give the plan's copy of that name; PreconditionError with the names there are."""
        for spec in plan.platform.copies:
            if spec.name == name:
                return cls.open(spec, plan.platform.repository)
        names = ", ".join(spec.name for spec in plan.platform.copies)
        raise PreconditionError(
            f"the plan has no copy named {name}",
            next_step=f"name one of: {names}" if names else "add one to the plan (platform.copies)",
        )

    @classmethod
    def open(cls, spec: Copy, repository: Path) -> CopyPlace:
        """Give a copy with its spool in the local repository."""
        place: Place = Directory(spec.path) if isinstance(spec, DirectoryCopy) else Bucket.of(spec)
        return cls(spec, place, repository / ".outgoing" / spec.name)

    @property
    def name(self) -> str:
        return self.spec.name

    def sets(self, series: str) -> tuple[CopiedSet, ...]:
        """Give the sets of a series in this copy, newest first; what is half-copied is none."""
        keys = self.place.listing()
        ids = sorted({key.partition("/")[0] for key in keys if key.endswith(f"/{NOTE}")}, reverse=True)
        wanted = [one for one in ids if _SET.fullmatch(one) and series_of(one) == series]
        with ThreadPoolExecutor(PARALLEL) as pool:
            return tuple(pool.map(lambda set_id: self._read(set_id, keys), wanted))

    def push(self, one: BackupSet) -> CopyNote:
        """Copy a published set here, going on where a killed push ended; it is listed only when all of it is there.

        Raises DamagedError when a file is not what the manifest lists, PreconditionError or RecoveryError when the
        place refuses. The local set is only read.
        """
        manifest = one.manifest
        if manifest is None:
            raise PreconditionError(f"{one.set_id} has no manifest and is not copied", next_step="take a backup of it")
        try:
            return self._push(one, manifest)
        except TimeoutError:
            # The step's own.
            raise
        except OSError as error:
            raise RecoveryError(
                f"{one.set_id} could not be made ready for {self.name}: {error.strerror or error}",
                state="no set appeared in the copy",
                next_step=f"see to the space and rights of {self.spool}, then run: recoup backup copy",
            ) from None

    def _push(self, one: BackupSet, manifest: Manifest) -> CopyNote:
        spool = self.spool / one.set_id
        with self._alone():
            self.place.check()
            self._require_the_same()
            _clear_of_other_recipients(spool, self.spec.recipients)
            text = manifest.model_dump_json(indent=1)
            (spool / MANIFEST).write_text(text, encoding="utf-8")
            of_manifest = FileEntry(path=MANIFEST, size=len(text.encode()), sha256=sha256(spool / MANIFEST))
            sender = Sender(self.place, one.set_id, spool, self.spec.recipients)
            stored = sender.send([(one.path / entry.path, entry) for entry in manifest.files])
            stored += sender.send([(spool / MANIFEST, of_manifest)])
            made = CopyNote(
                set_id=one.set_id,
                recovery_point=manifest.recovery_point,
                copied=now(),
                sealed=bool(self.spec.recipients),
                needs=as_candidate(one).needs,
                base=one.base,
                files=tuple(stored),
            )
            self.place.put_text(made.model_dump_json(indent=1), f"{one.set_id}/{NOTE}")
            self.note_verified(one)
            shutil.rmtree(spool, ignore_errors=True)
        return made

    def _require_the_same(self) -> None:
        """Refuse a directory that is another one than last time: the empty mount point of a disk that is away."""
        if not isinstance(self.spec, DirectoryCopy):
            return
        mark, begun = self.spec.path / ".recoup-copy", self.spool / "begun"
        if begun.exists() and not mark.exists():
            raise PreconditionError(
                f"{self.spec.path} is not the directory that was copied to before: its {mark.name} is missing",
                next_step=f"mount the disk; for a new one that is to be filled anew, remove {begun}",
            )
        mark.touch()
        begun.touch()

    def note_verified(self, one: BackupSet) -> bool:
        """Say here that a set's restore test passed; what was looked at stays at home, for it names what is inside."""
        if one.verified is None or not one.verified.passed:
            return False
        seen = f"{len(one.verified.checks)} checks passed"
        check = Check(name="restore test", subject=Subject.DATA, outcome=Outcome.PASSED, seen=seen)
        text = Verification(at=one.verified.at, checks=(check,)).model_dump_json(indent=1)
        self.place.put_text(text, f"{one.set_id}/{VERIFIED}")
        return True

    def fetch(self, set_id: str, into: Repository) -> BackupSet:
        """Bring a set, and those it needs, into a repository: opened, compared with its manifest, published last.

        One that is there and whole is used; one that is there and damaged is put aside first. Raises WrongKeyError,
        DamagedError, PreconditionError or RecoveryError; nothing of the set is listed then.
        """
        series = series_of(set_id)
        for one in into.sets(series):
            if one.set_id == set_id and not problems(one):
                return one
        copied = self._note(set_id)
        if copied.needs:
            self.fetch(copied.needs, into)
        try:
            self._has_room(copied, into)
            with into.staging(series, copied.recovery_point) as staged, into.staging(series, now()) as sealed:
                manifest = self._bring(copied, staged, sealed)
                if (into.root / set_id).exists():
                    (into.root / set_id).rename(into.root / f"{set_id}.damaged-{uuid4().hex[:6]}")
                got = into.publish(staged, manifest)
        except TimeoutError:
            # The step's own.
            raise
        except OSError as error:
            raise RecoveryError(
                f"{set_id} could not be written into {into.root}: {error.strerror or error}",
                state="no set appeared there",
                next_step="see to its space and rights, then fetch again",
            ) from None
        if (found := self._verification(set_id)) is not None:
            into.note_verified(got, found)
        return next(one for one in into.sets(series) if one.set_id == set_id)

    def problems(self, set_id: str, scratch: Path) -> str:
        """Say what is wrong with a set here by fetching and opening all of it; empty when it is whole."""
        into = Repository(scratch / uuid4().hex)
        try:
            got = self.fetch(set_id, into)
            return problems(got)
        except (DamagedError, PreconditionError) as error:
            return error.what
        finally:
            shutil.rmtree(into.root, ignore_errors=True)

    def locked_until(self, set_id: str) -> datetime | None:
        """Give the moment until which nobody can remove a set; None without a lock."""
        return self.place.locked_until(f"{set_id}/{NOTE}")

    def remove(self, set_id: str) -> None:
        """Remove a set: out of the listing first, so that a removal killed half-way leaves none that looks complete.

        Raises RecoveryError while it is under a lock.
        """
        until = self.locked_until(set_id)
        if until is not None and until > now():
            raise RecoveryError(
                f"{set_id} in {self.place.where} is locked until {until:%Y-%m-%d %H:%M:%S} UTC",
                state="all of it is there",
                next_step="nothing to do: it expires by itself after that",
            )
        keys = self.place.listing(f"{set_id}/")
        self.place.forget_unfinished(f"{set_id}/")
        self.place.remove(sorted(keys, key=lambda key: not key.endswith(f"/{NOTE}")))

    def leftovers(self, series: str) -> tuple[str, ...]:
        """Give the ids of sets of which something is there, and no list: pushes that were killed."""
        ids: dict[str, bool] = {}
        for key in self.place.listing():
            set_id, _, name = key.partition("/")
            ids[set_id] = ids.get(set_id, False) or name == NOTE
        return tuple(
            one for one, whole in ids.items() if not whole and _SET.fullmatch(one) and series_of(one) == series
        )

    def _bring(self, copied: CopyNote, staged: Path, sealed: Path) -> Manifest:
        stored = {entry.path: entry for entry in copied.files}
        manifest = self._manifest(copied, stored, sealed)
        for entry in manifest.files:
            if Path(entry.path).is_absolute() or ".." in Path(entry.path).parts:
                raise _damaged(copied.set_id, self, f"the manifest names a file outside of the set, {entry.path}")
            if entry.path not in stored:
                raise _damaged(copied.set_id, self, f"{entry.path} was never copied")

        def bring(entry: FileEntry) -> None:
            self._get(copied, stored[entry.path], sealed, staged / entry.path)
            # Sealed, the server's sums are of what was sealed: the content itself is compared here.
            if (copied.sealed or stored[entry.path] != entry) and sha256(staged / entry.path) != entry.sha256:
                raise _damaged(copied.set_id, self, f"{entry.path} does not match its sha256")

        each(bring, manifest.files, lambda entry: entry.size)
        return manifest

    def _manifest(self, copied: CopyNote, stored: dict[str, FileEntry], sealed: Path) -> Manifest:
        if MANIFEST not in stored:
            raise _damaged(copied.set_id, self, "its manifest was never copied")
        opened = sealed / "opened" / MANIFEST
        self._get(copied, stored[MANIFEST], sealed, opened)
        try:
            manifest = Manifest.model_validate_json(opened.read_bytes())
        except ValidationError as error:
            why = f"its manifest is not valid: {error.errors()[0]['msg']}"
            raise _damaged(copied.set_id, self, why) from None
        if manifest.set_id != copied.set_id:
            raise _damaged(copied.set_id, self, f"its manifest is of {manifest.set_id}")
        return manifest

    def _get(self, copied: CopyNote, entry: FileEntry, sealed: Path, target: Path) -> None:
        note(f"fetching {entry.path} ({entry.size / 1e6:.1f} MB)")
        key = f"{copied.set_id}/{entry.path}"
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not copied.sealed:
            self.place.get(key, target, entry)
            return
        if self.spec.identity is None:
            raise PreconditionError(
                f"{copied.set_id} in {self.place.where} is sealed, and the plan names no identity for {self.name}",
                next_step="bring the private key to this machine and name it in the copy (identity: file:/path)",
            )
        arrived = sealed / f"{entry.path}{SUFFIX}"
        self.place.get(f"{key}{SUFFIX}", arrived, entry)
        decrypt_file(arrived, target, self.spec.identity)
        arrived.unlink()

    def _has_room(self, copied: CopyNote, into: Repository) -> None:
        into.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = shutil.disk_usage(into.root).free
        largest = max((entry.size for entry in copied.files), default=0) if copied.sealed else 0
        if free < copied.size + largest:
            raise PreconditionError(
                f"{into.root} has {free / 1e9:.2f} GB free, and {copied.set_id} has {copied.size / 1e9:.2f} GB",
                next_step="free space, or fetch into another repository",
            )

    def _read(self, set_id: str, keys: dict[str, int]) -> CopiedSet:
        try:
            found = self._note(set_id)
        except DamagedError as error:
            return CopiedSet(set_id, None, broken=error.what)
        suffix = SUFFIX if found.sealed else ""
        broken = ""
        for entry in found.files:
            if (size := keys.get(f"{set_id}/{entry.path}{suffix}")) != entry.size:
                broken = f"{entry.path} " + ("is missing" if size is None else f"has {size} bytes of {entry.size}")
        return CopiedSet(set_id, found, verified=f"{set_id}/{VERIFIED}" in keys, broken=broken)

    def _note(self, set_id: str) -> CopyNote:
        try:
            found = CopyNote.model_validate_json(self.place.get_text(f"{set_id}/{NOTE}"))
        except FileNotFoundError:
            raise PreconditionError(
                f"there is no set {set_id} in {self.place.where}",
                next_step=f"see what is there: recoup backup list --at {self.name}",
            ) from None
        except (ValidationError, UnicodeDecodeError):
            raise _damaged(set_id, self, f"its {NOTE} is not valid") from None
        if found.set_id != set_id or (found.needs and not _SET.fullmatch(found.needs)):
            raise _damaged(set_id, self, f"its {NOTE} is of {found.set_id}, on {found.needs or 'no other'}")
        return found

    def _verification(self, set_id: str) -> Verification | None:
        try:
            return Verification.model_validate_json(self.place.get_text(f"{set_id}/{VERIFIED}"))
        except (FileNotFoundError, ValidationError):
            return None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.spool.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.spool / "lock").open("w") as file:
            try:
                # Given up by the system when the process dies, however it does.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"another run is copying to {self.name} now", next_step="wait for it; it copies what is missing"
                ) from None
            yield


def _clear_of_other_recipients(spool: Path, recipients: tuple[str, ...]) -> None:
    # A reference names the same file when other keys stand in it.
    text = "\n".join(public_keys(recipients)) if recipients else ""
    known = spool / "recipients"
    if not known.exists() or known.read_text(encoding="utf-8") != text:
        shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    known.write_text(text, encoding="utf-8")


def _damaged(set_id: str, copy: CopyPlace, why: str) -> DamagedError:
    return DamagedError(
        f"{set_id} in {copy.place.where}: {why}",
        state="nothing of it was kept here",
        next_step="use another copy of it, or an older set",
    )
