"""The ledger: every recovery record, appended once, on disk when the call returns, each line chained to the one before.

The chain shows a line edited, removed or moved, by accident or by hand. Who may write the ledger may also forge it
whole; against that, copy its head (``Ledger.head``) to where they may not write.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import JsonValue, TypeAdapter, ValidationError

from recoup.errors import PreconditionError, RecoveryError
from recoup.records import Frozen, RecoveryRecord, now

FORMAT = 1
GENESIS = "0" * 64
PATIENCE = timedelta(seconds=10)


class Head(Frozen):
    """Where the ledger ends: the sequence number and the hash of its last line."""

    seq: int
    hash: str


class _Entry(Frozen):
    seq: int
    format: int
    previous: str
    # Kept as it was written, not as a record: a line of an older or newer version must still hash to the same value.
    record: dict[str, JsonValue]
    hash: str

    def true_hash(self) -> str:
        return _hash(self.previous, self.seq, self.format, self.record)


@dataclass(frozen=True)
class _Line:
    number: int
    entry: _Entry | None
    whole: bool
    start: int


class Ledger:
    """The append-only file of recovery records; safe against several writers on one machine.

    ``patience`` is how long to wait for another writer.
    """

    def __init__(self, path: Path, patience: timedelta = PATIENCE) -> None:
        self.path = path
        self._patience = patience

    def append(self, record: RecoveryRecord) -> None:
        """Add a record; it is on disk when the call returns. Raises RecoveryError when it cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked(os.O_RDWR | os.O_CREAT) as descriptor:
                self._append(descriptor, record)
        except OSError as error:
            raise RecoveryError(
                f"the record of run {record.run_id} could not be added to {self.path}: {error.strerror}",
                state=f"the run itself ended as {record.verdict}; only its record is missing from the ledger",
                next_step="free space or restore access there; the run's journal beside it holds its steps",
            ) from None

    def records(self) -> tuple[RecoveryRecord, ...]:
        """Give every readable record, oldest first; unreadable lines are named by ``verify``. No file is no records."""
        entries = (line.entry for line in self._read())
        return tuple(record for entry in entries if entry and (record := _record(entry)))

    def last(self) -> RecoveryRecord | None:
        """Give the newest record, or None."""
        return next(reversed(self.records()), None)

    def head(self) -> Head | None:
        """Give the end of the chain as noted beside the ledger at the last append, or None."""
        try:
            return Head.model_validate_json(self._head_path.read_bytes())
        except (OSError, ValidationError):
            return None

    def verify(self) -> tuple[str, ...]:
        """Give every problem of the chain, one line each; empty when it is whole."""
        lines = self._read()
        problems: list[str] = []
        previous, seq = GENESIS, 0
        for line in lines:
            entry, where = line.entry, f"line {line.number}"
            if not line.whole:
                problems.append(f"{where}: torn: the write was cut off; the next append puts it aside")
                continue
            if entry is None:
                problems.append(f"{where}: not readable")
                continue
            if entry.true_hash() != entry.hash:
                problems.append(f"{where}: edited after it was written (its content does not match its hash)")
            if entry.seq != seq + 1:
                problems.append(f"{where}: record {entry.seq} follows record {seq}: lines were removed, added or moved")
            elif entry.previous != previous:
                problems.append(f"{where}: does not follow the line before it: one of them was replaced")
            if _record(entry) is None:
                problems.append(f"{where}: holds no recovery record that this version can read")
            previous, seq = entry.hash, entry.seq
        head = self.head()
        if head and head.hash not in {line.entry.hash for line in lines if line.entry}:
            problems.append(
                f"end: record {head.seq}, the last one written, is missing: lines were removed from the end"
            )
        return tuple(problems)

    @property
    def _head_path(self) -> Path:
        return self.path.with_name(self.path.name + ".head")

    def _append(self, descriptor: int, record: RecoveryRecord) -> None:
        content = _content(descriptor)
        lines = _lines(content)
        end = len(content)
        if lines and not lines[-1].whole:
            end = lines[-1].start
            aside = self.path.with_name(f"{self.path.name}.torn-{now():%Y%m%dT%H%M%S%fZ}")
            aside.write_bytes(content[end:])
            os.ftruncate(descriptor, end)
        last = next((line.entry for line in reversed(lines) if line.entry), None)
        previous, seq = (last.hash, last.seq + 1) if last else (GENESIS, 1)
        body: dict[str, JsonValue] = record.model_dump(mode="json")
        entry = _Entry(seq=seq, format=FORMAT, previous=previous, record=body, hash=_hash(previous, seq, FORMAT, body))
        try:
            _write(descriptor, entry.model_dump_json().encode() + b"\n", end)
        except OSError:
            os.ftruncate(descriptor, end)
            raise
        _replace(self._head_path, Head(seq=seq, hash=entry.hash).model_dump_json().encode() + b"\n")

    def _read(self) -> tuple[_Line, ...]:
        try:
            with self._locked(os.O_RDONLY) as descriptor:
                return _lines(_content(descriptor))
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise PreconditionError(f"the ledger {self.path} cannot be read: {error.strerror}") from None

    @contextmanager
    def _locked(self, flags: int) -> Iterator[int]:
        descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o640)
        try:
            mode = fcntl.LOCK_SH if flags == os.O_RDONLY else fcntl.LOCK_EX
            deadline = time.monotonic() + self._patience.total_seconds()
            while True:
                try:
                    fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
            yield descriptor
        finally:
            os.close(descriptor)


_OBJECT: TypeAdapter[RecoveryRecord] = TypeAdapter(RecoveryRecord)


def _record(entry: _Entry) -> RecoveryRecord | None:
    try:
        # Another version may have written keys this one does not know; what it knows is still worth reading.
        return _OBJECT.validate_json(json.dumps(entry.record), extra="ignore")
    except ValidationError:
        return None


def _hash(previous: str, seq: int, form: int, record: dict[str, JsonValue]) -> str:
    canonical = json.dumps(
        {"previous": previous, "seq": seq, "format": form, "record": record},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _lines(content: bytes) -> tuple[_Line, ...]:
    found: list[_Line] = []
    start = 0
    for number, raw in enumerate(content.split(b"\n"), 1):
        whole = start + len(raw) < len(content)
        if raw:
            found.append(_Line(number, _entry(raw) if whole else None, whole, start))
        start += len(raw) + 1
    return tuple(found)


def _entry(raw: bytes) -> _Entry | None:
    try:
        return _Entry.model_validate_json(raw)
    except ValidationError:
        return None


def _write(descriptor: int, data: bytes, at: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], at + written)
    os.fsync(descriptor)


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        _write(descriptor, data, 0)
    finally:
        os.close(descriptor)
    os.replace(fresh, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
