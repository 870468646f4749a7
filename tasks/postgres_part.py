"""Which part of a logical set is meant, how its objects are named, and which entries of the archive it needs."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from recoup.catalog import BackupSet
from recoup.errors import PreconditionError
from recoup.manifest import TableContent
from tasks.postgres_content import SCHEMA_FILE

# NAMEDATALEN - 1
NAME_BYTES = 63
_QUALIFIED = re.compile(r'("(?:[^"]|"")+"|[^".]+)\.(.+)', re.DOTALL)
_ENTRY = re.compile(r"\d+; \d+ \d+ (.*)", re.DOTALL)
# A foreign key needs the rows of another table. The rest acts on the server as a whole, or fills what is not asked for.
_NEVER = (
    "FK CONSTRAINT ", "MATERIALIZED VIEW DATA ", "EVENT TRIGGER ", "PUBLICATION ", "SUBSCRIPTION ", "BLOB",
    "LARGE OBJECT", "STATISTICS DATA ",
)  # fmt: skip
_LINES = ("relation", "column", "constraint", "trigger", "grant", "policy", "type")


@dataclass(frozen=True)
class Part:
    """A table of a set, or with no ``table`` a whole schema; ``name`` is quoted as SQL wants it."""

    schema: str
    table: str
    name: str
    tables: tuple[TableContent, ...]

    @property
    def raw(self) -> str:
        return self.table or self.schema


def find_part(one: BackupSet, wanted: str, schema: str) -> Part:
    """Give the table ``wanted`` of a set, or all of ``schema``; raises PreconditionError naming what is like it."""
    if one.dump is None:
        raise PreconditionError(
            f"{one.set_id} holds no dump whose tables are known",
            next_step="name another with --set; see: recoup backup list",
        )
    tables = one.dump.content.tables
    if schema:
        found = tuple(table for table in tables if schema in (quoted_parts(table.name)[0], _raw(table.name)[0]))
        if not found:
            known = sorted({_raw(table.name)[0] for table in tables})
            raise _unknown(f"schema {schema}", one, known, schema)
        return Part(_raw(found[0].name)[0], "", quoted_parts(found[0].name)[0], found)
    matching = [table for table in tables if wanted in _spellings(table.name)]
    if len(matching) > 1:
        names = ", ".join(table.name for table in matching)
        raise PreconditionError(f"{wanted} may be any of {names}", next_step="name it with its schema")
    if not matching:
        raise _no_table(one, wanted, [table.name for table in tables])
    (table,) = matching
    return Part(*_raw(table.name), table.name, (table,))


def default_name(part: Part, at: datetime) -> str:
    """Give the name that a part is restored under when none is asked for."""
    return fitting(f"{part.raw}_restored_{at:%Y%m%d_%H%M%S}")


def fitting(name: str) -> str:
    """Give a name that PostgreSQL does not cut off: a longer one ends in a digest of what is left out."""
    encoded = name.encode()
    if len(encoded) <= NAME_BYTES:
        return name
    end = "_" + hashlib.sha256(encoded).hexdigest()[:8]
    return encoded[: NAME_BYTES - len(end)].decode("utf-8", "ignore") + end


def renamed(old: str, table: str, new: str, taken: set[str]) -> str:
    """Give the name of an index or sequence of a table that is called ``new`` now, none of ``taken``, and take it."""
    first = new + old.removeprefix(table) if old.startswith(table) else f"{new}_{old}"
    name, number = fitting(first), 1
    while name in taken:
        number += 1
        name = fitting(f"{first}_{number}")
    taken.add(name)
    return name


def entries_of(listing: str, part: Part) -> str:
    """Give the lines of ``pg_restore --list`` that make the whole schema, but fill only the tables of a part."""
    wanted = tuple(_listed(_raw(table.name)) for table in part.tables)

    def kept(line: str) -> bool:
        entry = _ENTRY.fullmatch(line)
        if entry is None or entry[1].startswith(_NEVER):
            return False
        # Names are not quoted there: another table that reads the same is filled as well, which does no harm.
        return not entry[1].startswith("TABLE DATA ") or entry[1].removeprefix("TABLE DATA ").startswith(wanted)

    return "".join(f"{line}\n" for line in listing.split("\n") if kept(line))


def lines_of(lines: Iterable[str], name: str, *, whole_schema: bool) -> frozenset[str]:
    """Give the schema lines of one table, or of all that is in a schema; foreign keys are left out."""
    prefix = f"{name}." if whole_schema else f"{name} "
    starts = tuple(f"{kind} {prefix}" for kind in _LINES)
    on = (f" ON {prefix}", f" ON ONLY {prefix}")
    return frozenset(
        line
        for line in lines
        if (line.startswith(starts) or (line.startswith("index ") and any(one in line for one in on)))
        and not (line.startswith("constraint ") and " FOREIGN KEY (" in line)
    )


def foreign_keys(lines: Sequence[str], part: Part) -> tuple[tuple[str, str, bool], ...]:
    """Give the foreign keys of a part: the table, the definition with its name, and whether it stays inside."""
    inside = f" REFERENCES {part.name}" + ("(" if part.table else ".")
    found = []
    for table in part.tables:
        start = f"constraint {table.name} "
        for line in lines:
            if line.startswith(start) and " FOREIGN KEY (" in line:
                definition = line.removeprefix(start)
                found.append((table.name, definition, inside in definition))
    return tuple(found)


def schema_of(one: BackupSet) -> tuple[str, ...]:
    """Give the schema lines of a set; none when they cannot be read."""
    try:
        return tuple((one.path / SCHEMA_FILE).read_text(encoding="utf-8").splitlines())
    except OSError:
        return ()


def quoted_parts(name: str) -> tuple[str, str]:
    """Give the schema and the table of a quoted ``schema.table``, quoted still."""
    found = _QUALIFIED.fullmatch(name)
    assert found is not None, name
    return found[1], found[2]


def _raw(name: str) -> tuple[str, str]:
    schema, table = (_unquoted(part) for part in quoted_parts(name))
    return schema, table


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _spellings(name: str) -> set[str]:
    raw = _raw(name)
    return {name, ".".join(raw), raw[1], quoted_parts(name)[1]}


def _listed(names: tuple[str, str]) -> str:
    return " ".join(names).replace("\n", " ").replace("\r", " ") + " "


def _no_table(one: BackupSet, wanted: str, names: list[str]) -> PreconditionError:
    spelled = (wanted, f"public.{wanted}")
    for kind, word in (("p", "is partitioned: its rows are in its partitions"), ("v", "is a view"), ("m", "is a view")):
        if any(line.startswith(tuple(f"relation {name} {kind} " for name in spelled)) for line in schema_of(one)):
            return PreconditionError(f"{wanted} {word}", next_step="name one that has rows, or a whole --schema")
    return _unknown(f"table {wanted}", one, names, wanted)


def _unknown(what: str, one: BackupSet, names: list[str], wanted: str) -> PreconditionError:
    like = difflib.get_close_matches(wanted, names, n=5, cutoff=0.5) or names[:5]
    return PreconditionError(
        f"there is no {what} in {one.set_id}", next_step=f"it has: {', '.join(like) or 'no table at all'}"
    )
