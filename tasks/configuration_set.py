"""A backup set of configuration: what its index says of each file, and how a file is read back from it.

``files/`` holds the files as they were, ``secret/`` those that are sealed (``.age``), ``repository.bundle`` the commit
with its history, sealed as well where the plan names recipients. ``index.json`` says the rest.
"""

from __future__ import annotations

import grp
import hashlib
import hmac
import os
import pwd
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, cast

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from recoup.catalog import BackupSet, sha256
from recoup.errors import PreconditionError, RecoveryError
from recoup.records import Frozen
from recoup.sealing import SUFFIX, Opener

INDEX = "index.json"
BUNDLE = "repository.bundle"
_KEY = "configuration.key"


# In the index as people write it: "0640".
Mode = Annotated[
    int,
    BeforeValidator(lambda value: int(value, 8) if isinstance(value, str) else value),
    PlainSerializer(lambda value: f"{value:04o}", return_type=str, when_used="json"),
]


class FileState(Frozen):
    """One deployed file; ``mode`` its permission bits, ``link`` where a symbolic link points, ``drift`` how it differs.

    ``digest`` is the sha256; of a secret the HMAC-SHA256 of that under a key that only the machine itself has.
    """

    path: str
    mode: Mode
    modified_ns: int
    owner: str
    group: str
    size: int
    digest: str
    link: str = ""
    secret: bool = False
    drift: str = ""

    @property
    def stored(self) -> str:
        """Where the set has its bytes, relative to it; a link has none."""
        return "" if self.link else f"secret/{self.path}{SUFFIX}" if self.secret else f"files/{self.path}"

    def same(self, other: FileState) -> bool:
        """Say whether two states hold the same bytes under the same rights, whenever they were written."""
        mine, its = (
            (s.digest, s.link, s.secret, 0 if s.link else s.mode, s.owner, s.group, s.drift) for s in (self, other)
        )
        return mine == its


class Index(Frozen):
    """What a set says of its files: ``none`` why there is no commit, ``no_bundle`` why there is no history.

    ``fingerprints`` tells which key the secrets' digests were made with.
    """

    format: Literal[1] = 1
    commit: str
    branch: str = ""
    tags: tuple[str, ...] = ()
    none: str = ""
    files: tuple[FileState, ...]
    deleted: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()
    fingerprints: str = ""
    bundle: str = ""
    no_bundle: str = ""

    def file(self, path: str) -> FileState | None:
        return next((file for file in self.files if file.path == path), None)


def read_index(one: BackupSet) -> Index:
    """Give a set's index; raises RecoveryError when it cannot be read, or names what is not below the checkout."""
    try:
        index = Index.model_validate_json((one.path / INDEX).read_bytes())
    except (OSError, ValidationError) as error:
        raise _unusable(one, f"its index cannot be read ({type(error).__name__})") from None
    for file in index.files:
        parts = Path(file.path).parts
        if not parts or Path(file.path).is_absolute() or ".." in parts or ".git" in parts:
            raise _unusable(one, f"its index names {file.path!r}, which is not below the checkout")
        if file.link:
            leads = os.path.normpath(os.path.join("/r", os.path.dirname(file.path), file.link))
            if not leads.startswith("/r/"):
                raise _unusable(one, f"its link {file.path!r} leads out of the checkout")
    return index


def write_new(one: BackupSet, file: FileState, new: Path, key: Opener | None) -> str:
    """Write one file of a set, in clear, as a new one with its mode, owner and time, flushed; gives its sha256.

    Owners are set by root only, and left as they are where this machine does not know them. Raises PreconditionError
    without a key for a secret, WrongKeyError, DamagedError, RecoveryError, OSError.
    """
    if file.link:
        os.symlink(file.link, new)
        return file.digest
    with (one.path / file.stored).open("rb") as reader, private(new) as writer:
        if not file.secret:
            shutil.copyfileobj(reader, writer)
        else:
            _key_for(file.path, key).open(reader, writer)
        writer.flush()
        if os.geteuid() == 0:
            with suppress(LookupError):
                shutil.chown(new, *_owner(file))
        # After the owner, whose change takes away set-uid bits.
        os.fchmod(writer.fileno(), file.mode)
        os.utime(writer.fileno(), ns=(file.modified_ns, file.modified_ns))
        os.fsync(writer.fileno())
    written = sha256(new)
    if not file.secret and written != file.digest:
        raise _unusable(one, f"{file.path} does not match its digest")
    return written


def may_own(file: FileState) -> bool:
    """Say whether a file can be given to whom a set says: by root alone, and where this machine knows both."""
    try:
        _owner(file)
    except LookupError:
        return False
    return os.geteuid() == 0


def _owner(file: FileState) -> tuple[int, int]:
    user = int(file.owner) if file.owner.isdecimal() else pwd.getpwnam(file.owner).pw_uid
    return user, int(file.group) if file.group.isdecimal() else grp.getgrnam(file.group).gr_gid


def clear_digest(one: BackupSet, file: FileState, key: Opener) -> str:
    """Give the sha256 of a sealed file's bytes in clear, which are written nowhere; raises as ``write_new`` does."""
    sink = _Hashing()
    with (one.path / file.stored).open("rb") as reader:
        key.open(reader, cast(BinaryIO, sink))
    return sink.digest.hexdigest()


class _Hashing:
    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is kept back."""


def unpack_bundle(one: BackupSet, index: Index, target: Path, key: Opener | None) -> None:
    """Write the set's git bundle in clear; raises as ``write_new`` does."""
    with (one.path / index.bundle).open("rb") as reader, private(target) as writer:
        if index.bundle.endswith(SUFFIX):
            _key_for("the commit's bundle", key).open(reader, writer)
        else:
            shutil.copyfileobj(reader, writer)


def private(path: Path) -> BinaryIO:
    """Open a new file that only its owner can read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")


def _key_for(what: str, key: Opener | None) -> Opener:
    if key is None:
        raise PreconditionError(
            f"{what} is sealed, and the plan names no identity to open it",
            next_step="name the configuration's identity in the plan, on the machine that restores",
        )
    return key


def fingerprint(state: Path, sha256: str) -> str:
    """Give the digest under which a secret of this sha256 stands in an index.

    The sha256 of a file that holds one short password would let the password be guessed from the set alone.
    """
    return hmac.new(fingerprint_key(state), bytes.fromhex(sha256), "sha256").hexdigest()


def key_id(state: Path) -> str:
    """Give a name of this machine's key for fingerprints, which does not give it away; empty before it is made."""
    if not (state / _KEY).exists():
        return ""
    return hmac.new(fingerprint_key(state), b"name of this key", "sha256").hexdigest()[:16]


def fingerprint_key(state: Path) -> bytes:
    """Give the key that secrets are fingerprinted with, made at first use; it is kept in the state directory only."""
    path = state / _KEY
    try:
        state.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{_KEY}.{os.getpid()}.{secrets.token_hex(4)}")
        if not path.exists():
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(new, path)
            except FileExistsError:
                pass
            finally:
                new.unlink()
        return bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise PreconditionError(
            f"the key {path}, by which changed secrets are noticed, cannot be read or made: {error}",
            next_step=f"see to the rights of {state}; a damaged key may be removed, another is made",
        ) from None


def _unusable(one: BackupSet, why: str) -> RecoveryError:
    return RecoveryError(
        f"the backup set {one.set_id} cannot be used: {why}",
        state="nothing was written from it",
        next_step="use an older set: --backup SET",
    )
