"""A loaded server on the Compose sandbox, and what every way to back it up or restore it is measured with."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from benchmarks.data import accounts, load
from benchmarks.rounds import screen
from benchmarks.workbench import HAND_OVER, LIMIT, Workbench, workbench
from recoup.catalog import Repository
from recoup.errors import RecoveryError
from recoup.plan import load_plan
from recoup.process import Command, run
from recoup.stacks import open_stack
from recoup.stacks.compose import ASIDE_LABEL
from recoup.stacks.compose_project import SANDBOX_LABEL
from tasks import sandbox
from tasks.postgres import Role, Server, live_role
from tasks.sandbox_process import RECEIVER
from tasks.wal_receiver import have_it_received, receiver_of

RESTORED = "benchmark_restored"
# Of every table: how many rows, and a sum that differs when any of them does.
_CONTENT = (
    "SELECT count(*), sum(hashint8((aid::bigint << 32) + abalance)) FROM public.pgbench_accounts",
    "SELECT count(*), sum(hashtext(body::text)) FROM public.documents",
    "SELECT count(*), coalesce(sum(hashint8((aid::bigint << 32) + delta)), 0) FROM public.written",
)
Content = tuple[tuple[int, ...], ...]


@dataclass
class Bench:
    """A server with data, a directory for what is taken from it, and a container with the other tools."""

    server: Server
    sandbox_id: str
    place: Path
    tools: Workbench
    accounts: int
    content: Content = ()

    @property
    def repository(self) -> Repository:
        return Repository(self.place / "repository")

    # -- around what is measured, untimed ------------------------------------------------------------------------

    def settle(self) -> None:
        """Leave no dirty pages of the one before to the next one."""
        with self.server.connect(self.server.spec.maintenance_database, statement=LIMIT) as connection:
            connection.execute("CHECKPOINT")
        os.sync()

    def note_content(self) -> None:
        """Keep what must be there after every restore: all that is committed now, with all WAL of it received."""
        self.content = self._content()
        with self.server.connect() as connection:
            connection.execute("SELECT pg_switch_wal()")
        until = time.monotonic() + 60
        while receiver_of(self.server).behind > 0:
            if time.monotonic() > until:
                raise RecoveryError("the WAL is not received", state="the figures would be worth nothing")
            time.sleep(0.1)
        self.server.stack.stop(RECEIVER)
        self.tools.run('cp -a "$1" "$2"', str(self._wal()), str(self.tools.place / "wal"), user="0")

    def destroy(self) -> None:
        """Kill the server, empty its data directory, and let the received WAL be what it was when it died."""
        self.server.stack.stop(RECEIVER)
        self.server.stack.kill(self.server.spec.service)
        self.tools.run('find "$1" -mindepth 1 -delete', self.tools.data, user="0")
        kept, wal = str(self.tools.place / "wal"), str(self._wal())
        self.tools.run('rsync --archive --delete "$1"/ "$2"', kept, wal, user="0")
        os.sync()

    def same_content(self) -> None:
        """Read every row of the restored database and see that all of it came back."""
        _same(self._content(), self.content)

    def same_dump(self) -> None:
        """Read every row of what was restored beside; the writer has gone on since, but made and removed no account."""
        seen = self._content(RESTORED)
        _same((seen[0][:1], seen[1]), (self.content[0][:1], self.content[1]))

    def drop_old_data(self) -> None:
        """Remove the volumes that a recovery put the old data into, which is what the container with the tools sees."""
        _docker("restart", "--time", "0", self.tools.container)
        mine = f"label={SANDBOX_LABEL}={self.sandbox_id}"
        found = _docker("volume", "ls", "--quiet", "--filter", mine, "--filter", f"label={ASIDE_LABEL}").split()
        if found:
            _docker("volume", "rm", *found)

    def empty_database(self) -> None:
        self._maintenance(f"CREATE DATABASE {RESTORED} TEMPLATE template0")
        self.settle()

    def drop_restored(self) -> None:
        self._maintenance(f"DROP DATABASE IF EXISTS {RESTORED} WITH (FORCE)")

    # -- parts of a restore --------------------------------------------------------------------------------------

    def come_up(self) -> float:
        """Let the server recover with what a tool has put back and the WAL that was received, until it takes writes."""
        self.tools.run(HAND_OVER, self.tools.data, str(self._timeline()))
        self.server.stack.start(self.server.spec.service)
        return self.taking_writes()

    def taking_writes(self) -> float:
        """Wait until the service takes writes, and give that moment (of time.monotonic)."""
        until = time.monotonic() + LIMIT.total_seconds()
        while time.monotonic() < until:
            if live_role(self.server) is Role.PRIMARY:
                return time.monotonic()
            time.sleep(0.05)
        raise RecoveryError("the restored server does not answer", state="the figures would be worth nothing")

    def label(self) -> str:
        return uuid4().hex[:8]

    def _wal(self) -> Path:
        assert self.server.spec.continuous is not None
        return self.server.spec.continuous.wal

    def _timeline(self) -> Path:
        """Give the directory of the WAL that was received before anything was restored."""
        return next(path for path in self._wal().iterdir() if path.name.endswith("-1"))

    def _content(self, database: str | None = None) -> Content:
        with self.server.connect(database, statement=LIMIT) as connection:
            rows = [connection.execute(query.encode()).fetchone() for query in _CONTENT]
        return tuple(tuple(int(str(value)) for value in row or ()) for row in rows)

    def _maintenance(self, statement: str) -> None:
        with self.server.connect(self.server.spec.maintenance_database, statement=LIMIT) as connection:
            connection.execute(statement.encode())


@contextmanager
def bench(size_gb: float, place: Path) -> Iterator[Bench]:
    """Give a loaded database on a sandbox whose other services are stopped; nothing of it is left afterwards."""
    made = sandbox.create("compose", policy="async", progress=lambda text: screen.print(text, style="dim"))
    try:
        plan = load_plan(made.plan)
        server = Server.of(plan, open_stack(plan), None)
        for state in server.stack.services():
            if state.service not in (server.spec.service, RECEIVER):
                server.stack.stop(state.service)
        with screen.status(f"loading about {size_gb} GB"):
            size = load(server, size_gb)
        have_it_received(server)
        with server.connect() as connection:
            row = connection.execute("SHOW server_version").fetchone()
        screen.print(f"PostgreSQL {row[0] if row else ''}: {size / 1e9:.2f} GB")
        rivals = place / "rivals"
        rivals.mkdir()
        with workbench(server, made.id, rivals) as tools:
            yield Bench(server, made.id, place, tools, accounts(size_gb))
    finally:
        sandbox.destroy(made)


def size_of(path: Path) -> int:
    """Give the bytes of all files below a path."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if path.is_dir() else path.stat().st_size


def _same(seen: Content, expected: Content) -> None:
    if seen != expected:
        raise RecoveryError(f"{seen} came back of {expected}", state="the figures would be worth nothing")


def _docker(*argv: str) -> str:
    return run(Command(("docker", *argv)), timeout=timedelta(minutes=5)).text
