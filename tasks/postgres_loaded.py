"""A part of a set after it was loaded: what a dump of one table leaves out is added, and all of it compared."""

from __future__ import annotations

import re
from dataclasses import dataclass

from psycopg import sql

from recoup.manifest import TableContent
from tasks.postgres import Connection, quoted
from tasks.postgres_content import comparable, hashes_values, measure, schema_lines
from tasks.postgres_part import lines_of
from tasks.step import note

_GRANT = re.compile(r"grant (.+) (\w+) [tf] to (.+)", re.DOTALL)
_COLUMN_GRANTS = """
SELECT c.oid::regclass::text, a.attname, x.privilege_type, coalesce(r.rolname, 'public'), x.is_grantable
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid, aclexplode(a.attacl) x
  LEFT JOIN pg_roles r ON r.oid = x.grantee
  WHERE NOT a.attisdropped AND c.oid = ANY(%s::text[]::regclass[])
"""
_STATISTICS = """
SELECT format('%%I.%%I', n.nspname, s.stxname), pg_get_statisticsobjdef(s.oid)
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
  WHERE s.stxrelid = ANY(%s::text[]::regclass[]) ORDER BY 1
"""


@dataclass(frozen=True)
class ColumnGrant:
    table: str
    column: str
    privilege: str
    role: str
    grantable: bool


@dataclass(frozen=True)
class Likeness:
    """All that is compared of a part; ``statistics`` are the statements that make its extended statistics."""

    lines: frozenset[str]
    tables: tuple[TableContent, ...]
    column_grants: frozenset[ColumnGrant]
    statistics: frozenset[tuple[str, str]]


def likeness(connection: Connection, name: str, tables: tuple[TableContent, ...], *, whole_schema: bool) -> Likeness:
    """Give what is there of a part that is called ``name``, its tables read to their end."""
    names = [table.name for table in tables]
    grants = connection.execute(_COLUMN_GRANTS, [names]).fetchall()
    return Likeness(
        lines=comparable(lines_of(schema_lines(connection), name, whole_schema=whole_schema)),
        tables=tuple(_measured(connection, table) for table in tables),
        column_grants=frozenset(ColumnGrant(str(t), str(c), str(p), str(r), bool(g)) for t, c, p, r, g in grants),
        statistics=frozenset((str(n), str(d)) for n, d in connection.execute(_STATISTICS, [names]).fetchall()),
    )


def finish(connection: Connection, name: str, expected: Likeness, *, whole_schema: bool) -> list[str]:
    """Make a loaded part the same as it was in its throwaway server, and say what of it still is not."""
    with connection.transaction():
        names = [table.name for table in expected.tables]
        there = {str(row[0]) for row in connection.execute(_STATISTICS, [names]).fetchall()}
        for statistics, definition in sorted(expected.statistics):
            if statistics not in there:
                # The server's own words.
                connection.execute(definition.encode())
        found = comparable(lines_of(schema_lines(connection), name, whole_schema=whole_schema))
        # What this database grants on every new table by itself was not granted on the one that was backed up.
        for line in sorted(found - expected.lines):
            _revoke(connection, line)
        # A privilege that is revoked on a table is revoked on each of its columns too.
        for grant in sorted(expected.column_grants, key=repr):
            _grant(connection, grant)
    seen = likeness(connection, name, expected.tables, whole_schema=whole_schema)
    wrong = sorted(expected.lines ^ seen.lines)
    wrong += [f"rights on {g.table}.{g.column}" for g in sorted(expected.column_grants ^ seen.column_grants, key=repr)]
    wrong += [f"statistics {n}" for n, _ in sorted(expected.statistics ^ seen.statistics)]
    wrong += [f"the rows of {a.name}" for a, b in zip(expected.tables, seen.tables, strict=True) if a != b]
    return wrong


def _measured(connection: Connection, table: TableContent) -> TableContent:
    note(f"reading {table.name} ({table.rows:,} rows)")
    return measure(connection, table.name, table.hashed if hashes_values(connection) else "text")


def _revoke(connection: Connection, line: str) -> None:
    grant = _GRANT.fullmatch(line)
    if grant is None:
        return
    relation, privilege, role = grant.groups()
    sequence = connection.execute(
        "SELECT FROM pg_class WHERE oid = %s::regclass AND relkind = 'S'", [relation]
    ).fetchone()
    connection.execute(
        sql.SQL("REVOKE {} ON {} {} FROM {}").format(
            sql.SQL(privilege), sql.SQL("SEQUENCE" if sequence is not None else "TABLE"), sql.SQL(relation), _role(role)
        )
    )


def _grant(connection: Connection, grant: ColumnGrant) -> None:
    connection.execute(
        sql.SQL("GRANT {} ({}) ON {} TO {}{}").format(
            sql.SQL(grant.privilege),
            quoted(grant.column),
            sql.SQL(grant.table),
            _role(grant.role),
            sql.SQL(" WITH GRANT OPTION" if grant.grantable else ""),
        )
    )


def _role(name: str) -> sql.Composable:
    return sql.SQL("PUBLIC") if name == "public" else quoted(name)
