"""A pair of PostgreSQL servers: what state it is in, and making the one that is not in charge its standby."""

from __future__ import annotations

import time
from datetime import timedelta

import psycopg

from recoup.errors import PreconditionError, RecoupError, RecoveryError, first_line
from recoup.plan import Standby
from recoup.records import Frozen
from tasks.postgres import Role, Server, live_role, pair_script, role_of
from tasks.postgres_progress import copying
from tasks.step import note, step

COPY = timedelta(hours=12)
FOLLOWS = timedelta(seconds=15)
_CLEAN = "shut down"


class Pair(Frozen):
    """Who is in charge, what the other one is, and whether it follows; ``behind`` in bytes not yet replayed there."""

    in_charge: str
    takes_writes: bool
    other: str
    role: Role
    streaming: bool
    behind: int = 0

    @property
    def ready(self) -> bool:
        """Say whether the other one could take over."""
        return self.takes_writes and self.streaming

    def __str__(self) -> str:
        first = f"{self.in_charge} takes writes" if self.takes_writes else f"{self.in_charge} is in charge and down"
        if self.streaming:
            return f"{first}; {self.other} follows, {self.behind} bytes behind"
        is_it = "follows nothing" if self.role is Role.STANDBY else f"is {self.role}"
        return f"{first}; {self.other} is no standby: it {is_it}"


class Built(Frozen):
    """The standby that follows now, and where its old data are; ``why`` it does not, when ``service`` is empty."""

    service: str = ""
    how: str = ""
    aside: str = ""
    why: str = ""

    def __str__(self) -> str:
        if not self.service:
            return f"no standby: {self.why}"
        return f"{self.service} follows: {self.how}" + (f"; its old data are at {self.aside}" if self.aside else "")


def pair_of(server: Server) -> Pair:
    """Give the state of the pair of which ``server`` is in charge."""
    other = server.other()
    try:
        lag = behind(server)
        takes_writes = role_of(server) is Role.PRIMARY
    except psycopg.Error:
        lag, takes_writes = None, False
    return Pair(
        in_charge=server.service,
        takes_writes=takes_writes,
        other=other.service,
        role=role_of(other),
        streaming=lag is not None,
        behind=lag or 0,
    )


@step(timeout=COPY, retries=1)
def build_standby(server: Server, label: str) -> Built:
    """Have the other one of the pair follow ``server``, as a new copy unless it follows already; see build."""
    return build(server, label, sound=False)


@step(timeout=COPY)
def see_to_standby(server: Server, label: str, sound: bool) -> Built:
    """Have the other one of the pair follow a server that was just recovered; a failure is told, and undoes nothing."""
    try:
        return build(server, label, sound=sound)
    except (RecoupError, psycopg.Error) as error:
        return Built(why=first_line(error))


def build(server: Server, label: str, *, sound: bool) -> Built:
    """Have the other one of the pair follow ``server``; safe to repeat with the same label.

    Whoever follows, or does when it is started, is left as it is. One that was ``sound`` when it was shut down in good
    order, and so holds nothing that ``server`` does not, simply follows. Any other one's data are moved aside, whole,
    and it becomes a new copy: damage would go on otherwise in what looks like a standby.
    """
    other, standby = server.other(), standby_of(server)
    if (role := live_role(server)) is not Role.PRIMARY:
        raise PreconditionError(
            f"{server.service} takes no writes: {role or 'it does not answer'}",
            next_step="recover it first: recoup recover database",
        )
    _make_slot(server, standby)
    if role_of(other) is Role.STANDBY:
        other.stack.start(other.service)
        # It finds a server again that was just started after a while.
        if streams(server, FOLLOWS):
            return Built(service=other.service, how="it went on")
    env = _environment(server, standby)
    if sound and role_of(other) is Role.FENCED and pair_script(other, "state").text == _CLEAN:
        note(f"{other.service} was shut down in good order; letting it follow {server.service}")
        pair_script(other, "follow", env=env)
        other.stack.start(other.service)
        if streams(server, FOLLOWS):
            return Built(service=other.service, how="its data were those of the other one")
    note(f"moving the data of {other.service} aside")
    other.stack.stop(other.service)
    aside = other.stack.put_aside(other.service, label=label)
    # A copy that an attempt before has finished stays.
    if role_of(other) is not Role.STANDBY:
        pair_script(other, "fence", label)
        note(f"copying {server.service} to {other.service}")
        with copying(server):
            pair_script(other, "clone", env=env, timeout=COPY)
    other.stack.start(other.service)
    if not streams(server, server.spec.restart_timeout):
        said = " / ".join(other.stack.logs(other.service, tail=4).splitlines())
        raise RecoveryError(
            f"{other.service} is a copy of {server.service} and does not follow it: {said}",
            state=f"{server.service} takes writes; the old data of {other.service} are at {aside}",
            next_step="mend what is named, then run: recoup standby build",
        )
    return Built(service=other.service, how="a new copy", aside=aside)


def give_up(server: Server, service: str) -> Server:
    """Give the one of a pair that stays in charge when a person gives the other one up; PreconditionError otherwise."""
    names = (server.service, server.other().service)
    if service not in names:
        raise PreconditionError(f"{service} is none of the pair", next_step=f"name one of: {', '.join(names)}")
    kept = server.other() if service == server.service else server.named(server.service)
    if role_of(kept) is not Role.PRIMARY:
        raise PreconditionError(
            f"{kept.service} would stay in charge and takes no writes: it is {role_of(kept)}",
            next_step=f"start {kept.service} first, or give it up and keep {service}",
        )
    return kept


def standby_of(server: Server) -> Standby:
    """Give the plan's standby of a server; PreconditionError where it has none."""
    server.other()
    assert server.spec.standby is not None
    return server.spec.standby


def behind(server: Server) -> int | None:
    """Give how many bytes the standby has not replayed, None when none follows."""
    standby = standby_of(server)
    with server.connect(server.spec.maintenance_database) as connection:
        row = connection.execute(
            "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), coalesce(replay_lsn, '0/0'))::bigint "
            "FROM pg_stat_replication WHERE application_name = %s AND state = 'streaming'",
            [standby.slot],
        ).fetchone()
    return max(0, int(str(row[0]))) if row else None


def streams(server: Server, patience: timedelta) -> bool:
    """Wait until the standby follows a server, and say whether it does."""
    until = time.monotonic() + patience.total_seconds()
    while behind(server) is None:
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


def _make_slot(server: Server, standby: Standby) -> None:
    with server.connect(server.spec.maintenance_database) as connection:
        connection.execute("SET synchronous_commit = local")
        connection.execute(
            "SELECT pg_create_physical_replication_slot(%s, true) "
            "WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s)",
            [standby.slot, standby.slot],
        )


def _environment(server: Server, standby: Standby) -> dict[str, str]:
    """Give what standby.sh has to know of the server that is to be followed."""
    with server.connect(server.spec.maintenance_database) as connection:
        row = connection.execute("SHOW unix_socket_directories").fetchone()
    assert row is not None
    _, port = server.stack.inside(server.service, server.spec.port)
    return {"SOCKETS": str(row[0]).split(",")[0].strip(), "PEER_PORT": str(port), "SLOT": standby.slot}
