"""Physical copies of a PostgreSQL server: whole, or what changed since the last one, taken while it serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
from psycopg import sql
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import recoup
from recoup.catalog import BackupSet, Repository, base_series, entries, set_id
from recoup.errors import PreconditionError, ProgramError, RecoupError, RecoveryError, first_line
from recoup.manifest import BaseBackup, Manifest
from recoup.records import Frozen, now
from tasks.postgres import Server, identity, server_now
from tasks.postgres_progress import copying
from tasks.step import note, step
from tasks.wal_pruning import bases_here, prune_received
from tasks.wal_receiver import SUMMARIES, continuous_of

COPY = timedelta(hours=12)
# The program that opens it must be in the image; the server may have been built without it.
_PACKERS = (("zstd", "server-zstd:level=1,workers=2"), ("lz4", "server-lz4"), ("gzip", "server-gzip:1"))
_NO_SUCH_COMPRESSION = (
    "does not support compression",
    "not supported by this build",
    "unrecognized compression",
    "is not in the image",
)
# In one container with the backup itself: each costs half a second to start.
_IF_THERE = 'command -v "$1" >/dev/null || { echo "$1 is not in the image" >&2; exit 1; }; shift; exec "$@"'


# Said by a server that was restored to before its last base backup, or whose WAL summaries begin later.
_NOT_ITS_HISTORY = ("not in this server's history", "WAL summaries are required", "but this backup starts")


class _NotItsHistory(Exception):
    """What changed since the last base backup cannot be told."""


class BaseTaken(Frozen):
    """A base backup that was published; ``size`` in bytes."""

    set_id: str
    parent: str
    recovery_point: datetime
    start_lsn: str
    size: int
    compression: str
    pruned: tuple[str, ...] = ()
    segments_pruned: int = 0

    def __str__(self) -> str:
        kind = f"what changed since {self.parent}" if self.parent else "the whole server"
        return f"{self.set_id}: {kind}, {self.size / 1e6:.1f} MB ({self.compression}), from {self.start_lsn}"


class Begun(Frozen):
    """The base backup that was taken after a recovery; ``why`` there is none, when ``set_id`` is empty."""

    set_id: str = ""
    why: str = ""

    def __str__(self) -> str:
        return self.set_id or f"none: {self.why}"


class _Range(BaseModel):
    model_config = ConfigDict(frozen=True)
    timeline: int = Field(alias="Timeline")
    start: str = Field(alias="Start-LSN")
    end: str = Field(alias="End-LSN")


class _BackupManifest(BaseModel):
    """The parts that matter of PostgreSQL's own backup manifest (manual, section 70.2)."""

    model_config = ConfigDict(frozen=True)
    ranges: tuple[_Range, ...] = Field(alias="WAL-Ranges", min_length=1)


def series(server: Server) -> str:
    """Give the name under which the catalogue keeps a server's base backups."""
    return base_series(server.spec.store)


def base_command(server: Server, target: Path, packer: str, parent: Path | None) -> tuple[str, ...]:
    """Give the argv of a base backup, into one compressed archive that holds the WAL it needs by itself."""
    return (
        "pg_basebackup",
        f"--pgdata={target}",
        "--format=tar",
        f"--compress={packer}",
        "--wal-method=fetch",
        "--checkpoint=fast",
        "--no-password",
        "--label=recoup",
        *((f"--incremental={parent}",) if parent else ()),
    )


@step(timeout=COPY, retries=1)
def take_base_backup(server: Server, repository: Repository, incremental: bool) -> BaseTaken:
    """Take a base backup; see take_base."""
    return take_base(server, repository, incremental)


def take_base(server: Server, repository: Repository, incremental: bool) -> BaseTaken:
    """Take a base backup and publish it; an ``incremental`` one where the last one, and the server, allow it.

    Raises RecoveryError when it fails: no set is published then, and the older ones stay.
    """
    started = now()
    try:
        with server.connect(server.spec.maintenance_database) as connection:
            system, version, point = identity(connection), connection.info.server_version, server_now(connection)
            sockets = _ask(connection, "unix_socket_directories").split(",")[0].strip()
            size = int(_ask(connection, "wal_segment_size", "pg_size_bytes(setting || coalesce(unit, ''))"))
            if _ask(connection, "data_checksums") != "on":
                note("data checksums are off: a flipped byte on the disk goes into every copy unseen")
            _refuse_tablespaces(connection)
        parent = _parent(server, repository, system, version) if incremental else None
        with repository.staging(series(server), point) as staged:
            try:
                compression = _copy(server, staged, sockets, parent)
            except _NotItsHistory:
                note("the last base backup is of a history that was left: a full one is taken")
                parent = None
                compression = _copy(server, staged, sockets, parent)
            with server.connect(server.spec.maintenance_database) as connection:
                stopped = server_now(connection)
            wal = _read(staged / "base" / "backup_manifest")
            manifest = Manifest(
                set_id=set_id(series(server), point),
                store=server.spec.store,
                component=server.component,
                recovery_point=point,
                started=started,
                ended=now(),
                recoup_version=recoup.__version__,
                holds=BaseBackup(
                    server_version=version,
                    system_identifier=system,
                    timeline=wal.timeline,
                    start_lsn=wal.start,
                    stop_lsn=wal.end,
                    segment_size=size,
                    compression=compression,
                    parent=parent.set_id if parent else "",
                    stopped=stopped,
                ),
                files=entries(staged),
            )
            repository.publish(staged, manifest)
    except psycopg.Error as error:
        raise _failed(f"the database went away: {first_line(error)}") from None
    except OSError as error:
        raise _failed(f"it could not be written: {error.strerror}") from None
    pruned, segments = _prune(server, repository)
    return BaseTaken(
        set_id=manifest.set_id,
        parent=parent.set_id if parent else "",
        recovery_point=point,
        start_lsn=wal.start,
        size=manifest.size,
        compression=compression,
        pruned=pruned,
        segments_pruned=segments,
    )


