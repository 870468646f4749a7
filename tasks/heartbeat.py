"""The heartbeat: a row the database gets every few seconds, by which a recovery point is read from the data itself.

Beside the received WAL lies a witness: the last heartbeat that the receiver is known to have had on its disk. What is
restored to the latest moment must hold it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from pydantic import AwareDatetime, ValidationError

from recoup.errors import RecoupError, first_line
from recoup.manifest import BaseBackup
from recoup.records import Frozen, now
from recoup.wal import on_the_way, parse_lsn
from tasks.postgres import Connection, Role, Server, identity, live_role
from tasks.postgres_standby_build import behind
from tasks.wal_receiver import continuous_of, receiver_of, set_synchronous

WITNESS = "witness.json"
CLOCKS_AGREE = timedelta(seconds=2)
_BEAT = timedelta(seconds=5)

_MAKE = """
CREATE SCHEMA IF NOT EXISTS recoup;
CREATE TABLE IF NOT EXISTS recoup.heartbeat (id int PRIMARY KEY CHECK (id = 1), at timestamptz NOT NULL);
ALTER TABLE recoup.heartbeat ADD COLUMN IF NOT EXISTS count bigint NOT NULL DEFAULT 0
"""
# Counted, for a clock may be set back.
_WRITE = """
INSERT INTO recoup.heartbeat AS was (id, at, count) VALUES (1, clock_timestamp(), 1)
ON CONFLICT (id) DO UPDATE SET at = excluded.at, count = was.count + 1 RETURNING at, count
"""
_NOT_YET = (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedColumn)


class Witness(Frozen):
    """A heartbeat that the receiver had: of which server and timeline, the how-manieth, and the LSN behind it.

    ``at`` is by the server's clock, ``seen`` by that of this machine.
    """

    system_identifier: str
    at: AwareDatetime
    lsn: str
    timeline: int | None = None
    count: int = 0
    seen: AwareDatetime | None = None

    @property
    def ahead(self) -> timedelta:
        """How far the server's clock was ahead of this machine's; zero where they agree as far as can be told."""
        apart = self.at - self.seen if self.seen else timedelta(0)
        return apart if abs(apart) > CLOCKS_AGREE else timedelta(0)

    def demanded(self, dirs: tuple[Path, ...], base: BaseBackup) -> bool:
        """Say whether what is replayed on a base backup must hold it: of this server, and of a history not undone."""
        if self.system_identifier != base.system_identifier:
            return False
        return self.timeline is None or on_the_way(dirs, base, self.timeline, parse_lsn(self.lsn))


def beat(server: Server) -> Witness:
    """Write the heartbeat and give it; never waits for a synchronous standby."""
    with server.connect(statement=_BEAT) as connection:
        connection.execute("SET synchronous_commit = local")
        try:
            row = connection.execute(_WRITE).fetchone()
        except _NOT_YET:
            connection.execute(_MAKE)
            row = connection.execute(_WRITE).fetchone()
        seen = now()
        lsn = connection.execute(
            "SELECT lsn::text, pg_walfile_name(lsn) FROM pg_current_wal_flush_lsn() lsn"
        ).fetchone()
        assert row is not None and isinstance(row[0], datetime) and lsn is not None
        return Witness(
            system_identifier=identity(connection),
            at=row[0].astimezone(UTC),
            lsn=str(lsn[0]),
            timeline=int(str(lsn[1])[:8], 16),
            count=int(str(row[1])),
            seen=seen,
        )


def renew_witness(server: Server, patience: timedelta) -> bool:
    """Write a heartbeat and note it as soon as it was received; False when it was not within that time.

    After a restore the witness there is may be of what the restore has undone.
    """
    policy = continuous_of(server)
    if policy.heartbeat is None:
        return False
    written, until = beat(server), time.monotonic() + patience.total_seconds()
    while time.monotonic() < until:
        found = receiver_of(server)
        if found.streaming and parse_lsn(found.flushed) >= parse_lsn(written.lsn):
            _note(policy.wal, written)
            return True
        time.sleep(0.05)
    return False


def heartbeats(connection: Connection) -> int:
    """Give how many heartbeats a database has had; 0 when they were not counted yet."""
    try:
        row = connection.execute("SELECT count FROM recoup.heartbeat").fetchone()
    except _NOT_YET:
        return 0
    return int(str(row[0])) if row else 0


def last_heartbeat(connection: Connection) -> datetime | None:
    """Give the heartbeat a database holds; None when it never had one."""
    there = connection.execute("SELECT to_regclass('recoup.heartbeat') IS NOT NULL").fetchone()
    if there is None or not there[0]:
        return None
    row = connection.execute("SELECT at FROM recoup.heartbeat").fetchone()
    return row[0].astimezone(UTC) if row and isinstance(row[0], datetime) else None


def witness_of(wal: Path) -> Witness | None:
    """Give the last heartbeat the receiver had; None when there is none that can be read."""
    try:
        return Witness.model_validate_json((wal / WITNESS).read_bytes())
    except (OSError, ValidationError):
        return None


@contextmanager
def watching(
    server: Server, tell: Callable[[str], None], received_again: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Keep watch while the block runs, in a thread of its own."""
    stop = threading.Event()
    watcher = threading.Thread(target=keep_watch, args=(server, stop, tell, received_again), name="watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def keep_watch(
    server: Server,
    stop: threading.Event,
    tell: Callable[[str], None],
    received_again: Callable[[], object] = lambda: None,
) -> None:
    """Write heartbeats and watch the receiver until told to stop; tells of every change, never raises.

    ``received_again`` is called whenever the receiver has come, and must return at once.
    Of a pair of servers it goes with the one that takes writes, and says how the standby is.

    With the policy ``zero-loss`` a receiver that is away for longer than the plan's patience is given up, if the plan
    says ``serve``: commits then no longer wait for it, until it is back.
    """
    policy = continuous_of(server)
    said = ""
    away_since: float | None = None
    pending: Witness | None = None
    streaming = False
    last_beat = 0.0
    while not stop.wait(0.25):
        try:
            found = receiver_of(server)
            away_since = None if found.streaming else away_since or time.monotonic()
            if policy.policy == "zero-loss":
                _hold_to_policy(server, found.streaming, found.synchronous, away_since, tell)
            if pending and found.streaming and parse_lsn(found.flushed) >= parse_lsn(pending.lsn):
                _note(policy.wal, pending)
                pending = None
            if policy.heartbeat and time.monotonic() - last_beat >= policy.heartbeat.total_seconds():
                written = beat(server)
                # The one that is waited for stays: replaced by each newer one, it might never be caught up with.
                pending = pending or written
                last_beat = time.monotonic()
            state = "the WAL is received" if found.streaming else "the WAL is not received"
            if found.lost:
                state += ", and some of it is lost: a new base backup is needed"
            if found.streaming and not streaming:
                received_again()
            streaming = found.streaming
            if server.spec.standby:
                state += "; the standby follows" if behind(server) is not None else "; no standby follows"
        except (RecoupError, psycopg.Error, OSError) as error:
            state = f"no heartbeat: {first_line(error)}"
            # What comes back may be of another history, in which that one was never written.
            pending = None
            server = _taken_over(server) or server
        if state != said:
            tell(state)
            said = state


def _taken_over(server: Server) -> Server | None:
    """Give the other one of the pair if that one takes writes now."""
    try:
        other = server.other() if server.spec.standby else None
        return other if other and live_role(other) is Role.PRIMARY else None
    except RecoupError:
        return None


def _hold_to_policy(
    server: Server, streaming: bool, synchronous: bool, away_since: float | None, tell: Callable[[str], None]
) -> None:
    policy = continuous_of(server)
    with server.connect(server.spec.maintenance_database) as connection:
        row = connection.execute("SHOW synchronous_standby_names").fetchone()
    waits = bool(row and row[0])
    if streaming and not waits:
        set_synchronous(server, waits=True)
        tell("the receiver is back: each commit waits for it again")
    elif (
        waits
        and away_since is not None
        and policy.without_receiver == "serve"
        and time.monotonic() - away_since > policy.patience.total_seconds()
    ):
        set_synchronous(server, waits=False)
        tell(f"the receiver is away for more than {policy.patience}: commits no longer wait for it, a loss is possible")


def _note(wal: Path, witness: Witness) -> None:
    new = wal / f"{WITNESS}.{os.getpid()}.new"
    new.write_text(witness.model_dump_json(), encoding="utf-8")
    new.rename(wal / WITNESS)
