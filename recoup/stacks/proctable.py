"""Who is who among the processes of this machine: identities that a recycled pid cannot take over, read from /proc."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """One process and no other: its pid, its start in ticks since boot, and the boot it belongs to."""

    pid: int
    start: int
    boot: str


@dataclass(frozen=True)
class _Stat:
    pid: int
    state: str
    parent: int
    terminal: int
    start: int


def myself() -> Identity:
    """Give the identity of the calling process."""
    stat = _stat(os.getpid())
    assert stat is not None
    return Identity(stat.pid, stat.start, boot())


def parse(text: str) -> Identity | None:
    """Give the identity in a pid file: a line of /proc/PID/stat, then the boot id; None for an unfinished one."""
    lines = text.splitlines()
    stat = _parse(lines[0]) if len(lines) >= 2 else None
    return Identity(stat.pid, stat.start, lines[1].strip()) if stat else None


def alive(who: Identity) -> bool:
    """Say whether that very process still runs; a zombie does not, and neither does another one with its pid."""
    stat = _stat(who.pid)
    return stat is not None and stat.start == who.start and stat.state not in "ZX" and boot() == who.boot


def send(who: Identity, number: int) -> bool:
    """Send a signal to that very process; False when it is gone. The pid cannot be recycled in between."""
    try:
        handle = os.pidfd_open(who.pid)
    except ProcessLookupError:
        return False
    try:
        if not alive(who):
            return False
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)
    return True


def wait_gone(who: Identity, timeout: timedelta) -> bool:
    """Wait until that very process has ended; False when it still runs after the time-out."""
    try:
        handle = os.pidfd_open(who.pid)
    except ProcessLookupError:
        return True
    try:
        if not alive(who):
            return True
        waiter = select.poll()
        waiter.register(handle, select.POLLIN)
        return bool(waiter.poll(max(0.0, timeout.total_seconds() * 1000)))
    finally:
        os.close(handle)


def family(who: Identity) -> tuple[Identity, ...]:
    """Give the process, if it still runs, and all its descendants."""
    everyone = {stat.pid: stat for stat in _everyone()}
    found = {who.pid} if alive(who) else set()
    grown = True
    while grown:
        more = {stat.pid for stat in everyone.values() if stat.parent in found} - found
        found |= more
        grown = bool(more)
    return tuple(_identity(everyone[pid]) for pid in found if pid in everyone)


def dwelling(directory: Path) -> tuple[Identity, ...]:
    """Give the processes without a terminal that work in the directory or below it.

    A person's shell that happens to stand there has a terminal and is not among them; nor is the caller.
    """
    root = os.path.realpath(directory)
    found = []
    for stat in _everyone():
        if stat.terminal or stat.pid == os.getpid() or stat.state in "ZX":
            continue
        try:
            # A directory that was removed under the process reads as "… (deleted)".
            where = os.readlink(f"/proc/{stat.pid}/cwd").removesuffix(" (deleted)")
        except OSError:
            continue
        if where == root or where.startswith(root + "/"):
            found.append(_identity(stat))
    return tuple(found)


def end(find: Callable[[], Iterable[Identity]], timeout: timedelta = timedelta(seconds=10)) -> tuple[Identity, ...]:
    """SIGKILL all that ``find`` finds until it finds no more, and wait until they are gone; gives those that are not.

    Each is held still before any is killed: one that forks meanwhile would leave a child that nobody looks for.
    """
    until = time.monotonic() + timeout.total_seconds()
    while found := set(find()):
        held: set[Identity] = set()
        while new := found - held:
            for who in new:
                send(who, signal.SIGSTOP)
            held |= new
            found |= set(find())
        for who in found:
            send(who, signal.SIGKILL)
        left = [who for who in found if not wait_gone(who, timedelta(seconds=until - time.monotonic()))]
        release_shared_memory({who.pid for who in found})
        if left or time.monotonic() > until:
            return tuple(left or found)
    return ()


def release_shared_memory(creators: set[int]) -> None:
    """Remove System V segments that processes with these pids made and that nobody is attached to any more.

    A container takes its segments with it when it ends; a killed child process leaves them behind.
    """
    with open("/proc/sysvipc/shm", encoding="ascii") as table:
        next(table)
        rows = [line.split() for line in table]
    libc = ctypes.CDLL(None)
    for row in rows:
        if int(row[4]) in creators and int(row[6]) == 0:
            libc.shmctl(int(row[1]), 0, None)  # 0 is IPC_RMID; one that is gone already is as good


@cache
def boot() -> str:
    """Give the id of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _everyone() -> Iterator[_Stat]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(int(entry))):
            yield stat


def _identity(stat: _Stat) -> Identity:
    return Identity(stat.pid, stat.start, boot())


def _stat(pid: int) -> _Stat | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return _parse(file.read())
    except (FileNotFoundError, ProcessLookupError):
        return None


def _parse(line: str) -> _Stat | None:
    # The program's name stands in parentheses and may itself hold spaces and parentheses.
    head, _, tail = line.rpartition(")")
    fields = tail.split()
    if len(fields) < 20 or not head.split(" ")[0].isdigit():
        return None
    return _Stat(int(head.split(" ")[0]), fields[0], int(fields[1]), int(fields[4]), int(fields[19]))
