"""Encryption of what leaves this machine: the age format (age-encryption.org/v1), opened by the ``age`` program too.

Sealed to *recipients* (public keys, ``age1…``), opened with an *identity* (``AGE-SECRET-KEY-1…``), which a plan names
by reference only and which is best kept on another machine.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import pyrage
from pydantic import SecretStr
from pyrage import x25519
from typing_extensions import Buffer

from recoup.errors import DamagedError, PreconditionError, RecoveryError, WrongKeyError
from recoup.secrets import SecretRef, resolve

SUFFIX = ".age"
T = TypeVar("T")
_SECRET_KEY = "AGE-SECRET-KEY-1"


@dataclass(frozen=True)
class KeyPair:
    """A new age key pair: ``recipient`` to seal to, ``identity`` to open with."""

    recipient: str
    identity: SecretStr


def new_key_pair() -> KeyPair:
    """Make an X25519 key pair, as ``age-keygen`` does."""
    made = x25519.Identity.generate()
    return KeyPair(str(made.to_public()), SecretStr(str(made)))


def wrong_recipient(text: str) -> str:
    """Say why a text is no age recipient; empty when it is one. The text is not repeated: it may be a secret key.

    ``file:/path`` stands for the public keys in a file, one a line; whether it is there is not looked at.
    """
    if text.strip().upper().startswith(_SECRET_KEY):
        return "this is a secret key; recipients are public keys (age1…), and this one is to be replaced now"
    if text.startswith("file:/"):
        return ""
    try:
        x25519.Recipient.from_str(text.strip())
    except pyrage.RecipientError as error:
        return f"not an age public key (age1…): {error}"
    return ""


def public_keys(recipients: tuple[str, ...]) -> tuple[str, ...]:
    """Give the public keys that recipients stand for, those in files too.

    Raises PreconditionError when there is none, a file cannot be read, or one is no age public key.
    """
    if not recipients:
        raise PreconditionError(
            "nobody is named who could open what is to be encrypted",
            next_step="make a key pair (age-keygen) and name its public key, age1…, in the plan's recipients",
        )
    keys: list[str] = []
    for n, text in enumerate(recipients):
        lines = resolve(text).get_secret_value().splitlines() if text.startswith("file:/") else [text]
        found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        wrong = next(filter(None, map(wrong_recipient, found)), "") or ("" if found else "no key in it")
        if wrong or any(key.startswith("file:") for key in found):
            raise PreconditionError(
                f"recipient {n + 1}{f' ({text})' if text.startswith('file:/') else ''}: {wrong or 'not a key'}",
                next_step="correct the plan's recipients",
            )
        keys += found
    return tuple(dict.fromkeys(keys))


def sealer(recipients: tuple[str, ...]) -> Sealer:
    """Give what seals to these recipients; raises PreconditionError as ``public_keys`` does."""
    return Sealer(tuple(x25519.Recipient.from_str(key) for key in public_keys(recipients)))


def opener(identity: SecretRef) -> Opener:
    """Give what opens with the identity that a reference names: the key itself, or a file as age-keygen writes it.

    Raises PreconditionError when it is not on this machine or is no age identity.
    """
    lines = (line.strip() for line in resolve(identity).get_secret_value().splitlines())
    keys = [line for line in lines if line and not line.startswith("#")]
    try:
        found = tuple(x25519.Identity.from_str(key) for key in keys)
    except pyrage.IdentityError:
        found = ()
    if not found:
        raise PreconditionError(
            f"what {identity} names is no age identity",
            next_step=f"it must hold a line that begins with {_SECRET_KEY}, as age-keygen writes it",
        )
    return Opener(identity, found)


@dataclass(frozen=True)
class Sealer:
    """Encrypts to recipients; each of them can open the whole."""

    recipients: tuple[x25519.Recipient, ...]

    def seal(self, reader: BinaryIO, writer: BinaryIO) -> None:
        """Encrypt a stream, in pieces; errors of reader and writer pass through."""
        source, target = _Through(reader), _Through(writer)
        try:
            # Not encrypt_file: it is a tenth faster, but holds the interpreter, time-outs and all, until its end.
            pyrage.encrypt_io(source, target, self.recipients)
        except (pyrage.EncryptError, OSError) as error:
            raise source.failed or target.failed or RecoveryError(f"encryption failed: {error}") from None


@dataclass(frozen=True)
class Opener:
    """Decrypts with an identity; ``reference`` says where that is."""

    reference: SecretRef
    identities: tuple[x25519.Identity, ...]

    def open(self, reader: BinaryIO, writer: BinaryIO) -> None:
        """Decrypt a stream, in pieces; what was written is to be thrown away when this raises.

        Raises WrongKeyError or DamagedError; errors of reader and writer pass through.
        """
        source, target = _Through(reader), _Through(writer)
        try:
            pyrage.decrypt_io(source, target, self.identities)
        except (pyrage.DecryptError, OSError) as error:
            if failed := source.failed or target.failed:
                raise failed from None
            if "No matching keys" in str(error):
                raise WrongKeyError(
                    f"{self.reference} does not open it: it was sealed to other recipients, or its header is damaged",
                    next_step="use the identity of one of the recipients it was sealed to, or another set",
                ) from None
            raise DamagedError(
                f"what was encrypted is damaged or cut short ({str(error).splitlines()[0]})",
                state="nothing of it was kept",
                next_step="use another copy of it, or an older set",
            ) from None


def encrypt_file(source: Path, target: Path, recipients: tuple[str, ...]) -> None:
    """Encrypt a file into a new one, which appears whole (mode 0600, flushed) or not at all.

    Raises PreconditionError for wrong recipients, OSError where files cannot be read or written.
    """
    seal = sealer(recipients).seal
    with source.open("rb") as reader, _appearing(target) as writer:
        seal(reader, writer)


def decrypt_file(source: Path, target: Path, identity: SecretRef) -> None:
    """Decrypt a file into a new one, which appears whole (mode 0600, flushed) or not at all.

    Raises PreconditionError without an identity, WrongKeyError, DamagedError, OSError.
    """
    unseal = opener(identity).open
    with source.open("rb") as reader, _appearing(target) as writer:
        unseal(reader, writer)


@contextmanager
def _appearing(target: Path) -> Iterator[BinaryIO]:
    beside = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as writer:
            yield writer
            writer.flush()
            os.fsync(writer.fileno())
        beside.rename(target)
    finally:
        beside.unlink(missing_ok=True)


class _Through(io.BufferedIOBase):
    """Hands a stream on and remembers what it raised: pyrage would tell it, an interruption too, as its own failure."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.failed: BaseException | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        return self._told(lambda: self._stream.read(-1 if size is None else size))

    def write(self, data: Buffer, /) -> int:
        return self._told(lambda: self._stream.write(data))

    def flush(self) -> None:
        self._told(self._stream.flush)

    def close(self) -> None:
        """Leave the stream open: it is the caller's."""

    def _told(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except BaseException as error:
            self.failed = error
            raise
