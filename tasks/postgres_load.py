"""Loading a backup set into a database made for it: roles, the database as it was, its data; then the comparison."""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psycopg

from recoup.catalog import BackupSet
from recoup.errors import PreconditionError
from recoup.manifest import DatabaseShape
from recoup.progress import Pace
from recoup.records import Check
from tasks.postgres import Server
from tasks.postgres_compare import compare
from tasks.postgres_shape import make_database
from tasks.step import note, telling

RESTORE = timedelta(hours=8)
RESTORE_OPTIONS = (
    "-c maintenance_work_mem=512MB -c synchronous_commit=off "
    # What the database is set to for its users must not hinder its own restore.
    "-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0"
)


def restore_into(server: Server, one: BackupSet, target: str) -> tuple[Check, ...]:
    """Restore a set into a new database and compare it with the manifest; one of the same name is made anew.

    Raises ProgramError, psycopg.Error or OSError as they come; what is half-made stays.
    """
    make_for(server, one, target)
    _load(server, one, target)
    if server.at:
        return compare(server, one, target)
    # Neither waits for the other: beside a small comparison, most of this is a program's start.
    with ThreadPoolExecutor(max_workers=1) as pool:
        statistics = pool.submit(_collect_statistics, server, target)
        checks = compare(server, one, target)
        statistics.result()
    return checks


def restore_command(server: Server, one: BackupSet, target: str) -> tuple[str, ...]:
    """Give the argv of the parallel restore of a set's dump into a database."""
    return (
        "pg_restore",
        f"--jobs={server.spec.backup.jobs}",
        "--exit-on-error",
        "--no-password",
        # A server that is thrown away has no directories for them.
        *(["--no-tablespaces"] if server.at else []),
        f"--dbname={target}",
        str(one.path / "dump"),
    )


def legacy_command(target: str) -> tuple[str, ...]:
    """Give the argv that loads a plain SQL dump from its input: the first error ends it and nothing of it stays."""
    return (
        "psql",
        "--no-psqlrc",
        "--quiet",
        "--no-password",
        "--set=ON_ERROR_STOP=1",
        "--single-transaction",
        f"--dbname={target}",
    )


def name_beside(server: Server, one: BackupSet) -> str:
    """Give the name of a set's database in a throwaway server: its own, unless that is the one to connect to first."""
    name = one.dump.database if one.dump else server.spec.database
    return "restored" if name in (server.spec.maintenance_database, "template0", "template1") else name


def make_for(server: Server, one: BackupSet, target: str) -> None:
    """Make an empty database in the shape of a set's, with the roles it needs, in place of one of the same name."""
    if one.dump is not None:
        _apply_globals(server, one, one.dump.shape)
    with server.connect(server.spec.maintenance_database) as connection:
        make_database(connection, target, one.dump.shape if one.dump else None)


def _apply_globals(server: Server, one: BackupSet, shape: DatabaseShape) -> None:
    with server.connect(server.spec.maintenance_database) as connection:
        there = {str(row[0]) for row in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    absent = set(shape.roles) - there
    if not absent:
        return
    note(f"restoring roles: {', '.join(sorted(absent))}")
    with (one.path / "globals.sql").open("rb") as file:
        # Roles that are there already answer with an error each; what counts is looked at next.
        server.tool(
            ("psql", "--no-psqlrc", "--quiet", "--no-password", f"--dbname={server.spec.maintenance_database}"),
            timeout=timedelta(minutes=5),
            stdin=file,
            check=False,
        )
    with server.connect(server.spec.maintenance_database) as connection:
        there = {str(row[0]) for row in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    if still := set(shape.roles) - there:
        raise OSError(0, f"roles could not be restored: {', '.join(sorted(still))}", None)


def _load(server: Server, one: BackupSet, target: str) -> None:
    if one.manifest is None or one.dump is None:
        note("loading the plain dump in one transaction")
        with gzip.open(one.path) as file:
            _stream(server, file, target)
    else:
        note(f"restoring {one.manifest.size / 1e6:.0f} MB, {one.dump.content.rows:,} rows, in parallel")
        with telling(_growth(server, target, Pace("restored", one.dump.size))):
            server.tool(
                restore_command(server, one, target), timeout=RESTORE, mounts=[one.path], options=RESTORE_OPTIONS
            )
    if server.at:
        return
    with server.connect(server.spec.maintenance_database) as connection:
        # The log is flushed in order: this commit puts the asynchronous ones before it on the disk for certain. Local,
        # for a synchronous standby that the server is told to wait for may be gone as well. A commit that wrote nothing
        # would flush nothing: the message is a log record and changes no data.
        connection.execute("SET synchronous_commit = local")
        connection.execute("SELECT pg_logical_emit_message(true, 'recoup', 'restored')")


def _collect_statistics(server: Server, target: str) -> None:
    server.tool(
        ("vacuumdb", "--analyze-only", "--jobs=2", "--quiet", "--no-password", f"--dbname={target}"), timeout=RESTORE
    )


def _stream(server: Server, file: gzip.GzipFile, target: str) -> None:
    """Decompress through a pipe into psql, so that a dump of any size needs no room."""
    reader, writer = os.pipe()
    failures: list[str] = []

    def pump() -> None:
        with os.fdopen(writer, "wb") as sink:
            try:
                while block := file.read(1 << 20):
                    sink.write(block)
            except BrokenPipeError:
                return
            except (OSError, EOFError) as error:
                failures.append(str(error))

    pumping = threading.Thread(target=pump, daemon=True)
    pumping.start()
    with os.fdopen(reader, "rb") as source:
        server.tool(legacy_command(target), timeout=RESTORE, stdin=source)
    pumping.join()
    if failures:
        raise OSError(failures[0])


def _growth(server: Server, target: str, pace: Pace) -> Callable[[], str]:
    def look() -> str:
        try:
            with server.connect(server.spec.maintenance_database) as connection:
                row = connection.execute(
                    "SELECT pg_database_size(oid) FROM pg_database WHERE datname = %s", [target]
                ).fetchone()
        except (psycopg.Error, PreconditionError):
            return ""
        return pace.at(int(str(row[0])) if row else 0)

    return look
