"""What a PostgreSQL database holds: schema fingerprint, rows and digests, read at one snapshot."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import psycopg
from psycopg import sql

from recoup.errors import first_line
from recoup.manifest import Hashed, SequenceValue, TableContent

# The schema's lines, beside the dump in a set.
SCHEMA_FILE = "schema.txt"
Connection = psycopg.Connection[tuple[object, ...]]

_USER_SCHEMA = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"
_NOT_EXTENSION = (
    "NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = {catalog}::regclass AND d.objid = {oid} AND d.deptype = 'e')"
)
_OWN_RELATION = _NOT_EXTENSION.format(catalog="'pg_class'", oid="c.oid")
_OWN_FUNCTION = _NOT_EXTENSION.format(catalog="'pg_proc'", oid="p.oid")
_OWN_TYPE = _NOT_EXTENSION.format(catalog="'pg_type'", oid="t.oid")

_RELATIONS = f"""
SELECT format('%I.%I', n.nspname, c.relname), pg_total_relation_size(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND {_USER_SCHEMA} AND {_OWN_RELATION}
ORDER BY 2 DESC, 1
"""

# Every line that must be the same in a restored database, independent of oids and of dropped columns' gaps.
_SCHEMA = f"""
SELECT format('relation %I.%I %s owner=%s', n.nspname, c.relname, c.relkind, pg_get_userbyid(c.relowner))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r','p','v','m','S','f') AND c.relpersistence <> 't' AND {_USER_SCHEMA} AND {_OWN_RELATION}
UNION ALL
SELECT format('column %I.%I %s %I %s null=%s default=%s generated=%s identity=%s', n.nspname, c.relname,
    row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), a.attname, format_type(a.atttypid, a.atttypmod),
    NOT a.attnotnull, pg_get_expr(ad.adbin, ad.adrelid), a.attgenerated, a.attidentity)
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attrdef ad ON ad.adrelid = c.oid AND ad.adnum = a.attnum
  WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r','p','v','m','f') AND c.relpersistence <> 't'
    AND {_USER_SCHEMA} AND {_OWN_RELATION}
UNION ALL
SELECT format('constraint %I.%I %I %s', n.nspname, c.relname, o.conname, pg_get_constraintdef(o.oid))
  FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE {_USER_SCHEMA} AND {_OWN_RELATION}
UNION ALL
SELECT format('index %s', pg_get_indexdef(i.indexrelid))
  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE {_USER_SCHEMA} AND {_OWN_RELATION}
UNION ALL
SELECT format('view %I.%I %s', n.nspname, c.relname, pg_get_viewdef(c.oid))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('v','m') AND {_USER_SCHEMA} AND {_OWN_RELATION}
UNION ALL
SELECT format('function %s', pg_get_functiondef(p.oid))
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE p.prokind IN ('f','p') AND {_USER_SCHEMA} AND {_OWN_FUNCTION}
UNION ALL
SELECT format('trigger %I.%I %s %s', n.nspname, c.relname, t.tgenabled, pg_get_triggerdef(t.oid))
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE NOT t.tgisinternal AND {_USER_SCHEMA}
UNION ALL
SELECT format('type %I.%I %s %s', n.nspname, t.typname, t.typtype,
    (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid))
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
  WHERE t.typtype IN ('e','d','r') AND {_USER_SCHEMA} AND {_OWN_TYPE}
UNION ALL
SELECT format('policy %I.%I %s', schemaname, tablename, policyname) FROM pg_policies
UNION ALL
SELECT format('grant %I.%I %s %s to %s', n.nspname, c.relname, x.privilege_type, x.is_grantable,
    CASE x.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(x.grantee) END)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
    aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) x
  WHERE c.relkind IN ('r','p','v','m','S','f') AND c.relpersistence <> 't' AND {_USER_SCHEMA} AND {_OWN_RELATION}
UNION ALL
SELECT format('extension %s', extname) FROM pg_extension
"""

_UNSOUND = f"""
SELECT format('constraint %I on %I.%I is not validated', o.conname, n.nspname, c.relname)
  FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE NOT o.convalidated AND {_USER_SCHEMA}
UNION ALL
SELECT format('index %s is not valid', i.indexrelid::regclass)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE NOT i.indisvalid AND {_USER_SCHEMA}
ORDER BY 1
"""


_HASHES: Mapping[Hashed, str] = {
    # A record's hash is a weighted sum of its columns' hashes; hashed once more, values that two rows have exchanged
    # do not cancel out in the sum over all rows.
    "values": "hashtextextended(hash_record_extended((recoup_row_.*), 0)::text, 0)",
    "text": "hashtextextended((recoup_row_.*)::text, 0)",
}
_SAFE_TYPES = (
    "bool", "bpchar", "bytea", "char", "date", "float4", "float8", "int2", "int4", "int8", "jsonb", "numeric", "text",
    "time", "timestamp", "timestamptz", "uuid", "varchar",
)  # fmt: skip
_TYPES = """
SELECT bool_and(n.nspname = 'pg_catalog' AND t.typname = ANY(%(safe)s) AND coalesce(l.collisdeterministic, true))
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace
  LEFT JOIN pg_collation l ON l.oid = a.attcollation
  WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped
