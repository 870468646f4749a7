"""Where the data of a Redis come from in a restore: its replica, where that has kept them, or the newest good set."""

from __future__ import annotations

from datetime import datetime, timedelta

import redis
from pydantic import AwareDatetime

from recoup.catalog import Repository
from recoup.errors import RecoupError, RecoveryError, first_line
from recoup.records import Check, Frozen, Outcome, Subject
from tasks.redis_backup import check_redis_backup_can_begin, publish_snapshot
from tasks.redis_replica import Detached, Following, Replica, detach
from tasks.redis_restore import find_redis_backup
from tasks.redis_scratch import offset_of, snapshot_of
from tasks.redis_server import Condition, RedisServer
from tasks.redis_state import EVERY_SECOND, kept_until, look
from tasks.step import note, step


class FromReplica(Frozen):
    """The set that was taken of a detached replica, or ``why`` there is none: then ``set_id`` is empty."""

    why: str
    set_id: str = ""
    recovery_point: AwareDatetime | None = None
    checks: tuple[Check, ...] = ()

    def __str__(self) -> str:
        return f"{self.set_id}: {self.why}" if self.set_id else self.why


class Compared(Frozen):
    """Whether a primary that came back by itself is ``behind`` its replica, and how that is known."""

    behind: bool
    seen: str

    def __str__(self) -> str:
        return self.seen


@step(timeout=timedelta(minutes=5))
def compare_with_replica(primary: RedisServer, detached: Detached) -> Compared:
    """Say whether a primary that was started again has lost writes which its detached replica surely has."""
    followed = detached.followed
    if followed is None or followed.until is None or followed.point is None:
        return Compared(behind=False, seen=f"nothing tells how far {detached.service} had followed it")
    # It cannot have stopped before the replica last heard from it.
    kept, basis = kept_until(primary, followed.until)
    if kept is None:
        return Compared(behind=False, seen=f"nothing tells up to when it has kept its data: {basis}")
    # What a log that is flushed every second may lack is no reason to lay everything down anew.
    behind = kept + EVERY_SECOND < followed.point
    what = "has lost writes that its replica has" if behind else "has what its replica surely has"
    return Compared(behind=behind, seen=f"it {what}: {basis} ({kept:%Y-%m-%d %H:%M:%S}); {followed}")


@step(timeout=timedelta(hours=4))
def back_up_redis_replica(replica: Replica, repository: Repository, detached: Detached) -> FromReplica:
    """Take a backup set of a detached replica, if its data are good and reach further than the newest good set.

    Raises nothing that is about the replica: whatever is wrong with it is the reason to take a set instead.
    """
    name, server = f"the replica {replica.service}", replica.server
    known = any(snapshot_of(one) for one in repository.sets(server.spec.store))
    try:
        # It may have been started anew since, and follow again.
        again = detach(replica)
        if why := detached.stopped or again.stopped:
            return FromReplica(why=f"{name} was stopped: {why}")
        found = look(server, repository)
        if found.condition is not Condition.HEALTHY or not found.count:
            return FromReplica(why=f"{name} is {found}")
        point, basis = _reached(detached.followed, server, repository)
        if point is None:
            return FromReplica(why=f"{name} is not used: {basis}")
        check_redis_backup_can_begin.fn(server, repository)
        taken = publish_snapshot(server, repository, point)
    except RecoupError as error:
        return FromReplica(why=f"{name} could not be backed up: {error.what}")
    except redis.RedisError as error:
        return FromReplica(why=f"{name} could not be backed up: {first_line(error)}")
    check = Check(
        name="redis: the replica has the data of the last backup",
        subject=Subject.DATA,
        # Without a set from before nothing tells whether the replica had kept what there was.
        outcome=Outcome.PASSED if known else Outcome.UNPROVEN,
        seen=found.seen,
    )
    why = f"the freshest there is, of {replica.service}: {basis}"
    return FromReplica(set_id=taken.set_id, recovery_point=taken.recovery_point, why=why, checks=(check,))


def _reached(followed: Following | None, server: RedisServer, repository: Repository) -> tuple[datetime | None, str]:
    """Give the moment up to which a replica surely has every write, and how that is known; None: a set is fresher.

    It is the fresher one when it was connected after the newest good set was taken. When that set says how far in the
    primary's history it reaches, a replica that has come further has all that is in it, whatever the clocks tell.
    """
    if followed is None or followed.until is None or followed.point is None:
        return None, f"nothing tells how far it had followed: {followed.basis if followed else 'it followed nobody'}"
    sets = [one for one in repository.sets(server.spec.store) if snapshot_of(one)]
    newest = sets[0].recovery_point if sets else None
    if newest is None:
        return followed.point, followed.basis
    offset = offset_of(sets[0])
    if offset and offset[0] == followed.history and offset[1] <= followed.offset:
        if followed.point > newest:
            return followed.point, followed.basis
        return newest, f"it has come further in its primary's history than {sets[0].set_id}"
    if newest < followed.until:
        return followed.point, followed.basis
    note(f"{sets[0].set_id} is younger than what the replica last heard; is it good?")
    try:
        chosen = find_redis_backup(server, repository, "latest")
    except RecoveryError:
        return followed.point, followed.basis
    if chosen.recovery_point < followed.until:
        return followed.point, followed.basis
    return None, f"the set {chosen.set_id} is younger ({followed.basis})"
