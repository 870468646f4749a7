"""The restore test of a configuration set: every file brought back, secrets opened, the commit checked out."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from recoup.catalog import BackupSet, Repository, problems
from recoup.errors import PreconditionError, RecoupError
from recoup.manifest import Verification
from recoup.records import Check, Frozen, Outcome, Subject, now
from recoup.sealing import Opener, opener
from tasks.configuration import Configuration
from tasks.configuration_git import clone_bundle, require_git
from tasks.configuration_set import FileState, Index, fingerprint, key_id, read_index, unpack_bundle, write_new
from tasks.step import note, step


class ConfigurationProof(Frozen):
    """What the restore test of a set found."""

    set_id: str
    checks: tuple[Check, ...]

    def __str__(self) -> str:
        return f"{self.set_id}: " + "; ".join(f"{check.name}: {check.outcome}" for check in self.checks)


@step(timeout=timedelta(hours=1), retries=1)
def prove_configuration_backup(configuration: Configuration, repository: Repository, chosen: str) -> ConfigurationProof:
    """Restore a set into a temporary directory, and write down beside the set what came back.

    What an identity is needed for stays ``unproven`` where this machine has none.
    """
    one = repository.get(configuration.spec.store, chosen)
    checks = prove(configuration, one)
    repository.note_verified(one, Verification(at=now(), checks=checks))
    return ConfigurationProof(set_id=one.set_id, checks=checks)


def prove(configuration: Configuration, one: BackupSet) -> tuple[Check, ...]:
    """Give what a restore of the set into a temporary directory shows; nothing of it is left."""
    whole = problems(one)
    first = _check("the set is whole", "size and sha256 of every file", [whole] if whole else [])
    if whole:
        return (first,)
    try:
        index = read_index(one)
    except RecoupError as error:
        return first, _check("the index can be read", "every file with mode and digest", [error.what])
    with tempfile.TemporaryDirectory(prefix="recoup-configuration-") as place:
        note("restoring the set into a temporary directory")
        trial = _Trial(configuration, one, index, Path(place), *_opener(configuration))
        return (first, *trial.files(), *trial.history())


@dataclass(frozen=True)
class _Trial:
    configuration: Configuration
    one: BackupSet
    index: Index
    place: Path
    key: Opener | None
    no_key: str

    def files(self) -> list[Check]:
        plain = [file for file in self.index.files if not file.secret]
        secret = [file for file in self.index.files if file.secret]
        checks = [_check("the files come back", f"{len(plain)} files, mode and digest", self._wrong(plain))]
        if secret:
            name, expected = "the secrets open", f"{len(secret)} files, by the plan's identity"
            checks.append(
                _check(name, expected, self._wrong(secret)) if self.key else _unproven(name, expected, self.no_key)
            )
        return checks

    def history(self) -> list[Check]:
        index = self.index
        if not index.commit:
            return []
        name, expected = "the commit can be checked out", index.commit
        if not index.bundle:
            return [_unproven(name, expected, index.no_bundle)]
        if index.recipients and self.key is None:
            return [_unproven(name, expected, self.no_key)]
        bundle = self.place / "bundle"
        try:
            require_git()
            unpack_bundle(self.one, index, bundle, self.key)
            clone_bundle(bundle, self.place / "checkout", index.commit, index.branch)
        except PreconditionError as error:
            return [_unproven(name, expected, error.what)]
        except (RecoupError, OSError) as error:
            return [_check(name, expected, [str(error).splitlines()[0]])]
        return [_check(name, expected, [])]

    def _wrong(self, files: Sequence[FileState]) -> list[str]:
        found = ((file, self._brought_back(file)) for file in files)
        return [f"{file.path}: {why}" for file, why in found if why]

    def _brought_back(self, file: FileState) -> str:
        new = self.place / "files" / file.path
        try:
            new.parent.mkdir(parents=True, exist_ok=True)
            digest = write_new(self.one, file, new, self.key)
            mode = stat.S_IMODE(new.lstat().st_mode)
            if file.secret and not file.link:
                # Another machine has another key for its fingerprints; there age's own seal is the proof.
                state = self.configuration.state
                if self.index.fingerprints == key_id(state) and fingerprint(state, digest) != file.digest:
                    return "opens to other bytes than were sealed"
        except (RecoupError, OSError) as error:
            return error.what if isinstance(error, RecoupError) else str(error.strerror)
        return "" if file.link or mode == file.mode else f"mode {mode:o} instead of {file.mode:o}"


def identity_of(configuration: Configuration) -> Opener:
    """Give what opens the component's sets; PreconditionError when the plan names no identity or it is not here."""
    if configuration.spec.identity is None:
        raise PreconditionError(
            f"the plan names no identity of {configuration.component}, and its sets are sealed",
            next_step="name the component's identity in the plan, on the machine that restores",
        )
    return opener(configuration.spec.identity)


def _opener(configuration: Configuration) -> tuple[Opener | None, str]:
    try:
        return identity_of(configuration), ""
    except PreconditionError as error:
        return None, error.what


def _check(name: str, expected: str, wrong: Sequence[str]) -> Check:
    return Check(
        name=name,
        subject=Subject.DATA,
        outcome=Outcome.FAILED if wrong else Outcome.PASSED,
        expected=expected,
        seen="; ".join(wrong[:5]) or expected,
    )


def _unproven(name: str, expected: str, why: str) -> Check:
    return Check(name=name, subject=Subject.DATA, outcome=Outcome.UNPROVEN, expected=expected, seen=why)
