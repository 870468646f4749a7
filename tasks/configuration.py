"""Configuration as it is deployed: the files that the plan names, what they hold, how they differ from the commit."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from recoup.errors import PreconditionError, RecoupError, RecoveryError
from recoup.plan import ConfigurationComponent, Plan
from recoup.records import now
from tasks.configuration_git import DELETED, Control, control, differing
from tasks.configuration_listing import Listed, Pattern, covered, list_files, pattern_of
from tasks.configuration_set import FileState, fingerprint


@dataclass(frozen=True)
class Configuration:
    """A configuration component of a plan; ``state`` is where what never leaves this machine is kept."""

    component: str
    spec: ConfigurationComponent
    state: Path

    @classmethod
    def of(cls, plan: Plan, component: str | None = None) -> Configuration:
        """Give the named configuration component, or the plan's only one; PreconditionError otherwise."""
        name, spec = plan.configuration(component or None)
        return cls(name, spec, plan.platform.state)

    @property
    def root(self) -> Path:
        """The checkout, behind whatever links lead to it."""
        return self.spec.checkout.resolve()

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        return tuple(pattern_of(path) for path in (*self.spec.paths, *self.spec.secret))


@dataclass(frozen=True)
class Reading:
    """What was deployed at a moment; ``absent`` are paths of the plan that name nothing, deployed or committed."""

    at: datetime
    control: Control
    files: tuple[FileState, ...]
    seen: Mapping[str, os.stat_result]
    deleted: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @property
    def drift(self) -> dict[str, str]:
        """How each file that differs from the commit does so."""
        return {f.path: f.drift for f in self.files if f.drift} | dict.fromkeys(self.deleted, DELETED)


def read_configuration(configuration: Configuration) -> Reading:
    """Read every file that the plan names, and compare it with the commit; nothing is written in the checkout.

    Raises PreconditionError for what must not or cannot be read, RecoveryError when it changed meanwhile.
    """
    root = configuration.root
    if not root.is_dir():
        raise PreconditionError(
            f"there is no checkout at {configuration.spec.checkout}",
            next_step="correct the plan's checkout, or bring it back: recoup recover configuration",
        )
    if not configuration.patterns:
        raise PreconditionError(f"the plan names no paths of {configuration.component}", next_step="name them")
    at = now()
    try:
        listed = list_files(configuration.root, configuration.spec)
        known = control(root)
        files = tuple(_state(configuration, path, listed) for path in sorted(listed.found))
    except OSError as error:
        raise _unreadable(root, error) from None
    if not files:
        raise PreconditionError(
            f"nothing that the plan names is there in {root}", next_step="correct the component's checkout or paths"
        )
    links = {file.path: file.link for file in files}
    different = differing(root, known, links, {file.path: bool(file.mode & 0o100) for file in files})
    deleted = tuple(
        path for path in sorted(known.tracked) if path not in links and covered(configuration.patterns, path)
    )
    require_still(configuration, listed.found)
    absent = tuple(
        path
        for path in (*configuration.spec.paths, *configuration.spec.secret)
        if path not in listed.matched and not any(covered([pattern_of(path)], gone) for gone in deleted)
    )
    states = tuple(file.model_copy(update={"drift": different.get(file.path, "")}) for file in files)
    return Reading(at, known, states, listed.found, deleted, absent)


def require_still(configuration: Configuration, before: Mapping[str, os.stat_result]) -> None:
    """Raise RecoveryError when the deployed files are not what they were a moment ago."""
    try:
        after = list_files(configuration.root, configuration.spec).found
    except OSError as error:
        raise _unreadable(configuration.root, error) from None
    if changed := sorted(p for p in before.keys() | after.keys() if _other(before.get(p), after.get(p))):
        raise _changed(", ".join(changed[:5]))


def listed_files(configuration: Configuration) -> tuple[str, ...]:
    """Give the deployed files that the plan names, links included."""
    try:
        return tuple(sorted(list_files(configuration.root, configuration.spec).found))
    except OSError as error:
        raise _unreadable(configuration.root, error) from None


def _state(configuration: Configuration, path: str, listed: Listed) -> FileState:
    found, secret = listed.found[path], path in listed.secret
    if link := os.readlink(configuration.root / path) if stat.S_ISLNK(found.st_mode) else "":
        digest = hashlib.sha256(os.fsencode(link)).hexdigest()
    else:
        digest = digest_of(configuration, configuration.root / path, secret)
    return FileState(
        path=path,
        mode=stat.S_IMODE(found.st_mode),
        modified_ns=found.st_mtime_ns,
        owner=owner_of(found)[0],
        group=owner_of(found)[1],
        size=found.st_size,
        digest=digest,
        link=link,
        secret=secret,
    )


def digest_of(configuration: Configuration, path: Path, secret: bool) -> str:
    """Give the digest of a file as an index has it: see FileState."""
    with path.open("rb") as file:
        plain = hashlib.file_digest(file, "sha256").hexdigest()
    return fingerprint(configuration.state, plain) if secret else plain


def owner_of(found: os.stat_result) -> tuple[str, str]:
    """Give the names of a file's user and group; the number of one that this machine does not know."""
    return _name_of(found.st_uid, user=True), _name_of(found.st_gid, user=False)


def _name_of(number: int, *, user: bool) -> str:
    try:
        return pwd.getpwuid(number).pw_name if user else grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _signature(found: os.stat_result) -> tuple[int, ...]:
    return found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _other(before: os.stat_result | None, after: os.stat_result | None) -> bool:
    return before is None or after is None or _signature(before) != _signature(after)


def _unreadable(root: Path, error: OSError) -> RecoupError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return _changed(str(error.filename or root))
    return PreconditionError(
        f"the configuration in {root} cannot be read: {error.filename or root}: {error.strerror}",
        next_step="give the user that runs recoup the right to read it",
    )


def _changed(what: str) -> RecoveryError:
    return RecoveryError(
        f"{what} changed while being read",
        state="nothing was published",
        next_step="run it again when nobody is deploying",
    )
