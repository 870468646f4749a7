"""Restoring one table, or one schema, of a logical set beside the original: proven elsewhere, loaded all at once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql

from recoup.catalog import BackupSet, Repository, series_of
from recoup.errors import PreconditionError, ProgramError, RecoveryError, first_line
from recoup.records import Frozen, now
from tasks.postgres import Connection, Server, quoted
from tasks.postgres_beside import Place, place_in, running
from tasks.postgres_content import hashes_values, measure, portable, schema_lines
from tasks.postgres_load import RESTORE, RESTORE_OPTIONS, make_for, name_beside
from tasks.postgres_loaded import Likeness, finish, likeness
from tasks.postgres_part import (
    Part,
    default_name,
    entries_of,
    find_part,
    fitting,
    foreign_keys,
    lines_of,
    renamed,
    schema_of,
)
from tasks.step import note, step

_LOAD_OPTIONS = "-c default_transaction_read_only=off -c statement_timeout=0"
_NAMES = """
SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%(schema)s)
UNION SELECT typname FROM pg_type WHERE typnamespace = to_regnamespace(%(schema)s)
UNION SELECT stxname FROM pg_statistic_ext WHERE stxnamespace = to_regnamespace(%(schema)s)
"""
# What bears a name of its own in a schema beside the table that it belongs to.
_BELONGING = """
SELECT 'INDEX', n.nspname, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.indrelid = %(table)s::regclass
UNION ALL
SELECT 'SEQUENCE', n.nspname, c.relname FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
  JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE d.classid = 'pg_class'::regclass AND d.refobjid = %(table)s::regclass AND d.deptype IN ('a', 'i')
UNION ALL
SELECT 'STATISTICS', n.nspname, s.stxname FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
  WHERE s.stxrelid = %(table)s::regclass
ORDER BY 1, 2, 3
"""
_PARENTS = """
SELECT pn.nspname, p.relname, c.relispartition FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
  JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
  WHERE i.inhrelid = %s::regclass
"""


class TableRestored(Frozen):
    """What was restored beside the original; ``not_kept`` are statements that would add what was left out."""

    set_id: str
    source: str
    target: str
    rows: int
    not_kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        left = f"; {len(self.not_kept)} foreign keys to other tables were left out" if self.not_kept else ""
        return f"{self.source} of {self.set_id} is there as {self.target}, {self.rows:,} rows, compared twice{left}"


@step(timeout=RESTORE)
def restore_table(
    server: Server, repository: Repository, set_id: str, table: str, schema: str, new_name: str, scratch: Path
) -> TableRestored:
    """Restore ``table`` (or all of ``schema``) of a set into the database in use, under a name that is not taken.

    It is made and compared with the manifest in a throwaway server, renamed there, and loaded in one transaction: with
    indexes, constraints, own sequences, triggers, comments and grants. Foreign keys to other tables are left out, for
    they would stop the original's users from deleting what those rows point to. Raises PreconditionError for what is
    unknown or taken, RecoveryError when it is not what was backed up or cannot be loaded.
    """
    one = repository.get(server.spec.store, set_id)
    part = _part(repository, one, table, schema)
    new = fitting(new_name) if new_name else default_name(part, now())
    taken = _names_taken(server, part, new)
    try:
        with place_in(scratch) as place, running(server, place, ("new",), timeout=RESTORE) as beside:
            said = _load_part(beside, one, part, place)
            _prove_part(beside, one, part, said)
            not_kept = _add_inner_keys(beside, one, part)
            with beside.connect(name_beside(beside, one), statement=RESTORE) as connection:
                name = _rename(connection, part, new, taken)
                tables = tuple(t.model_copy(update={"name": _moved(t.name, part, name)}) for t in part.tables)
                expected = likeness(connection, name, tables, whole_schema=not part.table)
            file = _own_place(place) / "part"
            _dump(beside, one, part, new, file)
            _load(server, part, name, file)
    except psycopg.Error as error:
        raise RecoveryError(
            f"the restore of {part.name} failed: {first_line(error)}",
            state="the original is untouched; nothing, or the whole copy, is there beside it",
            next_step="mend what is named, then restore it again",
        ) from None
    _prove_loaded(server, part, name, expected)
    return TableRestored(
        set_id=set_id,
        source=part.name,
        target=name,
        rows=sum(table.rows for table in tables),
        not_kept=tuple(f"ALTER TABLE {_moved(table, part, name)} ADD CONSTRAINT {text};" for table, text in not_kept),
    )


def _part(repository: Repository, one: BackupSet, table: str, schema: str) -> Part:
    """Give the part that is meant; what a set no longer has may be in an older one, and the error names that."""
    try:
        return find_part(one, table, schema)
    except PreconditionError as error:
        for other in repository.sets(series_of(one.set_id)):
            if other.dump and _has(other, table, schema):
                raise PreconditionError(error.what, next_step=f"the newest that has it: --set {other.set_id}") from None
        raise


def _has(one: BackupSet, table: str, schema: str) -> bool:
    try:
        find_part(one, table, schema)
    except PreconditionError:
        return False
    return True


def load_command(file: Path, database: str) -> tuple[str, ...]:
    """Give the argv that loads an archive in one transaction: the first error ends it and nothing of it stays."""
    return (
        "pg_restore", "--single-transaction", "--exit-on-error", "--no-password", f"--dbname={database}", str(file)
    )  # fmt: skip


def _names_taken(server: Server, part: Part, new: str) -> set[str]:
    """Give the names that are in use where a part is going to; raises PreconditionError when its own is among them."""
    try:
        with server.connect() as connection:
            if part.table:
                there = connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [part.schema]).fetchone()
                if there is None:
                    raise PreconditionError(
                        f"the schema {part.schema} is gone from {server.spec.database}",
                        next_step=f"restore all of it: recoup restore table --schema {part.schema}",
                    )
                rows = connection.execute(_NAMES, {"schema": _quote(connection, part.schema)}).fetchall()
            else:
                rows = connection.execute("SELECT nspname FROM pg_namespace").fetchall()
    except psycopg.Error as error:
        raise PreconditionError(
            f"{server.component} does not answer: {first_line(error)}", next_step="recoup recover database"
        ) from None
    taken = {str(row[0]) for row in rows}
    if new in taken:
        raise PreconditionError(
            f"there is already a {new} in {part.schema if part.table else server.spec.database}",
            next_step="name another with --as: nothing is ever restored over what is there",
        )
    return taken | {new}


def _load_part(beside: Server, one: BackupSet, part: Part, place: Place) -> str:
    """Make the set's whole schema and fill the part; gives what pg_restore complained of."""
    make_for(beside, one, name_beside(beside, one))
    timeout = timedelta(minutes=5)
    listed = beside.tool(("pg_restore", "--list", str(one.path / "dump")), timeout=timeout, mounts=[one.path])
    chosen = _own_place(place) / "entries"
    chosen.write_text(entries_of(listed.stdout.decode("utf-8", "surrogateescape"), part), errors="surrogateescape")
    note(f"restoring {part.name}, {sum(table.rows for table in part.tables):,} rows, into a throwaway server")
    # An object that has nothing to do with the part may fail; whether the part is whole is looked at afterwards.
    return beside.tool(
        (
            "pg_restore",
            f"--jobs={beside.spec.backup.jobs}",
            "--no-tablespaces",
            "--no-password",
            f"--use-list={chosen}",
            f"--dbname={name_beside(beside, one)}",
            str(one.path / "dump"),
        ),
        timeout=RESTORE,
        mounts=[one.path, chosen.parent],
        options=RESTORE_OPTIONS,
        check=False,
    ).stderr


