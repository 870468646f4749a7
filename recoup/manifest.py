"""What a backup set's manifest says: its files, how far its data reaches, and what it holds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from recoup.records import Check, Frozen, Outcome


class FileEntry(Frozen):
    """One file of a set; ``path`` is relative to it, ``size`` in bytes."""

    path: str
    size: int
    sha256: str


# What of each row is hashed: its values as they are stored, or its text.
Hashed = Literal["values", "text"]


class TableContent(Frozen):
    """What a table held: its rows, and a digest that does not depend on their order."""

    name: str
    rows: int
    digest: str
    hashed: Hashed = "text"


class SequenceValue(Frozen):
    name: str
    value: int


class DatabaseContent(Frozen):
    """What a database held at one snapshot."""

    schema_fingerprint: str
    tables: tuple[TableContent, ...]
    sequences: tuple[SequenceValue, ...] = ()
    unsound: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return sum(table.rows for table in self.tables)


class RoleSetting(Frozen):
    """A setting of one role in this database, as ``name=value``."""

    role: str
    setting: str


class DatabaseGrant(Frozen):
    """A privilege on the database itself; an empty ``grantee`` is everybody."""

    privilege: Literal["CREATE", "CONNECT", "TEMPORARY"]
    grantee: str
    grantable: bool


class DatabaseShape(Frozen):
    """What a new database must be made with to take the dump."""

    owner: str
    encoding: str
    collate: str
    ctype: str
    settings: tuple[str, ...] = ()
    role_settings: tuple[RoleSetting, ...] = ()
    grants: tuple[DatabaseGrant, ...] = ()
    roles: tuple[str, ...] = ()


class DatabaseDump(Frozen):
    """A logical, portable copy of one database (``pg_dump``, directory format), measured at its own snapshot.

    ``size`` is what its tables and indexes took up in the server, in bytes; 0 where it was not written down.
    """

    kind: Literal["dump"] = "dump"
    database: str
    server_version: int
    system_identifier: str
    compression: str
    size: int = 0
    shape: DatabaseShape
    content: DatabaseContent


class BaseBackup(Frozen):
    """A physical copy of a whole server (``pg_basebackup``), from which WAL is replayed.

    LSNs are written as PostgreSQL does (``0/3000028``). The data is consistent from ``stop_lsn`` on, which was reached
    before ``stopped`` by the server's clock. An incremental one needs the set ``parent`` (manual, section 25.3.3).
    """

    kind: Literal["base"] = "base"
    server_version: int
    system_identifier: str
    timeline: int
    start_lsn: str
    stop_lsn: str
    segment_size: int
    compression: str
    parent: str = ""
    stopped: AwareDatetime | None = None


class RedisSnapshot(Frozen):
    """A point-in-time copy of a Redis (RDB); ``keys`` by database number, ``digest`` of all keys and values."""

    kind: Literal["rdb"] = "rdb"
    server_version: str
    keys: dict[str, int]
    expiring: dict[str, int]
    digest: str
    compression: str


class ConfigurationTree(Frozen):
    """Configuration files; ``drift`` names those that differ from ``commit``, empty when nothing is under control."""

    kind: Literal["configuration"] = "configuration"
    commit: str
    drift: tuple[str, ...] = ()
    encrypted: tuple[str, ...] = ()


Holds = Annotated[DatabaseDump | BaseBackup | RedisSnapshot | ConfigurationTree, Field(discriminator="kind")]


class Manifest(Frozen):
    """What a backup set holds and how far its data reaches; ``recovery_point`` was read from the data."""

    format: Literal[1] = 1
    set_id: str
    store: str
    component: str
    recovery_point: AwareDatetime
    started: AwareDatetime
    ended: AwareDatetime
    recoup_version: str
    holds: Holds
    files: tuple[FileEntry, ...]

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files)


class Verification(Frozen):
    """What a restore test of a set found; written beside the manifest, the newest test replacing the one before."""

    at: AwareDatetime
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.outcome is Outcome.PASSED for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed; a test without any may still have some that could not be made."""
        return tuple(check for check in self.checks if check.outcome is Outcome.FAILED)
