"""PostgreSQL servers beside the one in use: of its own version, reached by a socket alone, gone when they are let go.

The shell scripts they run by are in infra/postgres; they also tell what each of them reads.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import psycopg

from recoup.errors import PreconditionError, RecoupError, RecoveryError, first_line
from tasks.postgres import BESIDE, SCRIPTS, Server
from tasks.step import note

_PLACE = "recoup-s-"
STARTED = timedelta(seconds=90)
# sun_path holds 108 bytes with its final zero.
_SOCKET_PATH_MAX = 107 - len(f"/s/.s.PGSQL.{BESIDE}")
_POLL = 0.05


@dataclass(frozen=True)
class Place:
    """A directory of this machine that a server beside works in; ``work`` belongs to the server's user."""

    root: Path

    @property
    def sockets(self) -> Path:
        return self.root / "s"

    @property
    def work(self) -> Path:
        return self.root / "w"

    def progress(self) -> str:
        try:
            return (self.root / "progress").read_text(encoding="utf-8").strip()
        except OSError:
            return ""


@contextmanager
def place_in(scratch: Path) -> Iterator[Place]:
    """Give an empty place below ``scratch``, removed afterwards; those of killed runs are removed first."""
    try:
        if not scratch.is_dir():
            scratch.mkdir(parents=True, exist_ok=True)
            scratch.chmod(0o755)
        _sweep(scratch)
        root, held = _claim(scratch)
    except OSError as error:
        raise PreconditionError(
            f"no directory can be made in {scratch}: {error.strerror}",
            next_step="name a directory with room for the database in the plan (platform.scratch)",
        ) from None
    try:
        if len(os.fsencode(root)) > _SOCKET_PATH_MAX:
            raise PreconditionError(
                f"{scratch} is too long a path for a socket", next_step="name a shorter platform.scratch in the plan"
            )
        # The server's user has to come through, and nobody gets to see what is in it.
        root.chmod(0o711)
        for script in ("beside.sh", "lib.sh"):
            shutil.copy(SCRIPTS / script, root)
            (root / script).chmod(0o644)
        yield Place(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
        os.close(held)


def _claim(scratch: Path) -> tuple[Path, int]:
    """Make a place and hold its lock, which the kernel takes back from a dead process; gives both."""
    while True:
        root = Path(tempfile.mkdtemp(prefix=_PLACE, dir=scratch))
        # Another run may take it for a dead one's, in the moment before it is locked.
        try:
            held = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        fcntl.flock(held, fcntl.LOCK_EX)
        if root.exists():
            return root, held
        os.close(held)


def _sweep(scratch: Path) -> None:
    for place in scratch.glob(f"{_PLACE}*"):
        with suppress(OSError):
            held = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(held).st_uid == os.geteuid():
                    shutil.rmtree(place, ignore_errors=True)
            finally:
                os.close(held)


@contextmanager
def empty_server(server: Server, scratch: Path) -> Iterator[Server]:
    """Give an empty server of the same version, with the same superuser, for as long as the block runs."""
    with place_in(scratch) as place, running(server, place, ("new",), timeout=timedelta(hours=12)) as beside:
        yield beside


@contextmanager
def running(
    server: Server,
    place: Place,
    argv: Sequence[str],
    *,
    timeout: timedelta,
    env: Mapping[str, str] = {},
    mounts: Sequence[Path] = (),
    ready: timedelta = STARTED,
) -> Iterator[Server]:
    """Run beside.sh while the block runs and give the server it starts, once that answers within ``ready``.

    Raises RecoveryError with the server's last words when it does not, or when it ends otherwise than in good order.
    """
    reader, writer = os.pipe()
    failed: list[RecoupError] = []
    given = {"PLACE": str(place.root), "OWNER": server.spec.user, "RECOVERY": "", "WALS": "", **env}

    def run() -> None:
        try:
            with os.fdopen(reader, "rb") as stdin:
                server.stack.beside(
                    server.spec.service,
                    ("sh", str(place.root / "beside.sh"), *argv),
                    timeout=timeout,
                    mounts=(place.root, *mounts),
                    env=given,
                    stdin=stdin,
                )
        except RecoupError as error:
            failed.append(error)

    runner = threading.Thread(target=run, name="beside", daemon=True)
    runner.start()
    beside = replace(server, at=place.sockets)
    try:
        _wait(beside, place, runner, failed, ready)
        yield beside
    finally:
        os.close(writer)
        runner.join()
    if failed:
        raise _ended(failed)


def _wait(beside: Server, place: Place, runner: threading.Thread, failed: list[RecoupError], ready: timedelta) -> None:
    until = time.monotonic() + ready.total_seconds()
    said = refused = ""
    while True:
        if (doing := place.progress()) != said:
            said = doing
            note(said)
        if not runner.is_alive():
            raise _ended(failed)
        try:
            with beside.connect(beside.spec.maintenance_database):
                return
        except psycopg.Error as error:
            refused = first_line(error)
        if time.monotonic() > until:
            raise RecoveryError(
                f"the server beside does not answer after {ready}: {refused} (last: {said or 'nothing'})",
                state="the database in use is untouched",
                next_step="see what the machine is busy with, then try again",
            )
        time.sleep(_POLL)


def _ended(failed: list[RecoupError]) -> RecoveryError:
    why = failed[0].what if failed else "it ended without being asked to"
    return RecoveryError(
        f"the server beside failed: {why}",
        state="the database in use is untouched",
        next_step="mend what is named (space in platform.scratch? version of the image?), then try again",
    )