def _prove_part(beside: Server, one: BackupSet, part: Part, said: str) -> None:
    expected = portable(lines_of(schema_of(one), part.name, whole_schema=not part.table))
    with beside.connect(name_beside(beside, one), statement=RESTORE) as connection:
        # One that has line ends in it became several in the set's file.
        lines = "\n".join(schema_lines(connection)).splitlines()
        found = portable(lines_of(lines, part.name, whole_schema=not part.table))
        wrong = [f"not restored: {line}" for line in sorted(expected - found)]
        for table in part.tables if not wrong else ():
            note(f"comparing {table.name} ({table.rows:,} rows)")
            seen = measure(connection, table.name, table.hashed if hashes_values(connection) else "text")
            if seen.rows != table.rows:
                wrong.append(f"{table.name} has {seen.rows:,} rows, {table.rows:,} expected")
            elif seen.hashed == table.hashed and seen.digest != table.digest:
                wrong.append(f"{table.name} differs")
    if wrong:
        complaint = f" (pg_restore: {said.strip().splitlines()[0]})" if said.strip() else ""
        raise RecoveryError(
            f"{part.name} of {one.set_id} is not what was backed up: {'; '.join(wrong[:3])}{complaint}",
            state="nothing was changed",
            next_step="take an older set: --set SET",
        )


def _add_inner_keys(beside: Server, one: BackupSet, part: Part) -> tuple[tuple[str, str], ...]:
    """Add the foreign keys that point into the part itself; gives the others."""
    others = []
    with beside.connect(name_beside(beside, one), statement=RESTORE) as connection:
        for table, definition, inside in foreign_keys(schema_of(one), part):
            if inside:
                # Both are the server's own words, quoted by it.
                connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {definition}".encode())
            else:
                others.append((table, definition))
    return tuple(others)


