"""The receiver of a PostgreSQL server's WAL: what the server must be set to, whether it streams, who waits for it."""

from __future__ import annotations

import time
from datetime import timedelta

import psycopg
from psycopg import sql

from recoup.errors import PreconditionError, RecoveryError, first_line
from recoup.plan import ContinuousPolicy
from recoup.records import Frozen
from tasks.postgres import Connection, Server
from tasks.step import note, step

# What pg_receivewal calls itself, and so what synchronous_standby_names names.
NAME = "recoup"
SUMMARIES = 170000


class Receiver(Frozen):
    """What the server says of the receiver: ``flushed`` is the LSN on its disk, ``behind`` and ``kept`` are bytes.

    ``lost``: the server has removed WAL that was not received, as it may beyond ``slot_keep``.
    """

    streaming: bool
    synchronous: bool
    flushed: str = ""
    behind: int = 0
    kept: int = 0
    lost: bool = False

    def __str__(self) -> str:
        if self.lost:
            return "no receiver; the server has removed WAL that was not received: its slot is lost"
        if not self.streaming:
            return f"no receiver; the server keeps {self.kept / 1e6:.0f} MB of WAL for it"
        waits = "the server waits for it" if self.synchronous else "asynchronous"
        return f"receiving, {self.behind} bytes behind, {waits}"


def continuous_of(server: Server) -> ContinuousPolicy:
    """Give the server's policy of continuous backup; PreconditionError when the plan has none."""
    if server.spec.continuous is None:
        raise PreconditionError(
            f"the plan has no continuous backup for {server.component}",
            next_step="add components.*.continuous to the plan, or use the dumps",
        )
    return server.spec.continuous


def receiver_of(server: Server) -> Receiver:
    """Ask the server for its receiver."""
    policy = continuous_of(server)
    with server.connect(server.spec.maintenance_database) as connection:
        row = connection.execute(
            "SELECT state = 'streaming', sync_state = 'sync', flush_lsn::text, "
            "pg_wal_lsn_diff(pg_current_wal_flush_lsn(), coalesce(flush_lsn, '0/0'))::bigint "
            "FROM pg_stat_replication WHERE application_name = %s ORDER BY 1 DESC LIMIT 1",
            [NAME],
        ).fetchone()
        slot = connection.execute(
            "SELECT coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, wal_status = 'lost' "
            "FROM pg_replication_slots WHERE slot_name = %s",
            [policy.slot],
        ).fetchone()
    kept = int(str(slot[0])) if slot else 0
    if row is None or not row[0] or row[2] is None:
        return Receiver(streaming=False, synchronous=False, kept=kept, lost=bool(slot and slot[1]))
    return Receiver(
        streaming=True, synchronous=bool(row[1]), flushed=str(row[2]), behind=max(0, int(str(row[3]))), kept=kept
    )


@step(timeout=timedelta(minutes=5), retries=1)
def prepare_continuous(server: Server) -> Receiver:
    """Have the server's WAL received; see have_it_received."""
    try:
        return have_it_received(server)
    except psycopg.Error as error:
        raise RecoveryError(
            f"{server.component} went away: {first_line(error)}",
            state="its WAL may not be received",
            next_step="see that it runs, then try again",
        ) from None


def have_it_received(server: Server) -> Receiver:
    """Set the server to what continuous backup needs, see that its WAL is received, and give the receiver's state.

    Every setting takes effect without a restart; PreconditionError for those that would need one.
    """
    policy = continuous_of(server)
    with server.connect(server.spec.maintenance_database) as connection:
        _see_what_needs_a_restart(connection)
        wanted = {"max_slot_wal_keep_size": policy.slot_keep}
        if policy.incremental and connection.info.server_version >= SUMMARIES:
            wanted["summarize_wal"] = "on"
        for name, value in wanted.items():
            alter_system(connection, name, value)
        connection.execute("SELECT pg_reload_conf()")
    if not receiver_of(server).streaming:
        # One that runs may be waiting, ever longer, before it tries again.
        note(f"starting {policy.receiver}")
        server.stack.restart(policy.receiver)
    found = wait_for_receiver(server, timedelta(seconds=60))
    if policy.policy == "zero-loss":
        set_synchronous(server, waits=True)
        found = wait_for_receiver(server, timedelta(seconds=10), synchronous=True)
    return found


def wait_for_receiver(server: Server, patience: timedelta, *, synchronous: bool = False) -> Receiver:
    """Wait until the WAL is streamed to the receiver; RecoveryError with the receiver's last words otherwise."""
    policy = continuous_of(server)
    until = time.monotonic() + patience.total_seconds()
    while True:
        found = receiver_of(server)
        if found.streaming and (found.synchronous or not synchronous):
            return found
        if time.monotonic() > until:
            said = " / ".join(server.stack.logs(policy.receiver, tail=4).splitlines())
            raise RecoveryError(
                f"the WAL of {server.component} is not received after {patience.total_seconds():.0f} s: {said}",
                state="the server runs; what it writes now is in its own WAL alone",
                next_step=f"mend what the log of {policy.receiver} names",
            )
        time.sleep(0.1)


def set_synchronous(server: Server, *, waits: bool) -> None:
    """Let each commit wait for the receiver, or for nobody; takes effect at once, also for commits that hang."""
    with server.connect(server.spec.maintenance_database) as connection:
        # A hanging commit must not be waited for by the very session that is to free it.
        connection.execute("SET synchronous_commit = local")
        alter_system(connection, "synchronous_standby_names", NAME if waits else "")
        connection.execute("SELECT pg_reload_conf()")


def alter_system(connection: Connection, name: str, value: str | None) -> None:
    """Set what the server is to go by from its next reload on; None: what its files say."""
    if value is None:
        connection.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
        return
    connection.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))


def _see_what_needs_a_restart(connection: Connection) -> None:
    rows = connection.execute(
        "SELECT name, setting FROM pg_settings "
        "WHERE name IN ('wal_level', 'max_wal_senders', 'max_replication_slots', 'fsync', 'full_page_writes')"
    ).fetchall()
    found = {str(name): str(setting) for name, setting in rows}
    wrong = [
        *([f"wal_level={found['wal_level']}"] if found["wal_level"] == "minimal" else []),
        *(f"{name}=0" for name in ("max_wal_senders", "max_replication_slots") if found[name] == "0"),
        *(f"{name}=off" for name in ("fsync", "full_page_writes") if found[name] == "off"),
    ]
    if wrong:
        raise PreconditionError(
            f"the server's settings do not allow continuous backup: {', '.join(wrong)}",
            next_step="set wal_level=replica, leave the others at their defaults, and restart the server once",
        )
