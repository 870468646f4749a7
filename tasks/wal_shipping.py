"""Received WAL in the copies elsewhere: sent there within seconds, and brought back to a host that has lost it.

Below ``wal/`` each file has a key that says what it is: directory, name, when it was read (ns since 1970), and the
SHA-256 of what is stored. A segment that is still being received is sent again as it grows; the newest counts.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from recoup.catalog import sha256
from recoup.errors import DamagedError, PreconditionError, RecoupError, RecoveryError, first_line
from recoup.manifest import BaseBackup, FileEntry
from recoup.sealing import SUFFIX, decrypt_file, encrypt_file
from recoup.wal import is_whole, received
from recoup.wal_retention import WalFile
from tasks.copies import CopyPlace
from tasks.heartbeat import WITNESS

PAUSE = 2.0
_ROOT = "wal/"
_KEY = re.compile(
    r"wal/(?P<place>\d+-\d+(?:\.\d+)?)/(?P<name>[0-9A-Fa-z._]+)@(?P<at>\d+)-(?P<sha>[0-9a-f]{64})\.gz(\.age)?"
)
_PARTIAL = ".partial"


@dataclass(frozen=True)
class Stored:
    """One file of WAL as a copy holds it."""

    key: str
    place: str
    name: str
    at: int
    entry: FileEntry

    @property
    def file(self) -> WalFile:
        """What retention has to know of it."""
        return WalFile(self.place, self.name, datetime.fromtimestamp(self.at / 1e9, UTC), self.entry.size)


@dataclass
class Shipper:
    """Sends what is received into ``wal`` to one copy; remembers what is there."""

    wal: Path
    copy: CopyPlace
    _there: dict[tuple[str, str], list[str]] | None = field(default=None, init=False)
    _seen: dict[Path, tuple[int, int]] = field(default_factory=dict, init=False)
    _witness: str = field(default="", init=False)

    def ship(self) -> int:
        """Send what the copy lacks and give how many files that were; raises RecoupError when the copy refuses."""
        if self._there is None:
            self.copy.place.check()
            self._there = {}
            for one in stored(self.copy):
                self._there.setdefault((one.place, one.name), []).append(one.key)
        witness = _text(self.wal / WITNESS)
        sent = 0
        for path in received(self.wal):
            try:
                sent += self._send(path, self._there)
            except FileNotFoundError:
                # Renamed: it is complete now, and found by the next round.
                continue
        # After what it witnesses.
        if witness and witness != self._witness:
            self.copy.place.put_text(witness, f"{_ROOT}{WITNESS}")
            self._witness = witness
        return sent

    @staticmethod
    def _next(before: list[str]) -> int:
        """Give the time by which this state is newer than those before it, also when the clock was set back."""
        known = [int(match["at"]) for key in before if (match := _KEY.fullmatch(key))]
        return max(time.time_ns(), max(known, default=0) + 1)

    def _send(self, path: Path, there: dict[tuple[str, str], list[str]]) -> bool:
        found = path.stat()
        state, which = (found.st_mtime_ns, found.st_size), (path.parent.name, path.name)
        growing = path.name.endswith(_PARTIAL)
        if self._seen.get(path) == state or (not growing and which in there):
            return False
        with tempfile.TemporaryDirectory(prefix="recoup-wal-") as spool:
            packed = Path(spool) / "packed"
            # When WAL came in last is what tells how far it is known to be all there is.
            written = found.st_mtime_ns // 10**9
            with path.open("rb") as source, gzip.GzipFile(packed, "wb", compresslevel=1, mtime=written) as target:
                shutil.copyfileobj(source, target, 1 << 20)
            if self.copy.spec.recipients:
                encrypt_file(packed, packed.with_suffix(SUFFIX), self.copy.spec.recipients)
                packed = packed.with_suffix(SUFFIX)
            digest = sha256(packed)
            key = f"{_ROOT}{path.parent.name}/{path.name}@{self._next(there.get(which, []))}-{digest}.gz" + (
                SUFFIX if self.copy.spec.recipients else ""
            )
            self.copy.place.put(packed, key, FileEntry(path=key, size=packed.stat().st_size, sha256=digest))
        self._seen[path] = state
        older = there.get(which, []) if growing else there.pop((which[0], which[1] + _PARTIAL), [])
        # Of several the newest is taken.
        there[which] = [key, *self._left(older)]
        return True

    def _left(self, older: list[str]) -> list[str]:
        """Remove older states and give those that stay: locked there for a while, or not this host's to remove."""
        if older and self.copy.spec.removes:
            with suppress(RecoveryError):
                self.copy.place.remove(older)
                return []
        return older


