"""A backup of the deployed configuration: the files as they are, secrets sealed, and the commit with its history."""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import recoup
from recoup.catalog import BackupSet, Repository, entries, problems, set_id
from recoup.errors import PreconditionError, RecoveryError
from recoup.manifest import ConfigurationTree, Manifest
from recoup.records import Frozen, now
from recoup.sealing import SUFFIX, Sealer, public_keys, sealer
from tasks.configuration import Configuration, Reading, read_configuration, require_still
from tasks.configuration_git import DELETED, write_bundle
from tasks.configuration_look import note_look
from tasks.configuration_set import BUNDLE, INDEX, Index, key_id, private, read_index
from tasks.step import note, step

TAKE = timedelta(hours=1)


class ConfigurationTaken(Frozen):
    """What a backup published; ``published`` False: nothing changed since ``set_id``, the newest. Sizes in bytes."""

    set_id: str
    published: bool
    recovery_point: datetime
    size: int
    files: int
    commit: str
    drift: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    encrypted: int = 0
    pruned: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.set_id}: " + ("" if self.published else "unchanged, ") + f"{self.files} files"]
        parts.append(f"{self.encrypted} of them sealed" if self.encrypted else "none of them secret")
        parts.append(f"commit {self.commit[:12]}" if self.commit else "under no version control")
        parts += [f"{len(self.drift)} not as committed"] if self.drift else []
        parts += [f"NOT THERE: {', '.join(self.absent)}"] if self.absent else []
        return ", ".join(parts)


@step(timeout=TAKE, retries=2)
def take_configuration_backup(configuration: Configuration, repository: Repository) -> ConfigurationTaken:
    """Publish a set of what is deployed, unless the newest set holds the same; gives which it is.

    Raises PreconditionError before anything is written when a secret has no recipient or a file cannot be read.
    """
    spec = configuration.spec
    if spec.secret and not spec.recipients:
        raise PreconditionError(
            f"{configuration.component} has secrets ({', '.join(spec.secret)}) and nobody to seal them to",
            next_step="make a key pair (age-keygen) and name its public key in the component's recipients",
        )
    keys = public_keys(spec.recipients) if spec.recipients else ()
    started = now()
    reading = read_configuration(configuration)
    if newest := _unchanged(configuration, repository, reading, keys):
        note_look(configuration, newest.set_id, reading.at)
        return _taken(newest, reading, published=False)
    try:
        with repository.staging(spec.store, started) as staged:
            index = _write(configuration, reading, staged, keys)
            manifest = Manifest(
                set_id=set_id(spec.store, reading.at),
                store=spec.store,
                component=configuration.component,
                recovery_point=reading.at,
                started=started,
                ended=now(),
                recoup_version=recoup.__version__,
                holds=ConfigurationTree(
                    commit=index.commit,
                    drift=tuple(sorted(reading.drift)),
                    encrypted=tuple(file.path for file in index.files if file.secret),
                ),
                files=entries(staged),
            )
            published = repository.publish(staged, manifest)
    except OSError as error:
        raise RecoveryError(
            f"the backup could not be written: {error.strerror}",
            state="no set was published; the older ones are untouched",
            next_step=f"see to the space and rights of {repository.root}, then run it again",
        ) from None
    pruned = repository.prune(spec.store, spec.backup) if spec.backup else ()
    return _taken(published, reading, published=True).model_copy(update={"pruned": pruned})


def unprotected_drift(configuration: Configuration, repository: Repository) -> tuple[str, ...]:
    """Give, line by line, how what is deployed differs from the commit, and what of it the newest set does not hold."""
    reading = read_configuration(configuration)
    newest = next((one for one in repository.sets(configuration.spec.store) if not problems(one)), None)
    index = read_index(newest) if newest else None
    lines = [f"{path}: named in the plan, and not there" for path in reading.absent]
    lines += [f"{path}: {DELETED}" for path in reading.deleted]
    if reading.control.none:
        lines.append(f"{configuration.spec.checkout}: {reading.control.none}, so that only backup sets hold it")
    for file in reading.files:
        held = index.file(file.path) if index else None
        in_set = held is not None and held.same(file)
        if file.drift and not (in_set and (file.secret or reading.control.none)):
            lines.append(
                f"{file.path}: {file.drift}, " + ("in the newest set" if in_set else "in no backup set as it is")
            )
    return tuple(lines)


def _unchanged(
    configuration: Configuration, repository: Repository, reading: Reading, keys: tuple[str, ...]
) -> BackupSet | None:
    newest = next(iter(repository.sets(configuration.spec.store)), None)
    if newest is None or newest.manifest is None or problems(newest):
        return None
    try:
        index = read_index(newest)
    except RecoveryError:
        return None
    before = {file.path: file for file in index.files}
    same = (
        index.commit == reading.control.commit
        and index.recipients == keys
        and before.keys() == {file.path for file in reading.files}
        and all(before[file.path].same(file) for file in reading.files)
        and (index.deleted, index.absent) == (reading.deleted, reading.absent)
    )
    return newest if same else None


def _write(configuration: Configuration, reading: Reading, staged: Path, keys: tuple[str, ...]) -> Index:
    root, bundle, no_bundle = configuration.root, "", reading.control.none
    sealing = sealer(keys) if keys else None
    for file in reading.files:
        if file.link:
            continue
        target = staged / file.stored
        target.parent.mkdir(parents=True, exist_ok=True)
        with (root / file.path).open("rb") as source, private(target) as writer:
            if not file.secret:
                shutil.copyfileobj(source, writer)
            elif sealing is None:
                raise AssertionError("a secret without recipients was let through")
            else:
                sealing.seal(source, writer)
        # The owner's right to read stays, so that the set can be copied on; the index has the true mode.
        target.chmod(file.mode & 0o777 | 0o400)
        os.utime(target, ns=(file.modified_ns, file.modified_ns))
    if reading.control.commit:
        note("bundling the commit")
        bundle, no_bundle = _bundle(configuration, reading, staged, sealing)
    require_still(configuration, reading.seen)
    index = Index(
        commit=reading.control.commit,
        branch=reading.control.branch,
        tags=reading.control.tags,
        none=reading.control.none,
        files=reading.files,
        deleted=reading.deleted,
        absent=reading.absent,
        recipients=keys,
        fingerprints=key_id(configuration.state),
        bundle=bundle,
        no_bundle=no_bundle,
    )
    (staged / INDEX).write_text(index.model_dump_json(indent=1), encoding="utf-8")
    return index


def _bundle(configuration: Configuration, reading: Reading, staged: Path, sealing: Sealer | None) -> tuple[str, str]:
    # The temporary file has no name: what git writes in clear is never seen in the set, whoever is killed when.
    with tempfile.TemporaryFile(dir=staged) as clear:
        if why := write_bundle(configuration.root, reading.control, clear):
            return "", why
        clear.seek(0)
        # Sealed as a whole wherever there is a key: a secret may have been committed once, under another name.
        name = BUNDLE + (SUFFIX if sealing else "")
        with private(staged / name) as writer:
            if sealing:
                sealing.seal(clear, writer)
            else:
                shutil.copyfileobj(clear, writer)
    return name, ""


def _taken(one: BackupSet, reading: Reading, *, published: bool) -> ConfigurationTaken:
    assert one.manifest is not None
    return ConfigurationTaken(
        set_id=one.set_id,
        published=published,
        recovery_point=reading.at,
        size=one.manifest.size,
        files=len(reading.files),
        commit=reading.control.commit,
        drift=tuple(sorted(reading.drift)),
        absent=reading.absent,
        encrypted=sum(file.secret for file in reading.files),
    )