"""

# An expression that went through a dump is parsed anew and printed with its casts in other places: a varchar column's
# ``IN ('a', 'b')`` is the common one. Casts and parentheses of such lines are therefore not compared.
_REPARSED = ("constraint ", "index ", "view ", "trigger ", "column ")
_PORTABLE = ("relation ", "column ", "constraint ", "index ", "trigger ", "type ", "policy ", "grant ", "extension ")
_OF_SOME_VERSIONS = re.compile(r"^constraint .* NOT NULL \S+$|^grant .* MAINTAIN \w+ to ")
_NAME = r'(?:"(?:[^"]|"")+"|\w+)'
_CAST = re.compile(
    rf"::{_NAME}(?:\.{_NAME})?(?: varying| precision)?(?:\(\d+(?:,\d+)?\))?(?: with(?:out)? time zone)?(?:\[\])*"
)
_PARENTHESES = str.maketrans("", "", "()")


def relations(connection: Connection) -> tuple[tuple[str, int], ...]:
    """Give each table that holds rows, as a quoted ``schema.name`` with its size in bytes, largest first."""
    return tuple((str(name), int(str(size))) for name, size in connection.execute(_RELATIONS).fetchall())


def schema_lines(connection: Connection) -> tuple[str, ...]:
    """Give the schema as sorted lines: relations, columns, constraints, indexes, views, functions, triggers, grants."""
    return tuple(sorted(str(row[0]) for row in connection.execute(_SCHEMA).fetchall()))


def fingerprint(lines: Sequence[str]) -> str:
    """Give the SHA-256 of schema lines, in hexadecimal; the same for a schema and for what its dump restores."""
    return hashlib.sha256("\n".join(sorted(map(_as_any_parse_prints_it, lines))).encode()).hexdigest()


def comparable(lines: Iterable[str]) -> frozenset[str]:
    """Give schema lines as they compare equal to those of what a dump of them restores."""
    return frozenset(map(_as_any_parse_prints_it, lines))


def portable(lines: Iterable[str]) -> frozenset[str]:
    """Give those schema lines that two major versions print alike, for a comparison across them.

    Left out are the bodies of views and functions (16 qualifies columns otherwise than 15), the privilege MAINTAIN
    (new in 17), and the NOT NULL constraints that 18 gives a name: each column's line says as much.
    """
    kept = (line for line in lines if line.startswith(_PORTABLE))
    return frozenset(_as_any_parse_prints_it(line) for line in kept if not _OF_SOME_VERSIONS.search(line))


def _as_any_parse_prints_it(line: str) -> str:
    if not line.startswith(_REPARSED):
        return line
    # A column's type stands before its default and is compared as it is.
    kept, default, expression = line.partition(" default=") if line.startswith("column ") else ("", "", line)
    return kept + default + _CAST.sub("", expression).translate(_PARENTHESES)


def unsound(connection: Connection) -> tuple[str, ...]:
    """Name the constraints that were never validated and the indexes that are not valid."""
    return tuple(str(row[0]) for row in connection.execute(_UNSOUND).fetchall())


def hashes_values(connection: Connection) -> bool:
    """Say whether the server can hash a row's values; such a hash is the same in all versions that can.

    Hash indexes are carried over to a new major version as they are, so the functions behind them may not change.
    """
    return connection.info.server_version >= 140000


def best_hash(connection: Connection, table: str) -> Hashed:
    """Say what of a table's rows is best hashed: their values, which takes less than half the time, where that is safe.

    Safe are types whose hash depends on nothing but the value and tells all values apart that the type's own ``=``
    does; an enum's depends on its oid, an array's not on its bounds, an interval's "=" takes 24 hours for a day.
    """
    if not hashes_values(connection):
        return "text"
    row = connection.execute(_TYPES, {"table": table, "safe": list(_SAFE_TYPES)}).fetchone()
    return "values" if row and row[0] else "text"


def measure(connection: Connection, table: str, hashed: Hashed = "text") -> TableContent:
    """Read a table to its end and give its rows and a digest that does not depend on their order.

    The digest is the sum of a 64-bit hash of each row: it is comparable between servers whose text settings are those
    that ``Server.connect`` sets.
    """
    # The star makes it the row even where a column bears the alias's name.
    query = sql.SQL("SELECT count(*), coalesce(sum({}), 0)::text FROM ONLY {} recoup_row_").format(
        sql.SQL(_HASHES[hashed]), sql.SQL(table)
    )
    row = connection.execute(query).fetchone()
    assert row is not None
    return TableContent(name=table, rows=int(str(row[0])), digest=str(row[1]), hashed=hashed)


def unreadable(connection: Connection, tell: Callable[[str], None]) -> tuple[str, ...]:
    """Read every table to its end and name those that cannot be, with the server's reason; largest first."""
    found = []
    for table, size in relations(connection):
        tell(f"reading {table} ({size / 1e6:.0f} MB)")
        try:
            measure(connection, table)
        except (
            psycopg.errors.InternalError,
            psycopg.errors.UndefinedFile,
            psycopg.errors.IoError,
            psycopg.errors.DataError,
        ) as error:
            found.append(f"{table}: {first_line(error)}")
    return tuple(found)


def sequences(connection: Connection) -> tuple[SequenceValue, ...]:
    """Give the last value of every sequence that was used."""
    rows = connection.execute(
        "SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences "
        "WHERE last_value IS NOT NULL ORDER BY 1"
    ).fetchall()
    return tuple(SequenceValue(name=str(name), value=int(str(value))) for name, value in rows)
