"""Comparing a PostgreSQL database with what was backed up, and seeing that the one in use is whole."""

from __future__ import annotations

from datetime import timedelta

from recoup.catalog import BackupSet, Repository
from recoup.manifest import DatabaseContent
from recoup.records import Check, Frozen, Outcome, Subject
from tasks.postgres import Connection, Server
from tasks.postgres_content import (
    SCHEMA_FILE,
    fingerprint,
    hashes_values,
    measure,
    portable,
    relations,
    schema_lines,
    sequences,
    unreadable,
    unsound,
)
from tasks.step import note, step

COMPARE = timedelta(hours=4)


class Looked(Frozen):
    """Checks that were made."""

    checks: tuple[Check, ...]

    def __str__(self) -> str:
        passed = sum(check.outcome is Outcome.PASSED for check in self.checks)
        return f"{passed} of {len(self.checks)} checks passed"


@step(timeout=timedelta(hours=1), retries=1)
def check_integrity(server: Server, repository: Repository, set_id: str, proven: bool = False) -> Looked:
    """Check the database in use: no table of the named set is missing, every table is readable, all is valid.

    ``proven``: that these are the data that were there before is known already.
    """
    known = [one.dump for one in repository.sets(server.spec.store) if one.dump]
    expected = repository.get(server.spec.store, set_id).dump if set_id else None
    # What was not valid when it was last backed up is the owner's affair, not damage.
    before = expected or next(iter(known), None)
    checks = []
    with server.connect(statement=server.spec.scan_timeout) as connection:
        broken = unreadable(connection, note)
        there = {name for name, _ in relations(connection)}
        if expected:
            missing = [table.name for table in expected.content.tables if table.name not in there]
            checks.append(
                _check(
                    "no table of the backup set is missing",
                    f"{len(expected.content.tables)} tables",
                    missing,
                    f"{len(there)} tables",
                )
            )
        if not expected and not known and not proven:
            # An image that finds its directory empty makes a new database that looks healthy.
            checks.append(
                Check(
                    name="the data are those that were there before",
                    subject=Subject.DATA,
                    outcome=Outcome.UNPROVEN,
                    expected="a backup set to know them by",
                    seen=f"no set with a readable manifest in {repository.root}",
                )
            )
        nothing = [] if there else ["there is no table at all"]
        checks.append(
            _check("every table is read to its end", "all tables", [*broken, *nothing], f"{len(there)} tables")
        )
        checks.append(_soundness(connection, before.content.unsound if before else ()))
    return Looked(checks=tuple(checks))


def compare(server: Server, one: BackupSet, target: str) -> tuple[Check, ...]:
    """Compare a restored database with the manifest of its set: content, schema, sequences, validity."""
    with server.connect(target, statement=COMPARE) as connection:
        if one.dump is None:
            return (
                Check(
                    name="content against the manifest",
                    subject=Subject.DATA,
                    outcome=Outcome.UNPROVEN,
                    expected="row counts and digests of the backup",
                    seen="a plain dump has no manifest to compare with",
                ),
                _soundness(connection),
            )
        expected = one.dump.content
        taken, here = one.dump.server_version, connection.info.server_version
        return (
            _content_check(connection, expected),
            _schema_check(connection, expected)
            if taken // 10000 == here // 10000
            else _portable_schema_check(connection, one),
            _sequence_check(connection, expected),
            _soundness(connection, expected.unsound),
        )


def _content_check(connection: Connection, expected: DatabaseContent) -> Check:
    there = {name for name, _ in relations(connection)}
    wrong = []
    for table in expected.tables:
        note(f"comparing {table.name} ({table.rows:,} rows)")
        if table.name not in there:
            wrong.append(f"{table.name} is missing")
            continue
        seen = measure(connection, table.name, table.hashed if hashes_values(connection) else "text")
        # A server too old to hash values can still count them.
        if seen.rows != table.rows or (seen.hashed == table.hashed and seen.digest != table.digest):
            wrong.append(
                f"{table.name} has {seen.rows:,} rows, {table.rows:,} expected"
                if seen.rows != table.rows
                else f"{table.name} differs"
            )
    count = f"{len(expected.tables)} tables, {expected.rows:,} rows"
    return _check("row counts and digests match the manifest", count, wrong, count)


def _schema_check(connection: Connection, expected: DatabaseContent) -> Check:
    seen = fingerprint(schema_lines(connection))
    wrong = [] if seen == expected.schema_fingerprint else [seen[:16]]
    return _check("schema fingerprint matches the backup set", expected.schema_fingerprint[:16], wrong, seen[:16])


def _portable_schema_check(connection: Connection, one: BackupSet) -> Check:
    """Compare what every major version prints alike; the rest is said to be left out."""
    name = "schema matches the backup set, as far as two versions of PostgreSQL print it alike"
    try:
        lines = (one.path / SCHEMA_FILE).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        seen = f"{SCHEMA_FILE} of the set: {error.strerror}"
        return Check(name=name, subject=Subject.DATA, outcome=Outcome.UNPROVEN, expected="all lines", seen=seen)
    expected, found = portable(lines), portable("\n".join(schema_lines(connection)).splitlines())
    wrong = [f"missing: {line}" for line in sorted(expected - found)]
    wrong += [f"not in the set: {line}" for line in sorted(found - expected)]
    return _check(name, f"{len(expected)} lines", wrong, f"{len(found)} lines")


def _sequence_check(connection: Connection, expected: DatabaseContent) -> Check:
    seen = {one.name: one.value for one in sequences(connection)}
    behind = [one.name for one in expected.sequences if seen.get(one.name, -1) < one.value]
    count = f"{len(expected.sequences)} sequences"
    return _check("sequences are not behind the backup", count, behind, count)


def _soundness(connection: Connection, known: tuple[str, ...] = ()) -> Check:
    wrong = [one for one in unsound(connection) if one not in known]
    return _check("constraints and indexes are valid", "all valid", wrong, "all valid")


def _check(name: str, expected: str, wrong: list[str], seen: str) -> Check:
    outcome = Outcome.FAILED if wrong else Outcome.PASSED
    return Check(name=name, subject=Subject.DATA, outcome=outcome, expected=expected, seen="; ".join(wrong[:5]) or seen)
