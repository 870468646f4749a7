"""What state a PostgreSQL server and its data are in, and its restart.

A server that answers may be damaged, or not be the one that was backed up at all.
"""

from __future__ import annotations

from datetime import timedelta

import psycopg

from recoup.catalog import Repository, base_series
from recoup.errors import RecoveryError
from recoup.manifest import DatabaseDump
from tasks.postgres import (
    MAKING,
    RESTORED,
    Condition,
    Connection,
    Diagnosis,
    Role,
    Server,
    answers,
    comment_of,
    identity,
    refusal,
    role_of,
    wait_until_it_answers,
)
from tasks.postgres_content import relations, unreadable
from tasks.step import note, step


def look(server: Server, repository: Repository, *, read_all: bool = True) -> Diagnosis:
    """Say what state the server and its data are in, against the newest backup set.

    Damaged means: it answers, but relations of the newest set are gone, a table cannot be read to its end, or the
    data directory is not the one that was backed up (an image that finds its directory empty makes a new, empty
    database and calls itself healthy).
    """
    found = answers(server)
    return look_at_data(server, repository, read_all=read_all) if found.condition is Condition.HEALTHY else found


def look_at_data(server: Server, repository: Repository, *, read_all: bool = True) -> Diagnosis:
    """Say what state the data of a server are in that answers, whether it takes writes or follows; see look."""
    newest = next((one.dump for one in repository.sets(server.spec.store) if one.dump), None)
    known = _known_server(server, repository)
    try:
        with server.connect(statement=server.spec.scan_timeout) as connection:
            missing = _missing(connection, newest)
            replaced = (
                known is not None
                and identity(connection) != known
                and not comment_of(connection, server.spec.database).startswith(RESTORED)
            )
            broken = unreadable(connection, note) if read_all else ()
    except psycopg.Error as error:
        return refusal(error)
    reasons = [
        *([f"tables of the last backup are gone: {', '.join(missing)}"] if missing else []),
        *([f"tables cannot be read: {'; '.join(broken)}"] if broken else []),
        *(["the data directory is not the one that was backed up"] if replaced else []),
    ]
    if reasons:
        return Diagnosis(
            condition=Condition.DAMAGED, seen="; ".join(reasons), missing=missing, unreadable=broken, replaced=replaced
        )
    return Diagnosis(
        condition=Condition.HEALTHY,
        seen="it answers and every table was read" if read_all else "it answers and no table is missing",
    )


@step(timeout=timedelta(minutes=15))
def diagnose_database(server: Server, repository: Repository, known: bool = False) -> Diagnosis:
    """Give the condition of the server; changes nothing. ``known``: it had data, with a set of them here or not."""
    found = look(server, repository)
    # Only with sets to restore: a server that never had data is started like any other.
    restorable = known or _known_server(server, repository)
    if found.condition is Condition.DOWN and restorable and (what := _no_data(server)):
        return found.model_copy(update={"seen": f"{found.seen}, its data directory is {what}", "emptied": True})
    if server.spec.standby and found.condition is not Condition.HEALTHY and role_of(server) is Role.FENCED:
        return found.model_copy(update={"seen": f"{found.seen}; it is fenced", "fenced": True})
    return found


def _known_server(server: Server, repository: Repository) -> str | None:
    """Give the system identifier of the server that was backed up last, in whatever way; None: never."""
    found = [
        (one.manifest.recovery_point, known.system_identifier)
        for series in (server.spec.store, base_series(server.spec.store))
        for one in repository.sets(series)
        if one.manifest and (known := one.dump or one.base)
    ]
    return max(found)[1] if found else None


def _no_data(server: Server) -> str:
    """Say what a data directory is that must not be started; empty when it is one like any other.

    On an empty one an image would make a new cluster and take writes. What a recovery made that never ended was not
    found to be all that had been received, or could not be looked at.
    """
    unfinished = "what a recovery made that did not end"
    test = (
        f'[ -n "$PGDATA" ] || exit 0; if [ -e "$PGDATA/{MAKING}" ]; then echo "{unfinished}"; '
        'elif [ ! -s "$PGDATA/PG_VERSION" ]; then echo empty; fi'
    )
    try:
        done = server.stack.beside(server.spec.service, ("sh", "-c", test), timeout=timedelta(minutes=1), check=False)
    except RecoveryError:
        return ""
    return done.text if done.text in ("empty", unfinished) else ""


@step(timeout=timedelta(minutes=20), retries=1)
def restart_database(server: Server, repository: Repository, starting: bool) -> Diagnosis:
    """Restart the server and give its condition once it answers or its time is up; changes no data.

    One that is ``starting`` is given its time first: a restart would throw its crash recovery away.
    """
    if starting and wait_until_it_answers(server).condition is Condition.HEALTHY:
        return look(server, repository)
    note(f"restarting {server.spec.service}")
    try:
        server.stack.restart(server.spec.service)
    except RecoveryError as error:
        return Diagnosis(condition=Condition.DOWN, seen=f"the restart failed: {error.what}")
    found = wait_until_it_answers(server)
    return found if found.condition is not Condition.HEALTHY else look(server, repository)


def _missing(connection: Connection, newest: DatabaseDump | None) -> tuple[str, ...]:
    if newest is None:
        return ()
    there = {name for name, _ in relations(connection)}
    return tuple(table.name for table in newest.content.tables if table.name not in there)
