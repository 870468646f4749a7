"""How what is deployed differs from a backup set, as a person reads it; of a secret only that it differs."""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from recoup.catalog import BackupSet, sha256
from recoup.errors import PreconditionError
from recoup.records import Frozen
from recoup.sealing import Opener
from tasks.configuration import Configuration, listed_files, owner_of
from tasks.configuration_listing import list_files
from tasks.configuration_proof import identity_of
from tasks.configuration_set import FileState, clear_digest, fingerprint, key_id, may_own, read_index

_LONGEST = 1 << 20
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


class Difference(Frozen):
    """``changed`` differ, ``new`` are not deployed, ``left`` are deployed and not in the set; ``lines`` is the diff."""

    set_id: str
    changed: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.changed and not self.new:
            return f"as in {self.set_id}"
        return f"against {self.set_id}: {len(self.changed)} differ, {len(self.new)} missing, {len(self.left)} more"


def compare(configuration: Configuration, one: BackupSet) -> Difference:
    """Compare what is deployed with a set; an empty host has nothing deployed. Changes nothing.

    Raises PreconditionError for what cannot be read, RecoveryError for a set that cannot be used.
    """
    index, root = read_index(one), configuration.root
    changed, new, lines = [], [], []
    try:
        # By the plan of today: what was no secret when the set was taken may be one now.
        secret = list_files(root, configuration.spec).secret if root.is_dir() else set()
        for file in index.files:
            path = root / file.path
            if not os.path.lexists(path):
                new.append(file.path)
                lines.append(f"{file.path}: missing" + (" (secret)" if file.secret else ""))
            elif found := tuple(_lines(configuration, one, file, path, hidden=file.path in secret)):
                changed.append(file.path)
                lines += found
    except OSError as error:
        raise PreconditionError(f"{error.filename} cannot be read: {error.strerror}") from None
    known = {file.path for file in index.files}
    left = tuple(path for path in listed_files(configuration) if path not in known) if root.is_dir() else ()
    lines += [f"{path}: deployed and not in the set; it is left" for path in left]
    return Difference(set_id=one.set_id, changed=tuple(changed), new=tuple(new), left=left, lines=tuple(lines))


def _lines(configuration: Configuration, one: BackupSet, file: FileState, path: Path, *, hidden: bool) -> Iterator[str]:
    found = path.lstat()
    if file.link or stat.S_ISLNK(found.st_mode):
        points = os.readlink(path) if stat.S_ISLNK(found.st_mode) else ""
        if points != file.link:
            yield f"{file.path}: {_kind(points)} now, {_kind(file.link)} in the set"
        return
    if not stat.S_ISREG(found.st_mode):
        yield f"{file.path}: no file now, a file in the set"
        return
    if file.secret:
        if why := _secret_differs(configuration, one, file, path):
            yield f"{file.path}: {why}"
    elif hidden and sha256(path) != file.digest:
        yield f"{file.path}: differs (secret, though not yet when the set was taken)"
    elif sha256(path) != file.digest:
        yield from _text(file.path, path.read_bytes(), (one.path / file.stored).read_bytes())
    mode = stat.S_IMODE(found.st_mode)
    if mode != file.mode:
        yield f"{file.path}: mode {mode:04o} now, {file.mode:04o} in the set"
    owner = owner_of(found)
    if owner != (file.owner, file.group) and may_own(file):
        yield f"{file.path}: owner {':'.join(owner)} now, {file.owner}:{file.group} in the set"


def _secret_differs(configuration: Configuration, one: BackupSet, file: FileState, path: Path) -> str:
    digest = sha256(path)
    if read_index(one).fingerprints == key_id(configuration.state):
        return "differs (secret)" if fingerprint(configuration.state, digest) != file.digest else ""
    # Taken by another machine, or before this one lost its key: only the identity can tell.
    key = _identity(configuration)
    if key is None:
        return "may differ (secret; without the identity it cannot be told)"
    return "differs (secret)" if clear_digest(one, file, key) != digest else ""


def _identity(configuration: Configuration) -> Opener | None:
    try:
        return identity_of(configuration)
    except PreconditionError:
        return None


def _text(name: str, now: bytes, then: bytes) -> Iterator[str]:
    try:
        old, new = now.decode("utf-8"), then.decode("utf-8")
    except UnicodeDecodeError:
        yield f"{name}: binary differs"
        return
    if "\0" in old or "\0" in new:
        yield f"{name}: binary differs"
    elif max(len(now), len(then)) > _LONGEST:
        yield f"{name}: differs, too long to show ({len(now)} bytes now, {len(then)} in the set)"
    else:
        shown = difflib.unified_diff(
            old.splitlines(), new.splitlines(), f"deployed/{name}", f"backup/{name}", lineterm=""
        )
        found = tuple(shown)
        # What a file holds must not steer the terminal it is shown on.
        yield from (_CONTROL.sub("\ufffd", line) for line in found or (f"{name}: differs in its line endings",))


def _kind(link: str) -> str:
    return f"a link to {link}" if link else "a file"
