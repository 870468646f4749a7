"""Bring the database to what this version expects: ``python -m app.migrate status|up|down TARGET``.

A migration is a pair of SQL files beside this one, ``migrations/<name>.up.sql`` and, where there is a way back,
``<name>.down.sql``; each is run in one transaction with its line in the table of those applied.
"""

from __future__ import annotations

import sys
from pathlib import Path

import psycopg

from app.settings import Settings

FILES = Path(__file__).resolve().parent / "migrations"
# Two at once would apply one migration twice.
LOCK = 7_340_021


def main(arguments: list[str]) -> None:
    settings = Settings.from_environment()
    with psycopg.connect(
        host=settings.db_host,
        port=settings.db_port,
        dbname=settings.db_name,
        user=settings.db_user,
        password=settings.db_password,
        target_session_attrs="read-write",
        connect_timeout=5,
        autocommit=True,
    ) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        match arguments:
            case ["status"]:
                for name, at in applied(connection):
                    print(f"{name}\t{at}")
            case ["up"]:
                up(connection)
            case ["down", target]:
                down(connection, target)
            case _:
                sys.exit("usage: python -m app.migrate status|up|down TARGET (0: all)")


def applied(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """Give the migrations that the database has, the oldest first, and when they were applied."""
    found = connection.execute("SELECT to_regclass('public.migrations')").fetchone()
    if found is None or found[0] is None:
        return []
    rows = connection.execute("SELECT name, applied FROM public.migrations ORDER BY applied, name").fetchall()
    return [(str(name), at.isoformat()) for name, at in rows]


def up(connection: psycopg.Connection) -> None:
    """Apply what the database lacks."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS public.migrations "
        "(name text PRIMARY KEY, applied timestamptz NOT NULL DEFAULT clock_timestamp())"
    )
    there = {name for name, _ in applied(connection)}
    for file in sorted(FILES.glob("*.up.sql")):
        name = file.name.removesuffix(".up.sql")
        if name not in there:
            with connection.transaction():
                connection.execute(file.read_bytes())
                connection.execute("INSERT INTO public.migrations (name) VALUES (%s)", (name,))


def down(connection: psycopg.Connection, target: str) -> None:
    """Undo what was applied after ``target``, the newest first."""
    names = [name for name, _ in applied(connection)]
    if target != "0" and target not in names:
        sys.exit(f"{target} is not applied; applied: {', '.join(names) or 'none'}")
    for name in reversed(names[names.index(target) + 1 :] if target != "0" else names):
        file = FILES / f"{name}.down.sql"
        if not file.is_file():
            sys.exit(f"{name} cannot be undone: {file.name} is not there")
        with connection.transaction():
            connection.execute(file.read_bytes())
            connection.execute("DELETE FROM public.migrations WHERE name = %s", (name,))


if __name__ == "__main__":
    main(sys.argv[1:])
