"""Restoring a whole PostgreSQL server from a base backup and the WAL received since, up to a moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from recoup.catalog import Repository
from recoup.errors import RecoupError, RecoveryError, first_line
from recoup.manifest import BaseBackup
from recoup.progress import Pace
from recoup.records import Check, Frozen, Outcome, Subject, now
from recoup.target import Target, parse_target
from recoup.wal import Reach, parse_lsn, reach, timeline_of, write_lsn
from recoup.wal_rest import received_to, rest
from tasks.heartbeat import CLOCKS_AGREE, Witness, heartbeats, last_heartbeat, renew_witness, witness_of
from tasks.postgres import MAKING, Condition, Role, Server, live_role, wait_until_it_answers
from tasks.postgres_base import chain, series
from tasks.postgres_beside import Place, place_in, running
from tasks.postgres_choice import received_dirs
from tasks.step import note, step
from tasks.wal_receiver import continuous_of, have_it_received, set_synchronous, wait_for_receiver
from tasks.wal_scan import look_through

REPLAY = timedelta(hours=8)
RECONNECTS = timedelta(seconds=15)
# Seconds for which a server that replays may turn questions away.
BUSY = 30.0
WITNESSED_AGAIN = timedelta(seconds=10)
# Finished and never started since, or not finished: beside.sh clears away no other.
_BEGUN = """
[ -n "$PGDATA" ] && [ -f "$PGDATA/$1" ] || exit 0
read -r state label checkpoint <"$PGDATA/$1" || exit 0
now=$(pg_controldata -D "$PGDATA" 2>/dev/null | sed -n 's/^Latest checkpoint location: *//p')
if [ "$state" = making ] || [ "$checkpoint" = "$now" ]; then echo "$label"; fi
"""
REPLAYED = "all that was received is replayed"
WITNESSED = "the last heartbeat that was received is there"


class Replayed(Frozen):
    """A server restored and looked at; ``recovery_point`` was read from its data."""

    aside: str = ""
    reached: str
    recovery_point: datetime | None
    checks: tuple[Check, ...]

    def __str__(self) -> str:
        point = f", data up to {self.recovery_point.astimezone(UTC):%H:%M:%S.%f} UTC" if self.recovery_point else ""
        return f"replayed to {self.reached}{point}" + (f"; the old data are at {self.aside}" if self.aside else "")


class Resumed(Frozen):
    """The service runs on restored data; ``received`` says whether its WAL is received again."""

    received: bool
    seen: str

    def __str__(self) -> str:
        return f"it answers; {self.seen}"


@step(timeout=REPLAY)
def replay_wal(server: Server, repository: Repository, set_id: str, to: str, label: str, scratch: Path) -> Replayed:
    """Put the server's data aside, whole, and make new ones from a base backup and WAL; safe to repeat.

    The service is stopped before and stays so. Raises RecoveryError when the moment is not reached or a check fails:
    the old data are where it says.
    """
    target = parse_target(to)
    left = _let_it_be_received(server)
    server.stack.stop(server.spec.service)
    note("moving the old data aside")
    # What a recovery before this one had half made is made anew in its place: the old data are where it put them.
    label = _begun(server) or label
    aside = server.stack.put_aside(server.spec.service, label=label)
    try:
        with restored_server(server, repository, set_id, target, scratch, into="", label=label) as (beside, checks):
            # What the base backup was taken with would let every commit wait for a receiver that is not there yet.
            set_synchronous(beside, waits=False)
            reached, point = where_it_is(beside)
    except RecoupError as error:
        raise RecoveryError(
            error.what,
            state=f"the old data are at {aside}; the new ones are half-made and {server.spec.service} is stopped",
            next_step="mend what is named and run the recovery again, or recover from a dump: --from dump",
        ) from None
    if left and target.latest:
        seen = f"{left}: what it had written since is in its own WAL alone, at {aside}"
        name, outcome = "all that was written is received", Outcome.UNPROVEN
        checks = (*checks, Check(name=name, subject=Subject.DATA, outcome=outcome, seen=seen))
    failed = [check for check in checks if check.outcome is Outcome.FAILED]
    if failed:
        raise RecoveryError(
            "what was replayed is not what was received: " + "; ".join(f"{c.name}: {c.seen}" for c in failed),
            state=f"the old data are at {aside}; {server.spec.service} is stopped",
            next_step="recover from a dump: recoup recover database --from dump",
        )
    return Replayed(aside=aside, reached=reached, recovery_point=by_our_clock(server, point), checks=checks)


def _begun(server: Server) -> str:
    """Give the label of the recovery whose unfinished work is in the data directory; empty when there is none."""
    done = server.stack.beside(
        server.spec.service, ("sh", "-c", _BEGUN, "sh", MAKING), timeout=timedelta(minutes=1), check=False
    )
    return done.text


def by_our_clock(server: Server, point: datetime | None) -> datetime | None:
    """Give a moment read from a server's data by the clock of this machine, by which outages are measured.

    None when it would still be to come: what is lost must not be told by a clock that is wrong.
    """
    witness = witness_of(continuous_of(server).wal)
    if point and witness and witness.ahead:
        note(f"the server's clock was {witness.ahead.total_seconds():.0f} s ahead of this machine's")
        point -= witness.ahead
    return None if point and point > now() + CLOCKS_AGREE else point


def _let_it_be_received(server: Server) -> str:
    """Wait, where the server still takes writes, for the receiver that lost it, and say why that was in vain.

    Stopped before, the end of what it wrote is lost.
    """
    if live_role(server) is not Role.PRIMARY:
        return ""
    note("waiting until what the server has written is received")
    try:
        wait_for_receiver(server, RECONNECTS)
    except (RecoveryError, psycopg.Error) as error:
        return first_line(error)
    return ""


@step(timeout=timedelta(minutes=15), retries=1)
def start_replayed(server: Server) -> Resumed:
    """Start the service on its new data, and have its WAL received again before anybody writes."""
    server.stack.beside(
        server.spec.service,
        ("sh", "-c", f'rm -f "$PGDATA/recovery.signal" "$PGDATA/{MAKING}"'),
        timeout=timedelta(minutes=1),
    )
    server.stack.start(server.spec.service)
    found = wait_until_it_answers(server)
    if found.condition is not Condition.HEALTHY:
        raise RecoveryError(
            f"the restored server does not answer: {found}",
            state="its data are whole: they were replayed and looked at",
            next_step=f"read the log of {server.spec.service}, mend its settings, start it, run the recovery again",
        )
    return receive_again(server)


@step(timeout=timedelta(minutes=15), retries=1)
def resume_receiving(server: Server) -> Resumed:
    """Have the WAL of a server received that has just taken over."""
    return receive_again(server)


def receive_again(server: Server) -> Resumed:
    """Have the WAL of a server received that has just come back; only ``zero-loss`` that waits cannot do without."""
    try:
        found = have_it_received(server)
        renew_witness(server, WITNESSED_AGAIN)
        return Resumed(received=True, seen=str(found))
    except RecoveryError as error:
        if continuous_of(server).policy == "zero-loss" and continuous_of(server).without_receiver == "wait":
            raise
        return Resumed(received=False, seen=error.what)


@dataclass(frozen=True)
class Received:
    """What had been received when a replay began: ``upto`` is the LSN behind the last byte of it."""

    dirs: tuple[Path, ...]
    end: Reach
    upto: int
    witness: Witness | None

    @classmethod
    def since(cls, server: Server, base: BaseBackup, *, newest: int | None = None) -> Received:
        """Give what has been received by now since a base backup began, up to the ``newest`` timeline that counts."""
        dirs = tuple(one for one in received_dirs(server, base) if newest is None or timeline_of(one) <= newest)
        return cls(dirs, reach(dirs, base), received_to(dirs, base), witness_of(continuous_of(server).wal))


@contextmanager
def restored_server(
    server: Server,
    repository: Repository,
    set_id: str,
    target: Target,
    scratch: Path,
    *,
    into: str | None = None,
    label: str = "",
) -> Iterator[tuple[Server, tuple[Check, ...]]]:
    """Give a server beside, restored to the target and promoted, with what was seen of it, while the block runs.

    ``into``: the data directory to fill, empty for the service's own; None: one that is thrown away afterwards.
    """
    one = repository.get(series(server), set_id)
    assert one.base is not None
    sets = chain(repository, one)
    # Before the replay begins: more may be received while it runs.
    there = Received.since(server, one.base)
    with place_in(scratch) as place:
        where = str(place.work / "data") if into is None else into
        env = {
            "WALS": "".join(f"{directory}:" for directory in there.dirs),
            "RECOVERY": "\n".join(target.settings()),
            "LABEL": label,
        }
        argv = ("replay", where, *(str(part.path) for part in sets))
        mounts = [*(part.path for part in sets), continuous_of(server).wal]
        # It takes as long as the WAL is: meanwhile the base backup is unpacked.
        looking = threading.Thread(target=_allow, args=(server, place, there.dirs, one.base, target), daemon=True)
        looking.start()
        with running(server, place, argv, timeout=REPLAY, env=env, mounts=mounts, ready=REPLAY) as beside:
            _wait_for_promotion(beside, place, one.base, there.end)
            yield beside, _looked(beside, one.base, there, target, len(sets))


def _allow(server: Server, place: Place, dirs: tuple[Path, ...], base: BaseBackup, target: Target) -> None:
    """Let a replay begin, or say in the same place why it must not."""
    try:
        why = look_through(server, dirs, base).forbids(target)
    except (RecoupError, OSError, ValueError) as error:
        # Without a word the other side would wait for hours.
        why = first_line(error)
    with suppress(FileNotFoundError):
        (place.root / "go.new").write_text(why, encoding="utf-8")
        (place.root / "go.new").chmod(0o644)
        (place.root / "go.new").rename(place.root / "go")


def _wait_for_promotion(beside: Server, place: Place, base: BaseBackup, end: Reach) -> None:
    start = parse_lsn(base.start_lsn)
    refused: float | None = None
    pace, told = Pace("WAL replayed:", max(end.whole - start, 1)), time.monotonic()
    while True:
        try:
            with beside.connect(beside.spec.maintenance_database) as connection:
                row = connection.execute(
                    "SELECT pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn(), '0/0')::text"
                ).fetchone()
        except psycopg.Error as error:
            # It ends by itself when the target is not in the WAL: its last words are in its log.
            said = (place.root / "server.log").read_text(encoding="utf-8", errors="replace").splitlines()
            # Not those to whoever asked it while it ended, as this one does.
            fatal = [line for line in said if "FATAL" in line and "the database system is" not in line]
            refused = refused or time.monotonic()
            # One that is only busy turns nobody away for long.
            if not fatal and time.monotonic() - refused < BUSY and "shut down" not in " ".join(said[-1:]):
                time.sleep(0.2)
                continue
            raise RecoveryError(
                f"the replay ended: {fatal[-1] if fatal else first_line(error)}",
                state="the database in use is untouched",
            ) from None
        assert row is not None
        refused = None
        if not row[0]:
            return
        if time.monotonic() - told >= 1:
            told = time.monotonic()
            note(pace.at(max(parse_lsn(str(row[1])) - start, 0)))
        time.sleep(0.05)


def where_it_is(beside: Server) -> tuple[str, datetime | None]:
    """Give the LSN that was reached, and the moment up to which the data are complete."""
    with beside.connect(beside.spec.maintenance_database) as connection:
        row = connection.execute("SELECT pg_last_wal_replay_lsn()::text, pg_last_xact_replay_timestamp()").fetchone()
    with beside.connect() as connection:
        beaten = last_heartbeat(connection)
    assert row is not None
    moments = [m.astimezone(UTC) for m in (row[1], beaten) if isinstance(m, datetime)]
    return str(row[0]), max(moments, default=None)


def _looked(beside: Server, base: BaseBackup, there: Received, target: Target, parts: int) -> tuple[Check, ...]:
    reached, point = where_it_is(beside)
    # A target that was reached lies before any gap.
    gap = there.end.wrong if target.latest else ""
    checks = [
        _check("the base backup is whole", "each file as its manifest says", "", f"pg_verifybackup: {parts}"),
        _check("the WAL has no gap", "every segment", gap, f"up to {write_lsn(there.end.whole)}"),
    ]
    if not target.latest:
        late = "" if not target.time or point is None or point <= target.time else f"{point} is after it"
        return (*checks, _check("the moment was reached", str(target), late, f"{reached}, data up to {point}"))
    return (*checks, *nothing_is_left(beside, base, there, reached))


def nothing_is_left(beside: Server, base: BaseBackup, there: Received, reached: str) -> tuple[Check, ...]:
    """Check that a server which replayed up to an LSN holds all that had been received, the last heartbeat too."""
    with beside.connect() as connection:
        beaten, beats = last_heartbeat(connection), heartbeats(connection)
    left = rest(there.dirs, base, parse_lsn(reached), there.upto)
    replayed = _check(REPLAYED, f"up to {write_lsn(there.upto)}", left.damaged, reached)
    if left.unclear:
        replayed = replayed.model_copy(update={"outcome": Outcome.UNPROVEN, "seen": left.unclear})
    checks = [replayed]
    witness = there.witness if there.witness and there.witness.demanded(there.dirs, base) else None
    if witness:
        held = beats >= witness.count if witness.count else beaten is not None and beaten >= witness.at
        lost = "" if held else f"{beaten or 'none'}"
        if parse_lsn(reached) < parse_lsn(witness.lsn):
            lost = f"{reached} is before {witness.lsn}, which had been received"
        checks.append(_check(WITNESSED, f"{witness.at}", lost, f"{beaten}"))
    elif continuous_of(beside).heartbeat:
        checks.append(
            Check(
                name=WITNESSED,
                subject=Subject.DATA,
                outcome=Outcome.UNPROVEN,
                expected="a heartbeat, and its witness beside the WAL",
                seen=f"heartbeat {beaten}, no witness of this history: does recoup watch run?",
            )
        )
    return tuple(checks)


def _check(name: str, expected: str, wrong: str, seen: str) -> Check:
    outcome = Outcome.FAILED if wrong else Outcome.PASSED
    return Check(name=name, subject=Subject.DATA, outcome=outcome, expected=expected, seen=wrong or seen)
