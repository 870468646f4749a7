"""Which base backup a server is restored from: the newest that is whole and from which the moment can be reached."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from recoup.catalog import BackupSet, Repository, problems, to_come
from recoup.errors import RecoupError, RecoveryError
from recoup.manifest import BaseBackup
from recoup.records import Frozen, SkippedSet
from recoup.target import Target, parse_target
from recoup.wal import parse_lsn, places, reach, write_lsn
from tasks.copies import CopyPlace
from tasks.postgres import Server
from tasks.postgres_base import chain, series
from tasks.step import note, step
from tasks.wal_receiver import continuous_of
from tasks.wal_scan import all_received_until, look_through, settle
from tasks.wal_shipping import bring_wal

# Signs come every few seconds where there is a heartbeat, and seldom on an idle server without.
OVERTAKEN = timedelta(minutes=1)


class ChosenBase(Frozen):
    """The newest base backup that can be replayed to the target, and the newer ones that were passed over.

    ``to`` is the target as the replay is to be told it. With an empty ``set_id`` there is none; ``why`` says why not.
    """

    set_id: str = ""
    recovery_point: datetime | None = None
    reaches: str = ""
    to: str = ""
    skipped: tuple[SkippedSet, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        if not self.set_id:
            return f"none: {self.why}"
        skipped = "; ".join(f"{one.set_id} ({one.reason})" for one in self.skipped)
        return f"{self.set_id}, WAL whole up to {self.reaches}" + (f"; skipped {skipped}" if skipped else "")


@step(timeout=timedelta(hours=1))
def choose_base(server: Server, repository: Repository, to: str, copies: tuple[CopyPlace, ...] = ()) -> ChosenBase:
    """Give the base backup to replay, or why there is none; see find_base.

    Where none is good here, one is fetched from the first copy that has it, with the WAL that was shipped there. To the
    latest moment none is replayed when the newest dump is of later than all that was received.
    """
    target = parse_target(to)
    found = _here_or_fetched(server, repository, target, copies)
    base = repository.get(series(server), found.set_id).base if found.set_id and target.latest else None
    if base:
        until = all_received_until(server, received_dirs(server, base), base)
        if why := overtaken(server, repository, until):
            return ChosenBase(why=why)
    return found


def _here_or_fetched(
    server: Server, repository: Repository, target: Target, copies: tuple[CopyPlace, ...]
) -> ChosenBase:
    try:
        return find_base(server, repository, target)
    except RecoveryError as error:
        reasons = [error.what]
    for copy in copies:
        note(f"{reasons[-1]}; looking in {copy.name}")
        try:
            found = _from_copy(server, repository, target, copy, reasons)
        except RecoupError as error:
            reasons.append(f"{copy.name}: {error.what}")
            continue
        if found:
            return found
    return ChosenBase(why="; ".join(reasons))


def _from_copy(
    server: Server, repository: Repository, target: Target, copy: CopyPlace, reasons: list[str]
) -> ChosenBase | None:
    """Bring one base backup after the other from a copy, the newest first, until the target is reached from one."""
    there = copy.sets(series(server))
    for one in there:
        if one.broken or (target.time and one.note and one.note.recovery_point > target.time):
            reasons.append(f"{copy.name}: {one.set_id}: {one.broken or 'it was taken after that moment'}")
            continue
        note(f"fetching {one.set_id} from {copy.name}")
        try:
            base = copy.fetch(one.set_id, repository).base
            if base:
                brought = bring_wal(copy, continuous_of(server).wal, base)
                note(f"{brought.count} files of WAL came from {copy.name}")
                reasons += [one for one in brought.damaged if one not in reasons]
            return find_base(server, repository, target)
        except RecoveryError as error:
            reasons.append(f"{copy.name}: {error.what}")
    if not there:
        reasons.append(f"{copy.name} ({copy.place.where}) has no base backup")
    return None


def find_base(server: Server, repository: Repository, target: Target) -> ChosenBase:
    """Give the newest base backup before the target whose files are whole and whose WAL has no gap up to it.

    Raises RecoveryError naming what is wrong with each when there is none.
    """
    skipped: list[SkippedSet] = []
    for one in repository.sets(series(server)):
        note(f"verifying {one.set_id}")
        wrong = one.broken or _unfit(server, repository, one, target)
        if not wrong and one.manifest and one.base:
            dirs = received_dirs(server, one.base)
            seen, gap = look_through(server, dirs, one.base), reach(dirs, one.base).wrong
            settled = settle(server, dirs, one.base, target)
            # What lies before a gap is reached all the same.
            beyond = gap if target.latest or settled.wrong or settled.target.through else ""
            wrong = "; ".join(said for said in (settled.wrong, beyond) if said)
            wrong = seen.of_another_version(one.base) or wrong or seen.forbids(settled.target)
        if not wrong and one.manifest and one.base:
            why = f"the base backup is whole and the WAL received since has no gap{' before that' if gap else ''}"
            return ChosenBase(
                set_id=one.set_id,
                recovery_point=one.manifest.recovery_point,
                reaches=write_lsn(reach(dirs, one.base).whole),
                to=settled.target.text,
                skipped=tuple(skipped),
                why=f"{why}; {settled.said}" if settled.said else why,
            )
        skipped.append(SkippedSet(set_id=one.set_id, reason=wrong))
    looked = "; ".join(f"{one.set_id}: {one.reason}" for one in skipped) or "there is none"
    raise RecoveryError(
        f"no base backup can be replayed to {target}: {looked}",
        state="no data was touched",
        next_step="restore from a dump instead (recoup recover database --backup latest --from dump)",
    )


def overtaken(server: Server, repository: Repository, until: datetime | None) -> str:
    """Say so when the newest dump is of after the moment up to which there is WAL: the receiver was away."""
    dumps = (one for one in repository.sets(server.spec.store) if one.dump and not to_come(one))
    dump = next((one for one in dumps if one.verified is None or not one.verified.failed), None)
    if dump is None or dump.recovery_point is None or until is None or dump.recovery_point <= until + OVERTAKEN:
        return ""
    return (
        f"the dump {dump.set_id} is of after the last sign of what followed the server, {until:%Y-%m-%d %H:%M:%S} UTC"
    )


def lost_since(server: Server, repository: Repository) -> str:
    """Say what of the WAL is lost since the newest base backup; empty while that can be replayed, or without one."""
    base = next((one.base for one in repository.sets(series(server)) if one.base), None)
    return reach(received_dirs(server, base), base).wrong if base else ""


def received_dirs(server: Server, base: BaseBackup) -> tuple[Path, ...]:
    """Give the directories of the WAL that was received of the server a base backup is of."""
    return places(continuous_of(server).wal, base.system_identifier)


def _unfit(server: Server, repository: Repository, one: BackupSet, target: Target) -> str:
    if one.base is None or one.manifest is None:
        return "it is no base backup"
    if target.time and (one.base.stopped or one.manifest.ended) > target.time:
        return "it was taken after that moment"
    if target.lsn and parse_lsn(one.base.stop_lsn) > parse_lsn(target.lsn):
        return "it was taken after that LSN"
    if one.verified and one.verified.failed:
        return "its restore test failed"
    try:
        for part in chain(repository, one):
            if wrong := problems(part):
                return f"{part.set_id}: {wrong}" if part is not one else wrong
    except RecoupError as error:
        return error.what
    return ""
