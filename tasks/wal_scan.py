"""What stands in received WAL, read before anything is replayed: where a transaction ended, and what came last."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from recoup.errors import PreconditionError, ProgramError, RecoupError, first_line
from recoup.manifest import BaseBackup
from recoup.target import Target
from recoup.wal import Segment, in_order, may_read, parse_lsn, write_lsn
from recoup.wal_rest import behind, received_to, rest
from tasks.heartbeat import witness_of
from tasks.postgres import SCRIPTS, Server, identity, server_now
from tasks.wal_receiver import continuous_of, receiver_of

SCAN = timedelta(hours=2)
_SCRIPT = "scan-wal.sh"
_RECORD = re.compile(r"len \(rec/tot\): +\d+/ *(?P<length>\d+), .*?lsn: (?P<lsn>[0-9A-F]+/[0-9A-F]+), ")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_ENDED = re.compile(r"desc: (?:COMMIT|ABORT)(?:_PREPARED \d+:)? (?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC")
# The last commit is looked for in so many segments, and in ever more as long as there is none.
_FEW = 2


@dataclass(frozen=True)
class Settled:
    """A target as the server is to be told it, from one base backup; ``wrong`` says why it is not reached from there.

    ``said`` is what is to be known about it.
    """

    target: Target
    said: str = ""
    wrong: str = ""


def settle(server: Server, dirs: tuple[Path, ...], base: BaseBackup, target: Target) -> Settled:
    """Look in the WAL whether a target can be reached from a base backup; a server only tells after the replay.

    Where nothing was written after the moment, and all until then was received, the end is the target.
    """
    if target.xid is not None:
        return _settle_transaction(server, dirs, base, target, target.xid)
    if target.lsn:
        return _settle_lsn(server, dirs, base, target)
    return _settle_time(server, dirs, base, target, target.time) if target.time else Settled(target)


@dataclass(frozen=True)
class Looked:
    """What is in the way of a replay: ``major`` is the version that would do it, ``place`` the record of a tablespace.

    A server that replays the making of a tablespace takes the very directory it names into use, though the server in
    use has it.
    """

    major: int = 0
    place: str = ""

    def of_another_version(self, base: BaseBackup) -> str:
        """Say so when a base backup is of another major version; empty otherwise."""
        taken = base.server_version // 10000
        if self.major in (0, taken):
            return ""
        return f"it is of PostgreSQL {taken}, and {self.major} is what would replay it: only a dump bridges versions"

    def forbids(self, target: Target) -> str:
        """Say why the WAL must not be replayed up to a target on this machine; empty when it may."""
        found, stop = _RECORD.search(self.place), target.lsn or target.through
        if found is None or (stop and parse_lsn(stop) <= parse_lsn(found["lsn"])):
            return ""
        return (
            f"the WAL makes a tablespace ({self.place.rpartition('desc: ')[2]}), and a replay would write into that "
            f"directory: replay to just before it (--to lsn:{found['lsn']}), or take a dump (--from dump)"
        )


def look_through(server: Server, dirs: tuple[Path, ...], base: BaseBackup) -> Looked:
    """Look through the WAL since a base backup for what is in the way of a replay."""
    version, _, place = _scan(server, dirs, base, parse_lsn(base.start_lsn), "place").partition("\n")
    found = _VERSION.search(version)
    return Looked(int(found[1]) if found else 0, place)


def _settle_transaction(server: Server, dirs: tuple[Path, ...], base: BaseBackup, target: Target, xid: int) -> Settled:
    # PostgreSQL writes the lower half alone into its WAL.
    found = _RECORD.search(_scan(server, dirs, base, parse_lsn(base.start_lsn), "end", str(xid & 0xFFFFFFFF)))
    if found is None:
        damaged = _damaged(server, dirs, base)
        return Settled(target, wrong=f"the end of transaction {xid} is not in the WAL received since it{damaged}")
    if parse_lsn(found["lsn"]) < parse_lsn(base.stop_lsn):
        return Settled(target, wrong=f"it was taken after transaction {xid}, which ended at {found['lsn']}")
    return Settled(target)


def _settle_lsn(server: Server, dirs: tuple[Path, ...], base: BaseBackup, target: Target) -> Settled:
    last, end = _last_record(server, dirs, base)
    if last >= parse_lsn(target.lsn):
        return Settled(target)
    if end >= parse_lsn(target.lsn):
        return Settled(Target(through=write_lsn(last)), said=f"nothing was received behind {target.lsn}")
    damaged = _damaged(server, dirs, base)
    return Settled(target, wrong=f"the WAL received since it ends at {write_lsn(end)}, before {target.lsn}{damaged}")


def _settle_time(server: Server, dirs: tuple[Path, ...], base: BaseBackup, target: Target, moment: datetime) -> Settled:
    # Before it is looked at: what comes meanwhile can only be more.
    known = all_received_until(server, dirs, base)
    commit = _last_commit(server, dirs, base)
    if commit is not None and commit > moment:
        return Settled(target)
    what = f"the last transaction received since it is of {_written(commit)}" if commit else "no transaction came since"
    if damaged := _damaged(server, dirs, base):
        return Settled(target, wrong=f"{what}{damaged}")
    if known is None or known < moment:
        sign = f"the last sign of the receiver is of {_written(known)}" if known else "no sign of the receiver is left"
        unknown = f"whether more was written until {_written(moment)} is not known"
        return Settled(target, wrong=f"{what}, and {unknown}: {sign}")
    last, _ = _last_record(server, dirs, base)
    return Settled(Target(through=write_lsn(last)), said=f"{what}: all that was received is of before the moment")


def _written(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def all_received_until(server: Server, dirs: tuple[Path, ...], base: BaseBackup) -> datetime | None:
    """Give the last moment of which it is known that all that was written before it was received; None: of none.

    By the receiver when it has all there is, by the last heartbeat, or by when WAL came in last: it comes in order.
    """
    found = [_live(server, base)]
    witness = witness_of(continuous_of(server).wal)
    found += [witness.at] if witness and witness.system_identifier == base.system_identifier else []
    with may_read():
        times = [path.stat().st_mtime for path in in_order(dirs, base).values() if path.exists()]
    found += [datetime.fromtimestamp(max(times), UTC)] if times else []
    return max((one for one in found if one is not None), default=None)


def _live(server: Server, base: BaseBackup) -> datetime | None:
    try:
        with server.connect(server.spec.maintenance_database) as connection:
            if identity(connection) != base.system_identifier:
                return None
            moment = server_now(connection)
        seen = receiver_of(server)
        return moment if seen.streaming and not seen.behind else None
    except (psycopg.Error, RecoupError):
        return None


def _last_commit(server: Server, dirs: tuple[Path, ...], base: BaseBackup) -> datetime | None:
    files = in_order(dirs, base)
    few = _FEW
    while True:
        first = max(parse_lsn(base.start_lsn), (max(files, default=0) + 1 - few) * base.segment_size)
        if found := _ENDED.search(_scan(server, dirs, base, first, "commit")):
            return datetime.strptime(found["at"], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC)
        if first == parse_lsn(base.start_lsn):
            return None
        few *= 8


def _last_record(server: Server, dirs: tuple[Path, ...], base: BaseBackup) -> tuple[int, int]:
    """Give where the last record begins that can be read, and where the next one would; both 0 without any."""
    files = in_order(dirs, base)
    few = _FEW
    while True:
        first = max(parse_lsn(base.start_lsn), (max(files, default=0) + 1 - few) * base.segment_size)
        if found := _RECORD.search(_scan(server, dirs, base, first, "last")):
            lsn = parse_lsn(found["lsn"])
            return lsn, behind(dirs, base, lsn, int(found["length"]))
        if first == parse_lsn(base.start_lsn):
            return 0, 0
        few *= 8


def _damaged(server: Server, dirs: tuple[Path, ...], base: BaseBackup) -> str:
    _, end = _last_record(server, dirs, base)
    left = rest(dirs, base, end, received_to(dirs, base)) if end else None
    return f"; {left.damaged}" if left and left.damaged else ""


def _scan(server: Server, dirs: tuple[Path, ...], base: BaseBackup, lsn: int, *what: str) -> str:
    files = {number: path for number, path in in_order(dirs, base).items() if number >= lsn // base.segment_size}
    if not files:
        return ""
    # A timeline begins with a copy of what came before it: under one name they are one run of WAL.
    timeline = max(int(path.name[:8], 16) for path in files.values())
    lines = [f"{Segment(timeline, number).name(base.segment_size)}\t{path}\n" for number, path in files.items()]
    script = (SCRIPTS / _SCRIPT).read_text(encoding="utf-8")
    with tempfile.TemporaryFile() as listed:
        listed.write("".join(lines).encode())
        listed.seek(os.SEEK_SET)
        try:
            done = server.stack.beside(
                server.spec.service,
                ("sh", "-c", script, _SCRIPT, str(timeline), write_lsn(lsn), *what),
                timeout=SCAN,
                mounts=(continuous_of(server).wal,),
                stdin=listed,
            )
        except ProgramError as error:
            raise PreconditionError(
                f"the received WAL cannot be looked through: {first_line(error)}",
                next_step="see that the image of the database has pg_waldump and room in its /tmp",
            ) from None
    return done.text
