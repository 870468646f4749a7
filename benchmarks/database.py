"""The written plan's own commands beside ours: `python -m benchmarks.database [--size-gb 1] [--rounds 3]`."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from psycopg import sql
from rich.console import Console

from benchmarks.data import load
from benchmarks.rounds import Contestant, Figure, cpu_of_tree, machine, play, screen, table, working_place
from recoup.catalog import Repository
from recoup.errors import RecoveryError
from recoup.plan import load_plan
from recoup.records import Outcome
from recoup.stacks import open_stack
from recoup.target import Target
from tasks import sandbox
from tasks.postgres import Server
from tasks.postgres_backup import dump_command, take_database_backup
from tasks.postgres_base import base_command, series, take_base
from tasks.postgres_load import RESTORE_OPTIONS, restore_command
from tasks.postgres_replay import restored_server
from tasks.postgres_restore import restore_beside
from tasks.sandbox_process import RECEIVER
from tasks.wal_receiver import have_it_received

LIMIT = timedelta(hours=2)
TARGET = "benchmark_restored"
PLAN_BACKUP = "the plan: pg_dump | gzip"
PLAN_RESTORE = "the plan: gunzip | psql"


@dataclass
class Bench:
    """A server with data, and a directory for what is taken from it."""

    server: Server
    place: Path
    rows: int = 0
    compression: str = ""
    plain_dump: Path = Path()
    set_id: str = ""
    base_id: str = ""
    base_compression: str = ""
    beside_rows: int = 0
    postmaster: int = 0

    @property
    def repository(self) -> Repository:
        return Repository(self.place / "repository")

    # -- the written plan's commands -----------------------------------------------------------------------------

    def plan_backup(self) -> None:
        path = self.place / "plan-database.sql.gz"
        self._shell('pg_dump --no-password "$1" | gzip > "$2"', self.server.spec.database, str(path))
        self.plain_dump = path

    def plan_restore(self) -> None:
        self._shell('gunzip -c "$1" | psql --no-password --dbname="$2" > "$1.out"', str(self.plain_dump), TARGET)

    # -- ours ----------------------------------------------------------------------------------------------------

    def whole_backup(self) -> None:
        taken = take_database_backup.fn(self.server, self.repository)
        self.set_id, self.compression = taken.set_id, taken.compression

    def dump_alone(self) -> None:
        with self.server.connect(statement=LIMIT) as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            row = connection.execute("SELECT pg_export_snapshot()").fetchone()
            assert row is not None
            argv = dump_command(
                self.server, self.place / "dump-alone", str(row[0]), self.compression.removeprefix("gzip:")
            )
            self.server.tool(argv, timeout=LIMIT, mounts=[self.place])

    def whole_restore(self) -> None:
        restore_beside.fn(self.server, self.repository, self.set_id, TARGET)

    def restore_alone(self) -> None:
        one = self.repository.get(self.server.spec.store, self.set_id)
        self.server.tool(
            restore_command(self.server, one, TARGET), timeout=LIMIT, mounts=[one.path], options=RESTORE_OPTIONS
        )

    # -- physical: the tools by themselves, and ours ----------------------------------------------------------------

    def base_alone(self) -> None:
        """One compressed archive and nothing else: the floor of any physical backup."""
        packer = f"server-{self.base_compression}"
        with self.server.connect() as connection:
            row = connection.execute("SHOW unix_socket_directories").fetchone()
        argv = base_command(self.server, self.place / "base-alone" / "base", packer, None)
        (self.place / "base-alone").mkdir()
        socket = str(row[0]).split(",")[0] if row else ""
        self.server.tool(argv, timeout=LIMIT, mounts=[self.place], socket=socket)

    def whole_base(self) -> None:
        taken = take_base(self.server, self.repository, False)
        self.base_id, self.base_compression = taken.set_id, taken.compression

    def unpack_and_start(self) -> None:
        """Unpack the archive and start a server on it: the floor of any physical restore."""
        path = self.repository.get(series(self.server), self.base_id).path
        script = (
            'set -eu; mkdir -p "$2"; chmod 700 "$2"; tar -xf "$1"/base/base.tar.* -C "$2"; '
            'if [ "$(id -u)" = 0 ]; then chown -R "${RUN_AS:-postgres}" "$(dirname "$2")"; '
            'do="setpriv --reuid=${RUN_AS:-postgres} --regid=$(id -g "${RUN_AS:-postgres}") --clear-groups --"; '
            "else do=; fi; cd /; "
            '$do pg_ctl -D "$2" -w -s -o "-c listen_addresses= -c unix_socket_directories=$2 -c fsync=off" '
            '-l "$2/log" start; $do pg_ctl -D "$2" -s -m immediate stop'
        )
        target = self.place / "started" / "data"
        target.parent.mkdir(mode=0o755)
        self.place.chmod(0o755)
        self._shell(script, str(path), str(target), mounts=[path])

    def whole_replay(self) -> None:
        """Unpack, verify, replay, promote, until it answers and what was replayed was looked at."""
        with restored_server(self.server, self.repository, self.base_id, Target(), self.place) as (beside, checks):
            if wrong := [check for check in checks if check.outcome is Outcome.FAILED]:
                raise RecoveryError(f"{wrong}", state="the figures would be worth nothing")
            self.beside_rows = self.count(server=beside)

    # -- around them, untimed ------------------------------------------------------------------------------------

    def empty_database(self) -> None:
        self._maintenance(f"CREATE DATABASE {TARGET} TEMPLATE template0")
        self.settle()

    def settle(self) -> None:
        """Leave no dirty pages of the one before to the next one."""
        self._maintenance("CHECKPOINT")
        os.sync()

    def drop_restored(self) -> None:
        """See that everything came back, whatever way it came, and remove it."""
        if (seen := self.count(TARGET)) != self.rows:
            raise RecoveryError(f"{seen:,} rows came back of {self.rows:,}", state="the figures would be worth nothing")
        self._maintenance(f"DROP DATABASE {TARGET} WITH (FORCE)")

    def drop_base(self) -> None:
        shutil.rmtree(self.place / "base-alone", ignore_errors=True)

    def drop_started(self) -> None:
        shutil.rmtree(self.place / "started", ignore_errors=True)

    def same_rows(self) -> None:
        if self.beside_rows != self.rows:
            raise RecoveryError(
                f"{self.beside_rows:,} rows of {self.rows:,}", state="the figures would be worth nothing"
            )

    def drop_dump(self) -> None:
        shutil.rmtree(self.place / "dump-alone", ignore_errors=True)

    def cpu(self) -> float:
        """Give the CPU seconds that this process, the programs it ran, and the server have used so far."""
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(used.ru_utime + used.ru_stime for used in own) + cpu_of_tree(self.postmaster)

    def count(self, database: str | None = None, server: Server | None = None) -> int:
        """Give the number of rows of every table together."""
        with (server or self.server).connect(database, statement=LIMIT) as connection:
            names = connection.execute(
                "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public'"
            ).fetchall()
            counts = [
                connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.SQL(str(name)))).fetchone()
                for (name,) in names
            ]
        return sum(int(str(row[0])) for row in counts if row)

    def _maintenance(self, statement: str) -> None:
        with self.server.connect(self.server.spec.maintenance_database, statement=LIMIT) as connection:
            connection.execute(statement.encode())

    def _shell(self, script: str, *arguments: str, mounts: Sequence[Path] = ()) -> None:
        self.server.tool(("sh", "-c", script, "plan", *arguments), timeout=LIMIT, mounts=[self.place, *mounts])


@contextmanager
def bench(kind: sandbox.Kind, size_gb: float, place: Path) -> Iterator[Bench]:
    """Give a loaded database on a sandbox whose other services are stopped; nothing of it is left afterwards."""
    made = sandbox.create(kind, policy="async", progress=lambda text: screen.print(text, style="dim"))
    try:
        plan = load_plan(made.plan)
        server = Server.of(plan, open_stack(plan), None)
        for state in server.stack.services():
            if state.service not in (server.spec.service, RECEIVER):
                server.stack.stop(state.service)
        have_it_received(server)
        found = Bench(server, place)
        with screen.status(f"loading about {size_gb} GB"):
            size = load(server, size_gb)
        found.rows = found.count()
        found.postmaster = postmaster(server) if kind == "process" else 0
        screen.print(f"PostgreSQL {version(server)}: {size / 1e9:.2f} GB, {found.rows:,} rows")
        yield found
    finally:
        sandbox.destroy(made)


def version(server: Server) -> str:
    """Give the version of the server."""
    with server.connect() as connection:
        row = connection.execute("SHOW server_version").fetchone()
    return str(row[0]) if row else ""


def postmaster(server: Server) -> int:
    """Give the process id of a server that runs as a child process."""
    with server.connect() as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    return int((Path(str(row[0])) / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0])


def contestants(of: Bench) -> tuple[list[Contestant], list[Contestant]]:
    """Give the ways to back up, and the ways to restore."""
    backup = [
        Contestant(PLAN_BACKUP, of.plan_backup, before=of.settle),
        Contestant("ours, the dump alone", of.dump_alone, PLAN_BACKUP, before=of.settle, after=of.drop_dump),
        Contestant("ours, whole: dump, content, hashes, publication", of.whole_backup, PLAN_BACKUP, before=of.settle),
        Contestant("pg_basebackup alone", of.base_alone, PLAN_BACKUP, before=of.settle, after=of.drop_base),
        Contestant("ours, base backup: copy, hashes, publication", of.whole_base, PLAN_BACKUP, before=of.settle),
    ]
    fresh, drop = of.empty_database, of.drop_restored
    restore = [
        Contestant(PLAN_RESTORE, of.plan_restore, before=fresh, after=drop),
        Contestant("ours, pg_restore alone", of.restore_alone, PLAN_RESTORE, before=fresh, after=drop),
        Contestant(
            "ours, whole: restore, statistics, comparison", of.whole_restore, PLAN_RESTORE, before=of.settle, after=drop
        ),
        Contestant("tar and start", of.unpack_and_start, PLAN_RESTORE, before=of.settle, after=of.drop_started),
        Contestant(
            "ours, base backup: unpack, verify, replay, all rows",
            of.whole_replay,
            PLAN_RESTORE,
            before=of.settle,
            after=of.same_rows,
        ),
    ]
    return backup, restore


def measure(kind: sandbox.Kind, size_gb: float, rounds: int, patience: float, place: Path) -> tuple[Figure, ...]:
    """Give the figures of backups, then of restores of what these left."""
    with bench(kind, size_gb, place) as of:
        of.whole_base()
        of.whole_backup()  # not counted: it names the compression, and reads the data into memory for all alike
        backup, restore = contestants(of)
        # What runs in containers is nobody's child here, and its CPU time is not read.
        cpu = of.cpu if of.postmaster else None
        return (*play(backup, rounds, patience, cpu), *play(restore, rounds, patience, cpu))


def main() -> None:
    """Measure and print: a table, and with --json the same as JSON on standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.database", description=__doc__)
    parser.add_argument("--size-gb", type=float, default=1.0, help="size of the database with its indexes (1)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument("--stack", choices=("process", "compose"), default="process", help="what the server runs on")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for a quiet machine (60)")
    parser.add_argument("--scratch", type=Path, help="directory with room for five times the size")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    where = machine()
    screen.print(str(where))
    with working_place(asked.scratch) as place:
        found = measure(asked.stack, asked.size_gb, asked.rounds, asked.patience, place)
    if asked.json:
        json.dump({"machine": asdict(where), "figures": [asdict(one) for one in found]}, sys.stdout, indent=1)
        print()
        return
    title = f"{asked.size_gb} GB, {asked.rounds} rounds in shuffled order, medians ({where})"
    Console().print(table(title, found))


if __name__ == "__main__":
    main()
