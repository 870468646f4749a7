"""The lease of a platform: one destructive procedure at a time, given up by the kernel when its holder dies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recoup.errors import BusyError, PreconditionError
from recoup.records import now

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@contextmanager
def lease(state: Path, platform: str, holder: str) -> Iterator[None]:
    """Hold the platform's lease while the block runs.

    ``holder`` names the run for whoever comes second. Raises BusyError, naming the holder, when another process
    (or thread) has it, and PreconditionError when the lease file cannot be opened.
    """
    path = state / f"{_UNSAFE.sub('-', platform).lstrip('.')}.lease"
    descriptor = _open(path)
    try:
        _take(descriptor, platform, path)
        # The file is never unlinked: a second taker could then lock a name that no longer exists.
        _write(descriptor, json.dumps({"holder": holder, "pid": os.getpid(), "since": now().isoformat()}))
        try:
            yield
        finally:
            _write(descriptor, "")
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The lock belongs to the open file: a daemon child that inherited it would keep the lease for its whole life.
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise PreconditionError(
            f"the lease file {path} cannot be opened: {error.strerror}",
            next_step=f"make {path.parent} a directory this user may write to, or name another in the plan",
        ) from None


def _take(descriptor: int, platform: str, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise PreconditionError(
                f"the lease file {path} cannot be locked: {error.strerror}",
                next_step="put the state directory on a file system that supports locks",
            ) from None
        raise BusyError(
            f"platform {platform} is held by {_holder(descriptor)}",
            state="this run changed nothing",
            next_step="wait until that run ends, or end its process: the lease is given up with it",
        ) from None


def _holder(descriptor: int) -> str:
    try:
        seen = json.loads(os.pread(descriptor, 65536, 0))
        return f"{seen['holder']} (process {seen['pid']}) since {seen['since']}"
    except (ValueError, KeyError, TypeError):
        return "another run, which has not yet written its name"


def _write(descriptor: int, text: str) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError:
        # The name is a courtesy to the second taker; a full disk must not stop the recovery that frees it.
        return