@dataclass(frozen=True)
class Brought:
    """How many files of WAL came from a copy, and what did not come as it was sent."""

    count: int
    damaged: tuple[str, ...] = ()


def bring_wal(copy: CopyPlace, wal: Path, base: BaseBackup) -> Brought:
    """Bring the WAL of a base backup's server from a copy into ``wal``, leaving what is there and looks whole.

    Of what is damaged here the copy's takes the place, and it is kept aside; of what does not come as it was sent an
    older state is taken where there is one. Raises WrongKeyError when it cannot be opened.
    """
    states: dict[tuple[str, str], list[Stored]] = {}
    for one in sorted(stored(copy), key=lambda one: one.at, reverse=True):
        if one.place.startswith(f"{base.system_identifier}-"):
            states.setdefault((one.place, one.name), []).append(one)
    count = 0
    damaged: list[str] = []
    for (place, name), some in states.items():
        target = wal / place / name
        if target.exists() and is_whole(target, base.segment_size):
            continue
        for one in some:
            try:
                _bring(copy, one, target)
            except DamagedError as error:
                damaged.append(error.what)
                continue
            count += 1
            break
    if states and not (wal / WITNESS).exists():
        with suppress(FileNotFoundError):
            (wal / WITNESS).write_text(copy.place.get_text(f"{_ROOT}{WITNESS}"), encoding="utf-8")
    return Brought(count, tuple(damaged))


@contextmanager
def shipping(wal: Path, copies: tuple[CopyPlace, ...], tell: Callable[[str], None]) -> Iterator[None]:
    """Ship while the block runs, each copy in a thread of its own; tells when one fails, and when it is well again."""
    stop = threading.Event()
    threads = [threading.Thread(target=_keep_shipping, args=(Shipper(wal, c), stop, tell), daemon=True) for c in copies]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _keep_shipping(shipper: Shipper, stop: threading.Event, tell: Callable[[str], None]) -> None:
    said = ""
    while True:
        try:
            shipper.ship()
            state = "the WAL is shipped"
        except (RecoupError, OSError) as error:
            state = f"the WAL is not shipped: {first_line(error)}"
        if state != said:
            tell(f"{shipper.copy.name}: {state}")
            said = state
        if stop.wait(PAUSE):
            return


def stored(copy: CopyPlace) -> Iterator[Stored]:
    """Give every file of WAL in a copy; one that is still growing, or may not be removed yet, more than once."""
    for key, size in copy.place.listing(_ROOT).items():
        if match := _KEY.fullmatch(key):
            entry = FileEntry(path=key, size=size, sha256=match["sha"])
            yield Stored(key, match["place"], match["name"], int(match["at"]), entry)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _bring(copy: CopyPlace, one: Stored, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.new")
    with tempfile.TemporaryDirectory(prefix="recoup-wal-") as spool:
        packed = Path(spool) / "packed"
        copy.place.get(one.key, packed, one.entry)
        if one.key.endswith(SUFFIX):
            if copy.spec.identity is None:
                raise PreconditionError(
                    f"the WAL in {copy.name} is sealed, and the plan does not say where the key is",
                    next_step=f"name it in the plan: platform.copies, {copy.name}, identity",
                )
            decrypt_file(packed, Path(spool) / "opened", copy.spec.identity)
            packed = Path(spool) / "opened"
        try:
            with gzip.GzipFile(packed) as source, beside.open("wb") as into:
                shutil.copyfileobj(source, into, 1 << 20)
                written = source.mtime or 0
            os.utime(beside, (written, written))
        except (EOFError, gzip.BadGzipFile) as error:
            beside.unlink(missing_ok=True)
            raise DamagedError(f"{one.key} in {copy.name} cannot be unpacked: {error}") from None
    if target.exists():
        target.rename(target.with_name(f"{target.name}.damaged-{time.time_ns()}"))
    beside.rename(target)
