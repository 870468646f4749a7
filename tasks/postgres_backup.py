"""A logical backup of a PostgreSQL database: one snapshot, dumped in parallel and measured at the same time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
from psycopg import sql

import recoup
from recoup.catalog import Repository, entries, set_id
from recoup.errors import PreconditionError, ProgramError, RecoveryError, first_line
from recoup.manifest import DatabaseContent, DatabaseDump, Manifest, TableContent
from recoup.progress import Pace
from recoup.records import Frozen, now
from tasks.postgres import Condition, Connection, Server, answers, identity, server_now
from tasks.postgres_content import (
    SCHEMA_FILE,
    best_hash,
    fingerprint,
    measure,
    relations,
    schema_lines,
    sequences,
    unsound,
)
from tasks.postgres_shape import read_shape
from tasks.step import note, step, telling

DUMP = timedelta(hours=6)
# Fastest first as measured; a server built without one says so before it touches anything.
COMPRESSIONS = ("zstd:1", "lz4", "1")
_NO_SUCH_COMPRESSION = (
    "does not support compression",
    "not support",
    "invalid compression",
    "unrecognized compression",
    "must be in range",
)


class Taken(Frozen):
    """What a backup published; sizes in bytes."""

    set_id: str
    recovery_point: datetime
    size: int
    rows: int
    tables: int
    compression: str
    pruned: tuple[str, ...] = ()
    tested: str = ""

    def __str__(self) -> str:
        size = f"{self.size / 1e6:.1f} MB ({self.compression})"
        tested = f"; {self.tested}" if self.tested else ""
        return f"{self.set_id}: {self.tables} tables, {self.rows:,} rows, {size}{tested}"


class Ready(Frozen):
    """The server is there and the repository has room; sizes in bytes."""

    database: int
    free: int

    def __str__(self) -> str:
        return f"database {self.database / 1e6:.0f} MB, free in the repository {self.free / 1e9:.1f} GB"


@dataclass(frozen=True)
class Snapshot:
    """One exported snapshot: every reader of it sees the database as it was at ``taken``."""

    name: str
    taken: datetime
    connection: Connection


def dump_command(server: Server, target: Path, snapshot: str, compression: str) -> tuple[str, ...]:
    """Give the argv of the parallel dump of one snapshot into a directory."""
    return (
        "pg_dump",
        "--format=directory",
        f"--jobs={server.spec.backup.jobs}",
        f"--compress={compression}",
        f"--snapshot={snapshot}",
        "--no-password",
        f"--file={target}",
        f"--dbname={server.spec.database}",
    )


@step(timeout=timedelta(minutes=2), retries=2)
def check_backup_can_begin(server: Server, repository: Repository) -> Ready:
    """Give the sizes that matter; raises PreconditionError when the server does not answer or there is no room."""
    found = answers(server)
    if found.condition is not Condition.HEALTHY:
        raise PreconditionError(
            f"{server.component} cannot be backed up: {found}",
            next_step="recoup recover database, if this is not a planned stop",
        )
    with server.connect() as connection:
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    size = int(str(row[0])) if row else 0
    root = next(p for p in (repository.root, *repository.root.parents) if p.exists())
    free = shutil.disk_usage(root).free
    # Compressed dumps were measured at 0.11-0.16 of the database; indexes are never dumped. Half is a safe demand.
    if free < size // 2:
        raise PreconditionError(
            f"{root} has {free / 1e9:.2f} GB free; a backup of {size / 1e9:.2f} GB of database may need half of that",
            next_step="free space, lower the plan's backup.keep, or name another repository",
        )
    return Ready(database=size, free=free)


@step(timeout=DUMP, retries=1)
def take_database_backup(server: Server, repository: Repository) -> Taken:
    """Dump and measure one snapshot, and publish the set; gives what was published.

    Raises RecoveryError when the dump fails: no set is published then, and the older ones stay.
    """
    started = now()
    try:
        with repository.staging(server.spec.store, started) as staged:
            before = next((one.manifest.size for one in repository.sets(server.spec.store) if one.manifest), 0)
            recovery_point, dump = _dump(server, staged, before)
            _prove_listable(server, staged)
            note("hashing the files")
            manifest = Manifest(
                set_id=set_id(server.spec.store, recovery_point),
                store=server.spec.store,
                component=server.component,
                recovery_point=recovery_point,
                started=started,
                ended=now(),
                recoup_version=recoup.__version__,
                holds=dump,
                files=entries(staged),
            )
            repository.publish(staged, manifest)
    except psycopg.Error as error:
        raise RecoveryError(
            f"the database went away during the backup: {first_line(error)}",
            state="no set was published; the older ones are untouched",
            next_step="see recoup recover database, or run: recoup backup now",
        ) from None
    except OSError as error:
        raise RecoveryError(
            f"the backup could not be written: {error.strerror}",
            state="no set was published; the older ones are untouched",
            next_step=f"see to the space and rights of {repository.root}, then run: recoup backup now",
        ) from None
    pruned = repository.prune(server.spec.store, server.spec.backup)
    return Taken(
        set_id=manifest.set_id,
        recovery_point=recovery_point,
        size=manifest.size,
        rows=dump.content.rows,
        tables=len(dump.content.tables),
        compression=dump.compression,
        pruned=pruned,
    )


def _dump(server: Server, staged: Path, before: int) -> tuple[datetime, DatabaseDump]:
    with server.connect(statement=DUMP) as connection:
        snapshot = _export(connection)
        lines = schema_lines(connection)
        values = sequences(connection)
        known_unsound = unsound(connection)
        shape = read_shape(connection)
        system, version = identity(connection), connection.info.server_version
        tables = relations(connection)
        with ThreadPoolExecutor(max_workers=2) as pool:
            contents = pool.submit(_measure_all, server, snapshot, [name for name, _ in tables])
            roles = pool.submit(_globals, server, staged / "globals.sql")
            compression = _dump_parallel(server, staged, snapshot.name, before)
            roles.result()
            measured = contents.result()
    (staged / SCHEMA_FILE).write_text("\n".join(lines), encoding="utf-8")
    return snapshot.taken, DatabaseDump(
        database=server.spec.database,
        server_version=version,
        system_identifier=system,
        compression=compression,
        size=sum(size for _, size in tables),
        shape=shape,
        content=DatabaseContent(
            schema_fingerprint=fingerprint(lines), tables=measured, sequences=values, unsound=known_unsound
        ),
    )


def _export(connection: Connection) -> Snapshot:
    # now() is the moment of BEGIN, before the snapshot is taken: whatever was committed by then is in the dump.
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    taken = server_now(connection)
    row = connection.execute("SELECT pg_export_snapshot()").fetchone()
    assert row is not None
    return Snapshot(str(row[0]), taken, connection)


def _measure_all(server: Server, snapshot: Snapshot, tables: list[str]) -> tuple[TableContent, ...]:
    with server.connect(statement=DUMP) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot.name)))
        found = (measure(connection, table, best_hash(connection, table)) for table in tables)
        return tuple(sorted(found, key=lambda table: table.name))


def _dump_parallel(server: Server, staged: Path, snapshot: str, before: int) -> str:
    target = staged / "dump"
    # The set before is about as large.
    with telling(_size(target, Pace("dumped", before))):
        for compression in COMPRESSIONS:
            try:
                server.tool(dump_command(server, target, snapshot, compression), timeout=DUMP, mounts=[staged])
                return compression if ":" in compression or compression == "lz4" else f"gzip:{compression}"
            except ProgramError as error:
                if compression == COMPRESSIONS[-1] or not any(said in error.stderr for said in _NO_SUCH_COMPRESSION):
                    raise RecoveryError(
                        f"the dump failed: {error.what}",
                        state="no set was published; the older ones are untouched",
                        next_step="mend what pg_dump names, then run: recoup backup now",
                    ) from None
    raise AssertionError("unreachable")


def _size(target: Path, pace: Pace) -> Callable[[], str]:
    def look() -> str:
        return pace.at(sum(entry.stat().st_size for entry in os.scandir(target)) if target.is_dir() else 0)

    return look


def _globals(server: Server, target: Path) -> None:
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        server.tool(
            ("pg_dumpall", "--globals-only", "--no-password", f"--database={server.spec.maintenance_database}"),
            timeout=timedelta(minutes=5),
            stdout=file,
        )


def _prove_listable(server: Server, staged: Path) -> None:
    server.tool(("pg_restore", "--list", str(staged / "dump")), timeout=timedelta(minutes=5), mounts=[staged])
