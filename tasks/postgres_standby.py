"""A warm standby of a PostgreSQL server: whether it can take over, fencing the old one, promotion."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from recoup.catalog import Repository
from recoup.errors import RecoupError, RecoveryError, first_line
from recoup.manifest import BaseBackup
from recoup.records import Check, Frozen, Outcome
from recoup.wal import parse_lsn, timeline_of
from tasks.heartbeat import Witness
from tasks.postgres import Condition, Role, Server, answers, follows, identity, live_role, pair_script
from tasks.postgres_choice import overtaken
from tasks.postgres_diagnosis import look_at_data
from tasks.postgres_replay import REPLAYED, Received, by_our_clock, nothing_is_left, where_it_is
from tasks.postgres_standby_build import standby_of, streams
from tasks.step import note, step
from tasks.wal_receiver import alter_system
from tasks.wal_scan import all_received_until

PROMOTE = timedelta(seconds=60)
# Seconds for which a standby tries to read on where nobody can tell whether there is more.
TRIED = 3.0


class StandbyChosen(Frozen):
    """The standby that can take over from ``instead_of``; with an empty ``service`` none can, and ``why`` says why.

    ``position`` is where it stands, as if it were a base backup that ends there, ``newest`` the newest timeline of what
    was received, ``witness`` the last heartbeat of that.
    """

    service: str = ""
    instead_of: str = ""
    position: BaseBackup | None = None
    newest: int = 0
    witness: Witness | None = None
    why: str = ""

    def __str__(self) -> str:
        return f"{self.service} can take over: {self.why}" if self.service else f"no: {self.why}"


class Fenced(Frozen):
    """A server that was stopped and takes no writes, whoever starts it."""

    service: str

    def __str__(self) -> str:
        return f"{self.service} is stopped, and would not take writes if it were started"


class Promoted(Frozen):
    """A standby that took over; not ``done`` when it could not be brought to all that had been received."""

    done: bool
    service: str
    reached: str = ""
    recovery_point: datetime | None = None
    checks: tuple[Check, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        if not self.done:
            return f"not promoted: {self.why}"
        point = f", data up to {self.recovery_point.astimezone(UTC):%H:%M:%S.%f} UTC" if self.recovery_point else ""
        return f"{self.service} takes writes from {self.reached} on{point}"


@step(timeout=timedelta(minutes=10))
def choose_standby(server: Server, repository: Repository) -> StandbyChosen:
    """Say whether the standby can take over; see find_standby.

    While the old one still takes writes it must follow: what is written between the two would be lost.
    """
    standby = standby_of(server)
    if live_role(server) is Role.PRIMARY:
        note(f"waiting until {standby.service} follows {server.service}, which still takes writes")
        if not streams(server, standby.patience):
            return StandbyChosen(why=f"{standby.service} does not follow {server.service}, which still takes writes")
    return find_standby(server, repository)


def find_standby(server: Server, repository: Repository) -> StandbyChosen:
    """Say whether the standby follows the very database that was backed up, and has every table of the last set."""
    standby = server.other()
    found = answers(standby)
    if found.condition is not Condition.FOLLOWING:
        return StandbyChosen(why=f"{standby.service} is {found}")
    found = look_at_data(standby, repository, read_all=False)
    if found.condition is not Condition.HEALTHY:
        return StandbyChosen(why=f"{standby.service} is {found}")
    try:
        position = _position(standby)
        there = Received.since(standby, position)
        signs = (all_received_until(standby, there.dirs, position), where_it_is(standby)[1])
    except (psycopg.Error, OSError) as error:
        return StandbyChosen(why=f"{standby.service} cannot be looked at: {first_line(error)}")
    if there.end.wrong:
        return StandbyChosen(why=f"it stands at {position.start_lsn}, and of what was received {there.end.wrong}")
    if why := overtaken(server, repository, max((one for one in signs if one), default=None)):
        return StandbyChosen(why=why)
    return StandbyChosen(
        service=standby.service,
        instead_of=server.service,
        position=position,
        witness=there.witness,
        newest=max((timeline_of(place) for place in there.dirs), default=position.timeline),
        why="it follows, and no table of the last backup is missing",
    )


@step(timeout=timedelta(minutes=10), retries=2)
def fence_primary(server: Server, label: str) -> Fenced:
    """Stop a server and let it never take writes again until it is built anew; safe to repeat.

    Raises RecoveryError when that is not certain: two servers that take writes are worse than none.
    """
    note(f"stopping {server.service}")
    server.stack.stop(server.service)
    note(f"fencing {server.service}")
    try:
        pair_script(server, "fence", label)
    except RecoupError as error:
        raise RecoveryError(
            f"{server.service} cannot be fenced: {error.what}",
            state=f"{server.service} is stopped; its standby was not promoted",
            next_step="mend what is named and run the recovery again; without its standby: --from continuous",
        ) from None
    state = server.stack.state(server.service)
    if state.running:
        raise RecoveryError(
            f"{server.service} was stopped and runs again: {state.status}",
            state="it is fenced, and takes no writes from its next start on; its standby was not promoted",
            next_step=f"see what starts {server.service}, then run the recovery again",
        )
    return Fenced(service=server.service)


@step(timeout=timedelta(hours=1), retries=1)
def promote_standby(server: Server, chosen: StandbyChosen) -> Promoted:
    """Bring a standby to all that had been received, then let it take writes; safe to repeat.

    Where it cannot be brought there nothing is promoted, and ``why`` says what lacks. Raises RecoveryError when it was
    told to take over and did not.
    """
    position = chosen.position
    assert position is not None
    # What is received of it once it takes writes is of a newer timeline, and nothing it could lack.
    there = Received.since(server, position, newest=chosen.newest)
    with server.connect(server.spec.maintenance_database) as connection:
        following = follows(connection)
    if following:
        if why := _lacks(server, position, there):
            return Promoted(done=False, service=server.service, why=why)
        note(f"promoting {server.service}")
        _promote(server)
    reached, point = where_it_is(server)
    if not following:
        # By now there is one of the new primary.
        there = replace(there, witness=chosen.witness)
    checks = nothing_is_left(server, position, there, reached)
    _take_received(server, None)
    failed = [check for check in checks if check.outcome is Outcome.FAILED]
    if failed:
        raise RecoveryError(
            "what was promoted is not what was received: " + "; ".join(f"{c.name}: {c.seen}" for c in failed),
            state=f"{server.service} takes writes; the server before it is fenced",
            next_step="to bring back what lacks: recoup recover database --from continuous --restore always",
        )
    return Promoted(
        done=True, service=server.service, reached=reached, recovery_point=by_our_clock(server, point), checks=checks
    )


def restore_command(dirs: Sequence[Path], segment_size: int) -> str:
    """Give the command by which a standby takes received WAL, what was being received at the end too."""
    places = " ".join(f"'{directory}'" for directory in dirs)
    return (
        f"for d in {places}; do for s in '' .partial; do "
        'if [ -f "$d/%f$s" ]; then cp "$d/%f$s" "%p" && '
        # A segment cut off by a full disk is too short, and PostgreSQL takes none of another size.
        f'{{ [ -z "$s" ] || truncate -s {segment_size} "%p"; }}; exit; fi; done; done; exit 1'
    )


def _lacks(server: Server, position: BaseBackup, there: Received) -> str:
    """Wait until a standby has replayed all that had been received, with our help where needed; else say what lacks."""
    until = time.monotonic() + standby_of(server).patience.total_seconds()
    helped = 0.0
    while True:
        with server.connect(server.spec.maintenance_database) as connection:
            row = connection.execute(
                "SELECT pg_last_wal_replay_lsn()::text, coalesce(pg_last_wal_receive_lsn(), '0/0')::text"
            ).fetchone()
        assert row is not None
        reached, streamed = str(row[0]), str(row[1])
        checks = nothing_is_left(server, position, there, reached)
        lacking = "; ".join(f"{c.name}: {c.seen}" for c in checks if c.outcome is Outcome.FAILED)
        # What cannot be told may be there all the same: tried for a while.
        unclear = any(c.outcome is Outcome.UNPROVEN and c.name == REPLAYED for c in checks)
        if parse_lsn(reached) >= parse_lsn(streamed):
            if not lacking and (not unclear or (helped and time.monotonic() - helped > TRIED)):
                return ""
            if not helped:
                note("taking what it had not received from the received WAL")
                _take_received(server, restore_command(there.dirs, position.segment_size))
                helped = time.monotonic()
        if time.monotonic() > until:
            return lacking or f"it has replayed up to {reached} of {streamed}"
        time.sleep(0.05)


def _take_received(server: Server, command: str | None) -> None:
    """Let a standby take received WAL by a command, asking for it often; None: no more."""
    with server.connect(server.spec.maintenance_database) as connection:
        connection.execute("SET synchronous_commit = local")
        for name, value in (("restore_command", command), ("wal_retrieve_retry_interval", command and "200ms")):
            alter_system(connection, name, value)
        connection.execute("SELECT pg_reload_conf()")


def _promote(server: Server) -> None:
    try:
        with server.connect(server.spec.maintenance_database, statement=2 * PROMOTE) as connection:
            connection.execute("SELECT pg_promote(true, %s)", [int(PROMOTE.total_seconds())])
            if not follows(connection):
                return
        why = f"it still follows after {PROMOTE.total_seconds():.0f} s"
    except psycopg.Error as error:
        why = first_line(error)
    raise RecoveryError(
        f"{server.service} was told to take over, and {why}",
        state="the server before it is fenced: no other one takes writes",
        next_step=f"read the log of {server.service}, then run the recovery again",
    )


def _position(server: Server) -> BaseBackup:
    with server.connect(server.spec.maintenance_database) as connection:
        row = connection.execute(
            "SELECT pg_last_wal_replay_lsn()::text, timeline_id, pg_size_bytes(current_setting('wal_segment_size')) "
            "FROM pg_control_checkpoint()"
        ).fetchone()
        assert row is not None
        return BaseBackup(
            server_version=connection.info.server_version,
            system_identifier=identity(connection),
            timeline=int(str(row[1])),
            start_lsn=str(row[0]),
            stop_lsn=str(row[0]),
            segment_size=int(str(row[2])),
            compression="none",
        )
