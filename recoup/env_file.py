"""Environment files as Docker Compose reads them: what a variable is, and how it is changed and nothing else.

https://docs.docker.com/reference/compose-file/services/#env_file-format; read with python-dotenv, which knows values of
several lines.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from recoup.errors import PreconditionError, RecoveryError

_BARE = re.compile(r"[A-Za-z0-9_@%+=:,./~?&\[\]-]*")
_MARK = "\ufeff"


def values(text: str) -> dict[str, str]:
    """Give every variable; of one that is set several times, as the last of them has it."""
    return {one.key: one.value or "" for one in _bindings(text) if one.key and not one.error}


def changed(text: str, new: Mapping[str, str | None]) -> str:
    """Give the text with these variables set, or taken out (None), and every other line, comment and order kept.

    Of one that stands there several times the last is changed, which is the one that counts; one that does not is
    added at the end. Raises PreconditionError for a value that no such file can hold.
    """
    bindings = _bindings(text)
    last = {one.key: at for at, one in enumerate(bindings) if one.key in new and not one.error}
    parts = [one.original.string for one in bindings]
    for name, at in last.items():
        assert name is not None
        value = new[name]
        blank = parts[at][: len(parts[at]) - len(parts[at].lstrip())]
        parts[at] = blank if value is None else _line(parts[at], name, value)
    whole = (_MARK if text.startswith(_MARK) else "") + "".join(parts)
    end = "\r\n" if "\r\n" in text else "\n"
    for name, value in new.items():
        if name not in last and value is not None:
            whole += ("" if whole in ("", _MARK) or whole.endswith("\n") else end) + f"{name}={_written(value)}{end}"
    return whole


def read(path: Path) -> str:
    """Give the whole file, its line ends as they are; raises PreconditionError when it cannot be read."""
    try:
        # Bytes that are no UTF-8 stay the bytes they are.
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except OSError as error:
        raise PreconditionError(
            f"the environment file {path} cannot be read: {error.strerror}",
            next_step="correct platform.stack.env_file in the plan, or run as a user who may read it",
        ) from None


def write(path: Path, text: str, keep: Path | None = None) -> None:
    """Put a text in the file's place, whole or not at all, with its owner and mode.

    ``keep``: the name under which the old one stays; what is there already is left as it is. Raises RecoveryError,
    which says which of the two files is in place.
    """
    # Through a link, so that the link stays one.
    place = path.resolve()
    beside = place.with_name(f".{place.name}.{os.getpid()}.new")
    state = f"{path} is as it was"
    try:
        # In a container a run that was killed had the same number as this one.
        beside.unlink(missing_ok=True)
        if keep and not keep.exists():
            _copy(place, keep)
        before = place.stat()
        with open(
            os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600),
            "w",
            encoding="utf-8",
            errors="surrogateescape",
            newline="",
        ) as file:
            file.write(text)
            file.flush()
            _like(file.fileno(), before)
            os.fsync(file.fileno())
        os.replace(beside, place)
        state = f"{path} is the new file already; the old one may be back after a loss of power"
        _flush(place.parent)
    except OSError as error:
        raise RecoveryError(
            f"the environment file {path} cannot be written: {error.strerror}",
            state=state,
            next_step="see to the room and the rights of its directory",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a file beside, with its owner and mode, never to be seen half."""
    beside = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        beside.unlink(missing_ok=True)
        with source.open("rb") as old, open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
            shutil.copyfileobj(old, new)
            new.flush()
            _like(new.fileno(), source.stat())
            os.fsync(new.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def _like(file: int, other: os.stat_result) -> None:
    # Only root may give files away; whoever else may write here is the one who reads it, too.
    with contextlib.suppress(PermissionError):
        os.fchown(file, other.st_uid, other.st_gid)
    os.fchmod(file, other.st_mode & 0o7777)


def _flush(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _bindings(text: str) -> list[Binding]:
    return list(parse_stream(io.StringIO(text.removeprefix(_MARK), newline="")))


def _line(line: str, name: str, value: str) -> str:
    """Give one assignment, as it stands in the file, with another value: what is before and behind it stays."""
    found = re.fullmatch(
        rf"(?P<before>\s*(?:export[^\S\r\n]+)?{re.escape(name)}[^\S\r\n]*=[^\S\r\n]*)"
        r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|(?:[^\s#]|[^\S\r\n]+(?=[^\s#])|(?<=\S)\#)*)?"""
        r"(?P<behind>(?:[^\S\r\n]*\#[^\r\n]*|[^\S\r\n]*)(?:\r\n|\n|\r)?)",
        line,
        # A backslash stands before a line end, too.
        re.DOTALL,
    )
    if found:
        # To Compose a comment begins behind a blank alone; of anything else before it, it makes a part of a bare value.
        joined = "#" in found["behind"] and not found["behind"].startswith(" ")
        return f"{found['before']}{_written(value, quoted=joined)}{found['behind']}"
    before = line[: len(line) - len(line.lstrip())]
    end = line[len(line.rstrip("\r\n")) :]
    return f"{before}{name}={_written(value)}{end}"


def _written(value: str, quoted: bool = False) -> str:
    if _BARE.fullmatch(value) and not quoted:
        return value
    # To Compose a backslash within single quotes is itself, to other readers it is not.
    if any(sign in value for sign in "\n\r'\\\0"):
        raise PreconditionError(
            "a value with a line end, a single quote or a backslash cannot be written into an environment file",
            next_step="write the address without it: in a URL %27 is the quote and %5C the backslash",
        )
    # Within single quotes Compose puts nothing in the place of $NAME.
    return f"'{value}'"
