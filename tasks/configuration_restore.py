"""Bring configuration back: choose a set, show what would change, write each file whole or not at all, look again.

Everything is written beside first, so that a full disk changes nothing; then each file is renamed into its place, the
old one kept as ``<name>.before-<label>``. Killed at any moment, each file is the old or the new one, and the next run
finishes: what is already as in the set is left alone.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path

from recoup.catalog import BackupSet, Repository, problems, sha256
from recoup.errors import DamagedError, PreconditionError, RecoveryError, WrongKeyError
from recoup.manifest import ConfigurationTree
from recoup.records import Check, Frozen, Outcome, SkippedSet, Subject
from tasks.configuration import Configuration, owner_of
from tasks.configuration_checkout import check_out, fsync_directory
from tasks.configuration_diff import Difference, compare
from tasks.configuration_listing import NEW
from tasks.configuration_proof import identity_of
from tasks.configuration_set import FileState, Index, clear_digest, may_own, read_index, write_new
from tasks.copies import CopyPlace
from tasks.copies_fetch import here_or_fetched
from tasks.step import note, step


class ChosenConfiguration(Frozen):
    """The set that is brought back, and the newer ones that could not be used."""

    set_id: str
    recovery_point: datetime
    commit: str
    skipped: tuple[SkippedSet, ...] = ()

    def __str__(self) -> str:
        left = f", {len(self.skipped)} newer skipped" if self.skipped else ""
        return f"{self.set_id} ({f'commit {self.commit[:12]}' if self.commit else 'under no version control'}{left})"


class ConfigurationRestored(Frozen):
    """What a restore wrote; ``aside`` are the old files kept, ``left`` what is deployed and not in the set."""

    set_id: str
    written: tuple[str, ...]
    aside: tuple[str, ...]
    left: tuple[str, ...]
    checked_out: bool
    notes: tuple[str, ...]
    checks: tuple[Check, ...]

    def __str__(self) -> str:
        parts = [f"{len(self.written)} files written", f"{len(self.aside)} old ones kept aside"]
        parts += ["checked out anew"] if self.checked_out else []
        parts += [f"left, not in the set: {', '.join(self.left)}"] if self.left else []
        return "; ".join([*parts, *self.notes])


@step(timeout=timedelta(hours=1), retries=1)
def choose_configuration(
    configuration: Configuration, repository: Repository, use: str, copies: tuple[CopyPlace, ...] = ()
) -> ChosenConfiguration:
    """Give the newest whole set (``latest``), or the named one if it is whole; RecoveryError when there is none.

    Where none is whole here, one is fetched from a copy.
    """
    return here_or_fetched(
        lambda wanted: find_configuration(configuration, repository, wanted),
        copies,
        configuration.spec.store,
        repository,
        use,
    )


def find_configuration(configuration: Configuration, repository: Repository, use: str) -> ChosenConfiguration:
    """Give the set that a restore would use; see ``choose_configuration``."""
    store = configuration.spec.store
    skipped: list[SkippedSet] = []
    for one in repository.sets(store) if use == "latest" else (repository.get(store, use),):
        why = _unusable(configuration, one)
        if not why and one.manifest and isinstance(one.manifest.holds, ConfigurationTree):
            return ChosenConfiguration(
                set_id=one.set_id,
                recovery_point=one.manifest.recovery_point,
                commit=one.manifest.holds.commit,
                skipped=tuple(skipped),
            )
        skipped.append(SkippedSet(set_id=one.set_id, reason=why or "it holds something else"))
    reasons = "; ".join(f"{one.set_id}: {one.reason}" for one in skipped) or "there is none"
    raise RecoveryError(
        f"no usable set of {configuration.component} in {repository.root} ({reasons})",
        state="nothing was changed",
        next_step="fetch a set from a copy elsewhere, or check the configuration out of version control",
    )


@step(timeout=timedelta(minutes=10), retries=1)
def compare_configuration(configuration: Configuration, repository: Repository, chosen: str) -> Difference:
    """Give how what is deployed differs from a set: the diff that is shown before anything is written."""
    one = repository.get(configuration.spec.store, chosen)
    return compare(configuration, one)


@step(timeout=timedelta(hours=1), retries=1)
def restore_files(
    configuration: Configuration, repository: Repository, chosen: str, label: str
) -> ConfigurationRestored:
    """Bring a set's files back into the checkout, which is made anew from the set's bundle where there is none.

    ``label`` names the old files kept aside. Raises PreconditionError before anything is written when the identity is
    not here or a directory is in the way; RecoveryError names what may be half-way.
    """
    one = repository.get(configuration.spec.store, chosen)
    index = read_index(one)
    key = identity_of(configuration) if any(file.secret for file in index.files) else None
    _discard_leftovers(configuration, index)
    checked_out, notes = check_out(configuration, one, index, key)
    found = compare(configuration, one)
    changing = [file for file in index.files if file.path in {*found.changed, *found.new}]
    root = configuration.root
    _require_way(root, changing)
    ready: dict[str, _Ready] = {}
    try:
        for file in changing:
            note(f"writing {file.path} beside")
            target = root / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            new = target.with_name(f".{target.name}{NEW}")
            ready[file.path] = _Ready(file, target, new, "")
            ready[file.path] = _Ready(file, target, new, write_new(one, file, new, key))
    except BaseException as error:
        for one_ready in ready.values():
            one_ready.new.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise RecoveryError(
            f"{error.filename or root} could not be written: {error.strerror}",
            state="no deployed file was changed",
            next_step="see to the space and rights of the checkout, then run it again",
        ) from None
    # What was checked out a moment ago is no old configuration to keep.
    kept = [_swap(one_ready, "" if checked_out else label) for one_ready in ready.values()]
    return ConfigurationRestored(
        set_id=one.set_id,
        written=tuple(ready),
        aside=tuple(path.relative_to(root).as_posix() for path in kept if path),
        left=found.left,
        checked_out=checked_out,
        notes=notes,
        checks=_look_again(configuration, one, index, {path: r.digest for path, r in ready.items()}),
    )


@dataclass(frozen=True)
class _Ready:
    """A file that lies beside its place; ``digest`` is the sha256 of its bytes in clear."""

    file: FileState
    target: Path
    new: Path
    digest: str


def _unusable(configuration: Configuration, one: BackupSet) -> str:
    if why := problems(one):
        return why
    try:
        secret = [file for file in read_index(one).files if file.secret]
    except RecoveryError as error:
        return error.what
    try:
        key = identity_of(configuration)
    except PreconditionError:
        # Whether it opens cannot be told here; the restore asks for the identity before it writes anything.
        return ""
    try:
        for file in secret:
            clear_digest(one, file, key)
    except (WrongKeyError, DamagedError) as error:
        return f"{file.path}: {error.what}"
    return ""


def _swap(ready: _Ready, label: str) -> Path | None:
    kept: Path | None = None
    try:
        if label and os.path.lexists(ready.target):
            kept = _keep(ready.target, label)
        ready.new.rename(ready.target)
        fsync_directory(ready.target.parent)
    except OSError as error:
        raise RecoveryError(
            f"{ready.target} could not be put into its place: {error.strerror}",
            state="the files before it in the list are the set's, it and those after it are as they were",
            next_step="see to the rights of the checkout, then run it again: it goes on from there",
        ) from None
    return kept


def _keep(old: Path, label: str) -> Path:
    found = old.lstat()
    if found.st_nlink > 1:
        # A run killed between keeping and replacing has kept this very file already.
        for other in old.parent.iterdir():
            if other.name.startswith(f"{old.name}.before-") and os.path.samestat(other.lstat(), found):
                return other
    names = (f"{old.name}.before-{label}{f'.{n}' if n else ''}" for n in count())
    kept = next(path for name in names if not os.path.lexists(path := old.with_name(name)))
    try:
        os.link(old, kept, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        beside = kept.with_name(f".{kept.name}{NEW}")
        shutil.copy2(old, beside, follow_symlinks=False)
        beside.rename(kept)
    return kept


def _require_way(root: Path, files: list[FileState]) -> None:
    """Refuse to write through a link that leads out of the checkout, or over a directory."""
    for file in files:
        target = root / file.path
        if target.is_dir() and not target.is_symlink():
            raise PreconditionError(f"{target} is a directory now", next_step="move it away, then run it again")
        for parent in target.parents:
            if parent == root:
                break
            if parent.is_symlink() and not parent.resolve().is_relative_to(root):
                raise PreconditionError(
                    f"{parent} is a link that leads out of the checkout",
                    next_step="move the link away, then run it again",
                )
            if os.path.lexists(parent) and not parent.is_dir():
                raise PreconditionError(
                    f"{parent} is no directory, and {file.path} belongs below it",
                    next_step="move it away, then run it again",
                )


def _discard_leftovers(configuration: Configuration, index: Index) -> None:
    """Remove what a killed restore had written beside: it may be of another set, and a secret in clear."""
    root = configuration.root
    for directory in {(root / file.path).parent for file in index.files}:
        for left in directory.glob(f".*{NEW}"):
            if left.is_file() or left.is_symlink():
                left.unlink()


def _look_again(
    configuration: Configuration, one: BackupSet, index: Index, written: dict[str, str]
) -> tuple[Check, ...]:
    wrong, root = list(_wrong(configuration, index, written)), configuration.root
    if not wrong:
        found = compare(configuration, one)
        wrong = [f"{path} differs" for path in (*found.changed, *found.new)]
    expected = f"{len(index.files)} files by digest, mode and owner"
    foreign = [] if wrong else [f"{file.path} belonged to {file.owner}:{file.group}" for file in _foreign(root, index)]
    outcome = Outcome.FAILED if wrong else Outcome.UNPROVEN if foreign else Outcome.PASSED
    return (
        Check(
            name="the configuration is as in the set",
            subject=Subject.DATA,
            outcome=outcome,
            expected=expected,
            seen="; ".join((wrong or foreign)[:5]) or expected,
        ),
    )


def _foreign(root: Path, index: Index) -> Iterator[FileState]:
    """Give what belongs to others than it did, for this user or this machine cannot give it to them."""
    for file in index.files:
        if not file.link and not may_own(file) and owner_of((root / file.path).lstat()) != (file.owner, file.group):
            yield file


def _wrong(configuration: Configuration, index: Index, written: dict[str, str]) -> Iterator[str]:
    for file in index.files:
        path = configuration.root / file.path
        try:
            if file.link:
                if os.readlink(path) != file.link:
                    yield f"{file.path} points elsewhere"
                continue
            if file.path in written and sha256(path) != written[file.path]:
                yield f"{file.path} holds other bytes"
            found = path.lstat()
            if stat.S_IMODE(found.st_mode) != file.mode:
                yield f"{file.path} has another mode"
            if owner_of(found) != (file.owner, file.group) and may_own(file):
                yield f"{file.path} belongs to {':'.join(owner_of(found))}"
        except OSError as error:
            yield f"{file.path}: {error.strerror}"
