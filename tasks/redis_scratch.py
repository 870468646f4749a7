"""A copy of a Redis looked at where nothing moves: its file checked, then loaded into a throwaway server."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import redis
from pydantic import ValidationError

from recoup.catalog import BackupSet
from recoup.errors import ProgramError, RecoveryError, first_line
from recoup.manifest import RedisSnapshot
from recoup.process import Completed
from recoup.records import Check, Outcome, Subject
from tasks.redis_content import CONTENT, Content, Detail, compare
from tasks.redis_reading import measure
from tasks.redis_server import LOAD, Link, RedisServer, Wire, dial, items, text
from tasks.step import note

RDB = "dump.rdb"
PACKED = "dump.rdb.gz"
_SOCKET, _CONFIGURATION = "scratch.sock", "scratch.conf"
_BLOCK = 1 << 20
_HEAD = 1024
# Held by its standard input: whatever becomes of its maker, the server ends when the pipe is closed.
_HELD = """
program=$1; [ -x "$program" ] || program=$(command -v redis-server || command -v valkey-server) || exit 127
exec 3<&0
"$program" "$2" </dev/null & server=$!
{ cat <&3 >/dev/null; kill "$server"; } 2>/dev/null &
wait "$server"
"""
# The checker is the server itself under another name; not every package brings that name.
_CHECK = """
program=$1; [ -x "$program" ] || program=$(command -v redis-server || command -v valkey-server) || exit 127
case ${program##*/} in valkey*) name=valkey-check-rdb;; *) name=redis-check-rdb;; esac
ln -sf "$program" "$2/$name"
"$2/$name" "$3"; code=$?
rm -f "$2/$name"
exit $code
"""


@dataclass(frozen=True)
class Program:
    """What a server runs as: its program, how many databases it has, and its modules with their arguments."""

    path: str = ""
    databases: int = 16
    modules: tuple[str, ...] = ()


def program_of(link: Link) -> Program:
    """Give what a running server is made of, so that a copy of its data can be loaded by its like."""
    modules = []
    for module in items(link.ask("MODULE", "LIST")):
        flat = items(module)
        said = {text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
        place = text(said.get("path", b""))
        # Built in, a module has no file to be loaded from: Redis names none, Valkey the module itself ("lua").
        if "/" in place:
            modules.append(" ".join((place, *(text(one) for one in items(said.get("args", []))))))
    databases = int(link.setting("databases") or 16)
    return Program(link.info("server").get("executable", ""), databases, tuple(modules))


def check_rdb(server: RedisServer, program: Program, rdb: Path) -> None:
    """Read a copy to its end with redis-check-rdb of the server's own version; RecoveryError says where it breaks."""
    argv = ("sh", "-c", _CHECK, "sh", program.path, str(rdb.parent), str(rdb))
    done = server.stack.beside(server.spec.service, argv, timeout=LOAD, mounts=[rdb.parent], check=False)
    if done.returncode != 0:
        lines = [line for line in done.text.splitlines() if "offset" in line or "While" in line or "ERROR" in line]
        said = "; ".join(lines[-3:]) or done.stderr.strip()[-300:]
        raise RecoveryError(f"redis-check-rdb finds the copy damaged: {said}")


@contextmanager
def throwaway(server: RedisServer, program: Program, place: Path) -> Iterator[Link]:
    """Give a server of the same program that has loaded ``place/dump.rdb``, answers there alone, and is gone after.

    It has no port. Raises RecoveryError with its own last words when it cannot load the file.
    """
    lines = [
        "port 0",
        f"unixsocket {_SOCKET}",
        "unixsocketperm 777",  # the directory itself is the owner's alone; beside a container the server is root
        f'dir "{place}"',
        f"dbfilename {RDB}",
        'save ""',
        "appendonly no",
        f"databases {program.databases}",
        "daemonize no",
        *(f"loadmodule {module}" for module in program.modules),
    ]
    (place / _CONFIGURATION).write_text("\n".join(lines) + "\n", encoding="utf-8")
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    reader, writer = os.pipe()
    with ThreadPoolExecutor(max_workers=1) as pool, os.fdopen(reader, "rb") as held:
        running = pool.submit(
            server.stack.beside,
            server.spec.service,
            ("sh", "-c", _HELD, "sh", program.path, str(place / _CONFIGURATION)),
            timeout=2 * LOAD,
            mounts=[place],
            stdin=held,
            check=False,
        )
        try:
            # A socket's path has little room; through the open directory it is short wherever that is.
            connection = _connected(f"/proc/self/fd/{handle}/{_SOCKET}", running)
            try:
                yield Link(connection)
            finally:
                connection.disconnect()
        finally:
            os.close(writer)
            os.close(handle)
    for name in (_CONFIGURATION, _SOCKET):
        (place / name).unlink(missing_ok=True)


def prove_copy(server: RedisServer, program: Program, place: Path) -> Content:
    """Check ``place/dump.rdb``, load it into a throwaway server and give what that server holds."""
    note("checking the copy")
    check_rdb(server, program, place / RDB)
    note("loading the copy into a throwaway server")
    try:
        with throwaway(server, program, place) as link:
            return measure(link)
    except redis.RedisError as error:
        raise RecoveryError(f"the copy was loaded and then could not be read: {first_line(error)}") from None
    except ProgramError as error:
        raise RecoveryError(f"no throwaway server could be run: {error.what}") from None


def prove_set(server: RedisServer, program: Program, one: BackupSet, place: Path) -> tuple[Check, ...]:
    """Restore a set into a throwaway server in an empty directory and compare it with its manifest."""
    holds = snapshot_of(one)
    if holds is None:
        return (_loads(Outcome.FAILED, "it holds no Redis snapshot"),)
    try:
        unpack(one.path / PACKED, place / RDB)
        content = prove_copy(server, program, place)
        return (_loads(Outcome.PASSED, "loaded"), *compare(holds, read_detail(one), content))
    except RecoveryError as error:
        return (_loads(Outcome.FAILED, error.what),)
    finally:
        (place / RDB).unlink(missing_ok=True)


def snapshot_of(one: BackupSet) -> RedisSnapshot | None:
    """Give what a set says it holds; None when that is no Redis snapshot, or cannot be read."""
    holds = one.manifest.holds if one.manifest else None
    return holds if isinstance(holds, RedisSnapshot) and not one.broken else None


def read_detail(one: BackupSet) -> Detail:
    """Give what stands in a set about its keys' expiry; RecoveryError when it cannot be read."""
    try:
        return Detail.model_validate_json((one.path / CONTENT).read_bytes())
    except (OSError, ValidationError) as error:
        raise RecoveryError(f"{CONTENT} of {one.set_id} cannot be read: {first_line(error)}") from None


def snapshot_time(head: bytes) -> datetime | None:
    """Give the moment that stands at the beginning of an RDB (``ctime``, whole seconds); None when it says none."""
    found = _whole_number(head, b"ctime")
    return None if found is None else datetime.fromtimestamp(found, UTC)


def snapshot_offset(head: bytes) -> tuple[str, int] | None:
    """Give the history (``repl-id``) and the offset in it that an RDB reaches; None when its server had no replica."""
    offset, history = _whole_number(head, b"repl-offset"), re.search(rb"\xfa\x07repl-id\x28([0-9a-f]{40})", head)
    return (history[1].decode("ascii"), offset) if history and offset is not None else None


def offset_of(one: BackupSet) -> tuple[str, int] | None:
    """Give the history and offset that a set reaches; None when it does not say, or cannot be read."""
    try:
        with gzip.open(one.path / PACKED) as packed:
            return snapshot_offset(packed.read(_HEAD))
    except (OSError, EOFError):
        return None


def pack(source: Path, target: Path) -> None:
    """Compress a file; the fastest level, for Redis has compressed its longer strings itself."""
    with source.open("rb") as plain, gzip.open(target, "wb", compresslevel=1) as packed:
        shutil.copyfileobj(plain, packed, _BLOCK)


def unpack(source: Path, target: Path) -> None:
    """Decompress a file; RecoveryError when it is damaged or there is no room."""
    try:
        with gzip.open(source) as packed, target.open("wb") as plain:
            shutil.copyfileobj(packed, plain, _BLOCK)
    except (OSError, EOFError) as error:
        raise RecoveryError(f"{source.name} cannot be unpacked: {first_line(error)}") from None


def _whole_number(head: bytes, name: bytes) -> int | None:
    # Auxiliary fields (0xFA): the name with its length, then a number of 1, 2 or 4 bytes, or digits with their length.
    size = bytes([len(name)])
    found = re.search(rb"\xfa" + re.escape(size + name) + rb"(\xc0.|\xc1..|\xc2....|[\x01-\x13]\d+)", head, re.DOTALL)
    if not head.startswith((b"REDIS", b"VALKEY")) or found is None:
        return None
    code, rest = found[1][0], found[1][1:]
    return int.from_bytes(rest, "little", signed=True) if code >= 0xC0 else int(rest[:code])


def _loads(outcome: Outcome, seen: str) -> Check:
    name = "redis: the copy loads into an empty server"
    return Check(name=name, subject=Subject.DATA, outcome=outcome, expected="loaded", seen=seen)


def _connected(path: str, running: Future[Completed]) -> Wire:
    until = time.monotonic() + LOAD.total_seconds()
    pause = 0.01
    while True:
        connection = dial(path)
        try:
            connection.connect()
            Link(connection).ask("PING")
            return connection
        except redis.RedisError as error:
            connection.disconnect()
            if running.done():
                raise RecoveryError(f"a server cannot load the copy: {_last_words(running.result())}") from None
            if time.monotonic() > until:
                raise RecoveryError(f"the throwaway server does not answer: {first_line(error)}") from None
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)


def _last_words(done: Completed) -> str:
    lines = [line.partition(" # ")[2] for line in done.text.splitlines() if " # " in line]
    said = [line for line in lines if "memory" not in line.lower() and "WARNING" not in line]
    return "; ".join(said[-3:]) or done.stderr.strip()[-300:] or f"it ended with code {done.returncode}"