def _prune(server: Server, repository: Repository) -> tuple[tuple[str, ...], int]:
    policy = continuous_of(server)
    try:
        return repository.prune(series(server), policy.base, policy.wal), prune_wal(server, repository)
    except (OSError, RecoupError) as error:
        # The set is there; what is left too much is removed by the next one.
        note(f"nothing was pruned: {first_line(error)}")
        return (), 0


@step(timeout=COPY)
def begin_anew(server: Server, repository: Repository) -> Begun:
    """Take a base backup of a server that was just recovered; a failure is told, and undoes no recovery."""
    try:
        return Begun(set_id=take_base(server, repository, False).set_id)
    except RecoupError as error:
        return Begun(why=error.what)


def chain(repository: Repository, one: BackupSet) -> tuple[BackupSet, ...]:
    """Give what a base backup is put together from, the full one first; PreconditionError when one of it is gone."""
    found = [one]
    while found[0].base is not None and found[0].base.parent:
        found.insert(0, repository.get(base_series(one.manifest.store) if one.manifest else "", found[0].base.parent))
    return tuple(found)


def prune_wal(server: Server, repository: Repository) -> int:
    """Remove the received WAL that no base backup needs which is kept; gives how many files."""
    gone = prune_received(continuous_of(server).wal, bases_here(repository, (series(server),)))
    return sum(len(one.names) for one in gone)


def _parent(server: Server, repository: Repository, system: str, version: int) -> BackupSet | None:
    """Give the newest base backup that what changed since can be told from; None: a full one is due."""
    if version < SUMMARIES:
        return None
    for one in repository.sets(series(server)):
        if one.base and one.base.system_identifier == system and one.base.server_version // 10000 == version // 10000:
            return one
    return None


def _copy(server: Server, staged: Path, sockets: str, parent: BackupSet | None) -> str:
    since = parent.path / "base" / "backup_manifest" if parent else None
    mounts = [staged, *([parent.path] if parent else [])]
    for program, packer in _PACKERS:
        argv = ("sh", "-c", _IF_THERE, "sh", program, *base_command(server, staged / "base", packer, since))
        try:
            note(f"copying the server's files ({packer.removeprefix('server-')})")
            with _keeping_wal(server), copying(server, whole=parent is None):
                server.tool(argv, timeout=COPY, mounts=mounts, socket=sockets)
            return packer.removeprefix("server-")
        except ProgramError as error:
            if any(said in error.stderr for said in _NO_SUCH_COMPRESSION):
                continue
            if parent and any(said in error.stderr for said in _NOT_ITS_HISTORY):
                raise _NotItsHistory from None
            raise _failed(_hint(error)) from None
    raise PreconditionError(
        "the server and its image have no compression in common",
        next_step="put zstd, lz4 or gzip into the image of the database",
    )


@contextmanager
def _keeping_wal(server: Server) -> Iterator[None]:
    """Have the server keep the WAL it writes while the block runs: it is fetched last, and a checkpoint removes it."""
    with server.connect(server.spec.maintenance_database) as connection:
        connection.execute("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'")
        # Temporary: gone with this session, so that no killed backup fills the server's disk.
        slot = f"recoup_base_{connection.info.backend_pid}"
        try:
            connection.execute("SELECT pg_create_physical_replication_slot(%s, true, true)", [slot])
        except psycopg.errors.ConfigurationLimitExceeded:
            note("all replication slots are taken (max_replication_slots): WAL may go before it is copied")
        yield


def _hint(error: ProgramError) -> str:
    if "has already been removed" in error.stderr:
        return f"{error.what}; more was written meanwhile than the plan's slot_keep lets the server keep"
    if "no pg_hba.conf entry for replication" in error.stderr:
        return f"{error.what}; share the socket's directory: infra/postgres/compose.continuous.yaml"
    return error.what


def _read(path: Path) -> _Range:
    try:
        return _BackupManifest.model_validate_json(path.read_bytes()).ranges[-1]
    except (ValidationError, json.JSONDecodeError) as error:
        raise _failed(f"its manifest cannot be read: {first_line(error)}") from None


def _ask(connection: psycopg.Connection[tuple[object, ...]], name: str, what: str = "setting") -> str:
    row = connection.execute(f"SELECT {what} FROM pg_settings WHERE name = %s".encode(), [name]).fetchone()
    return str(row[0]) if row else ""


def _refuse_tablespaces(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    rows = connection.execute("SELECT spcname FROM pg_tablespace WHERE spcname !~ '^pg_'").fetchall()
    names = [str(row[0]) for row in rows]
    if names:
        ways = [
            f"{command.format(sql.Identifier(name).as_string(connection))};"
            for name in names
            for command in ("ALTER TABLE ALL IN TABLESPACE {} SET TABLESPACE pg_default", "DROP TABLESPACE {}")
        ]
        raise PreconditionError(
            f"the server has tablespaces of its own ({', '.join(names)}): a replay would write to the very places "
            "where the old data are, so they are not backed up this way",
            next_step="in each database that uses one, with room in the data directory and while nobody waits for "
            f"those tables (they are locked while they move): {' '.join(ways)} Indexes likewise: ALTER INDEX ALL IN "
            "TABLESPACE …; a database's own: ALTER DATABASE … SET TABLESPACE pg_default. Or stay with the dumps, "
            "which do hold them: remove continuous from the plan",
        )


def _failed(why: str) -> RecoveryError:
    return RecoveryError(
        f"the base backup failed: {why}",
        state="no set was published; the older ones are untouched",
        next_step="mend what is named, then run it again: recoup backup now",
    )