def _rename(connection: Connection, part: Part, new: str, taken: set[str]) -> str:
    """Give the part its new name in the throwaway server, on its own and with names of its own; gives that, quoted."""
    if not part.table:
        connection.execute(sql.SQL("ALTER SCHEMA {} RENAME TO {}").format(quoted(part.schema), quoted(new)))
        _keep_extensions(connection, part.schema, new)
        return _quote(connection, new)
    original = sql.Identifier(part.schema, part.table)
    for schema, parent, partition in connection.execute(_PARENTS, [part.name]).fetchall():
        above = sql.Identifier(str(schema), str(parent))
        connection.execute(
            sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(above, original)
            if partition
            else sql.SQL("ALTER TABLE {} NO INHERIT {}").format(original, above)
        )
    _rename_table(connection, part, new, taken)
    return f"{_quote(connection, part.schema)}.{_quote(connection, new)}"


def _rename_table(connection: Connection, part: Part, new: str, taken: set[str]) -> None:
    belonging = [
        (str(k), str(s), str(o)) for k, s, o in connection.execute(_BELONGING, {"table": part.name}).fetchall()
    ]
    own = {part.table, *(old for _, _, old in belonging)}
    rows = connection.execute(_NAMES, {"schema": _quote(connection, part.schema)}).fetchall()
    others = {str(row[0]) for row in rows} - own
    if new in others:
        # Something of the set that the database in use has no longer.
        _alter(connection, "TABLE", part.schema, new, uuid4().hex)
    taken |= others
    # In two goes: the new name of one may be the old name of another.
    between = [(kind, schema, old, uuid4().hex) for kind, schema, old in belonging]
    for kind, schema, old, halfway in between:
        _alter(connection, kind, schema, old, halfway)
    for kind, schema, old, halfway in between:
        _alter(connection, kind, schema, halfway, renamed(old, part.table, new, taken))
    if new != part.table:
        _alter(connection, "TABLE", part.schema, part.table, new)


def _alter(connection: Connection, kind: str, schema: str, old: str, new: str) -> None:
    connection.execute(
        sql.SQL("ALTER {} {} RENAME TO {}").format(sql.SQL(kind), sql.Identifier(schema, old), quoted(new))
    )


def _keep_extensions(connection: Connection, schema: str, new: str) -> None:
    """Leave the extensions of a renamed schema where the database in use has them."""
    rows = connection.execute(
        "SELECT extname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE n.nspname = %s", [new]
    ).fetchall()
    if rows:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(quoted(schema)))
    for (extension,) in rows:
        connection.execute(sql.SQL("ALTER EXTENSION {} SET SCHEMA {}").format(quoted(str(extension)), quoted(schema)))


def _dump(beside: Server, one: BackupSet, part: Part, new: str, file: Path) -> None:
    def pattern(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    which = f"--table={pattern(part.schema)}.{pattern(new)}" if part.table else f"--schema={pattern(new)}"
    note("copying it out")
    try:
        beside.tool(
            (
                "pg_dump",
                "--format=custom",
                "--compress=0",
                "--strict-names",
                "--no-publications",
                "--no-password",
                which,
                f"--file={file}",
                f"--dbname={name_beside(beside, one)}",
            ),
            timeout=RESTORE,
            mounts=[file.parent],
        )
    except ProgramError as error:
        raise _not_loaded(part, error) from None


def _load(server: Server, part: Part, name: str, file: Path) -> None:
    note(f"loading {name} ({file.stat().st_size / 1e6:.0f} MB) in one transaction")
    try:
        server.tool(
            load_command(file, server.spec.database), timeout=RESTORE, mounts=[file.parent], options=_LOAD_OPTIONS
        )
    except ProgramError as error:
        raise _not_loaded(part, error) from None


def _not_loaded(part: Part, error: ProgramError) -> RecoveryError:
    return RecoveryError(
        f"{part.name} could not be loaded: {error.what}",
        state="nothing was changed: it is loaded in one transaction, and that was taken back",
        next_step="make what it needs (a role, a type, a function that is gone since?), then restore it again",
    )


def _prove_loaded(server: Server, part: Part, name: str, expected: Likeness) -> None:
    try:
        with server.connect(statement=RESTORE) as connection:
            wrong = finish(connection, name, expected, whole_schema=not part.table)
    except psycopg.Error as error:
        wrong = [first_line(error)]
    if wrong:
        raise RecoveryError(
            f"{name} was loaded, and is not what was backed up: {'; '.join(wrong[:3])}",
            state=f"the original is untouched; {name} is there to be looked at",
            next_step=f"see what wrote to it, drop {name}, restore it again",
        )


def _moved(table: str, part: Part, name: str) -> str:
    """Give the quoted name of a table of the part after the part was renamed."""
    return name if part.table else name + table.removeprefix(part.name)


def _own_place(place: Place) -> Path:
    own = place.root / "part"
    own.mkdir(mode=0o700, exist_ok=True)
    return own


def _quote(connection: Connection, name: str) -> str:
    row = connection.execute("SELECT quote_ident(%s)", [name]).fetchone()
    assert row is not None
    return str(row[0])
