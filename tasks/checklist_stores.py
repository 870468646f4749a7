"""Checklist: whether the stores can be read and written, and whether their backups run."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import uuid4

import psycopg
import redis

from recoup.clock import human
from recoup.errors import RecoupError, first_line
from recoup.plan import Plan, PostgresComponent, RedisComponent
from recoup.readiness import StoreSeen, judge
from recoup.records import now
from recoup.secrets import resolve
from recoup.stacks import Stack
from tasks.checklist_found import PATIENCE, Found, failed, passed, together, unproven
from tasks.postgres import Server
from tasks.redis_server import RedisServer, text
from tasks.standing import stores_seen

_MAKE = """
CREATE SCHEMA IF NOT EXISTS recoup;
CREATE TABLE IF NOT EXISTS recoup.checklist (id int PRIMARY KEY CHECK (id = 1), mark text NOT NULL)
"""
_WRITE = "INSERT INTO recoup.checklist (id, mark) VALUES (1, %s) ON CONFLICT (id) DO UPDATE SET mark = excluded.mark"
_NOT_YET = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName)
_KEY_LASTS = "60"


def database_connects(plan: Plan, stack: Stack) -> Found:
    """A row of recoup's own schema is written, and read back by another connection."""
    of = [name for name, one in plan.components.items() if isinstance(one, PostgresComponent)]
    return together((_database(plan, stack, name) for name in of), "the plan has no database")


def redis_connects(plan: Plan, stack: Stack) -> Found:
    """A key of recoup's own is written, read and deleted; it would expire by itself."""
    of = [name for name, one in plan.components.items() if isinstance(one, RedisComponent)]
    return together((_redis(plan, stack, name) for name in of), "the plan has no Redis")


def backups_run(plan: Plan, stack: Stack) -> Found:
    """Each store's newest set, or its WAL, is within the RPO, and a proven set is no older than the schedule allows."""
    # How many copies there are elsewhere is what recoup ready asks; looking there can take long.
    here = plan.model_copy(update={"platform": plan.platform.model_copy(update={"copies": ()})})
    moment = now()
    parts = (of_store(store, moment) for store in stores_seen(here))
    return together(parts, "the plan has no store that is backed up")


def of_store(store: StoreSeen, moment: datetime) -> Found:
    """Judge the backups of one store."""
    age = next(one for one in judge((store,), moment) if one.asked == "RPO")
    if not age.met:
        return failed(f"{store.name}: {age.why}")
    if store.proven is None:
        return unproven(f"{store.name}: no set's restore test has passed")
    old = max(moment - store.proven, timedelta(0))
    # A store whose objective is 0 gets a set only when something has changed.
    if store.rpo and old > max(store.rpo, 2 * store.interval):
        due = f"one is due every {human(store.interval)}: the schedule stands still, or its restore tests fail"
        return failed(f"{store.name}: the newest proven set is {human(old)} old, and {due}")
    return passed(f"{store.name}: newest proven set {human(old)} old")


def _database(plan: Plan, stack: Stack, name: str) -> Found:
    # A secret that is not there says nothing about the database.
    resolve(plan.postgres(name)[1].password)
    mark = uuid4().hex
    try:
        server = Server.of(plan, stack, name)
        with server.connect(statement=PATIENCE) as connection:
            try:
                connection.execute(_WRITE, (mark,))
            except _NOT_YET:
                connection.execute(_MAKE)
                connection.execute(_WRITE, (mark,))
        with server.connect(statement=PATIENCE) as connection:
            row = connection.execute("SELECT mark FROM recoup.checklist").fetchone()
    except (RecoupError, psycopg.Error) as error:
        return failed(f"{name}: {first_line(error)}")
    if row is None or row[0] != mark:
        return failed(f"{name}: what was written is not what is read")
    return passed(f"{name}: written and read back in {server.spec.database} as {server.spec.user}")


def _redis(plan: Plan, stack: Stack, name: str) -> Found:
    server = RedisServer.of(plan, stack, name)
    if server.spec.password:
        resolve(server.spec.password)
    key = mark = f"recoup:checklist:{uuid4().hex}"
    try:
        with server.connect(answer=PATIENCE) as link:
            link.ask("SET", key, mark, "EX", _KEY_LASTS)
            there = text(link.ask("GET", key))
            link.ask("DEL", key)
            gone = link.ask("GET", key) is None
    except (RecoupError, redis.RedisError) as error:
        return failed(f"{name}: {first_line(error)}")
    if there != mark or not gone:
        return failed(f"{name}: what was written is not what is read")
    return passed(f"{name}: a key written, read and deleted")
