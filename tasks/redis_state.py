"""What state a Redis and its data are in, against its newest backup set, and how much a crash of it can have cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import redis

from recoup.catalog import BackupSet, Repository
from recoup.errors import PreconditionError, RecoveryError, first_line
from recoup.records import Check, Frozen, Outcome, Subject
from tasks.copies import CopyPlace
from tasks.copies_sync import fetch_from_any
from tasks.redis_content import Sampled, expected_keys
from tasks.redis_reading import measure
from tasks.redis_scratch import read_detail, snapshot_of, snapshot_time
from tasks.redis_server import (
    ROUNDING,
    Condition,
    Diagnosis,
    Link,
    Mode,
    RedisServer,
    answers,
    layout,
    number,
    wait_until_it_answers,
)
from tasks.step import note, step

# With appendfsync everysec the server lets two seconds pass at most before it waits for the disk.
EVERY_SECOND = timedelta(seconds=2)
_LOST_ITS_TAIL = ("unexpected end of file", "short read while loading the aof", "truncat")


class RedisSeen(Frozen):
    """What was looked at in a server in use."""

    checks: tuple[Check, ...]

    def __str__(self) -> str:
        wrong = [check for check in self.checks if check.outcome is not Outcome.PASSED]
        return "; ".join(f"{c.name}: {c.seen}" for c in wrong or self.checks)


def look(server: RedisServer, repository: Repository) -> Diagnosis:
    """Say what state the server and its data are in, against the newest set that can be read.

    Gone means: the set has keys that cannot have expired yet, and the server has none; or it has been started since
    the set was taken, has less than half as many, and not one of those that are looked for. A server that never
    stopped has other keys than its set because its users changed them: that alone restores nothing.
    """
    found = answers(server)
    if found.condition is not Condition.HEALTHY:
        return found
    newest = next((one for one in repository.sets(server.spec.store) if snapshot_of(one)), None)
    try:
        with server.connect() as link:
            return _against(link, newest) if newest else _unknown(link)
    except redis.RedisError as error:
        return Diagnosis(condition=Condition.REFUSING, seen=first_line(error))


@step(timeout=timedelta(hours=1))
def diagnose_redis(server: RedisServer, repository: Repository, copies: tuple[CopyPlace, ...] = ()) -> Diagnosis:
    """Give the condition of the server, which is not changed. PreconditionError when the password is turned away.

    Where no set is here to tell by, as on a new host, the newest is fetched from a copy first: without one, an empty
    server would pass for one that never had anything.
    """
    if copies and not any(snapshot_of(one) for one in repository.sets(server.spec.store)):
        try:
            fetch_from_any(copies, server.spec.store, repository)
        except RecoveryError as error:
            note(f"no set to tell by: {error.what}")
    return look(server, repository)


@step(timeout=timedelta(hours=2), retries=1)
def restart_redis(server: RedisServer, repository: Repository, loading: bool) -> Diagnosis:
    """Restart the server and give its condition once it answers or its time is up; changes no data.

    One that is ``loading`` is given its time first: a restart would begin the loading anew.
    """
    if loading and wait_until_it_answers(server).condition is Condition.HEALTHY:
        return look(server, repository)
    note(f"restarting {server.spec.service}")
    try:
        server.stack.restart(server.spec.service)
    except RecoveryError as error:
        return Diagnosis(condition=Condition.DOWN, seen=f"the restart failed: {error.what}")
    found = wait_until_it_answers(server)
    return found if found.condition is not Condition.HEALTHY else look(server, repository)


@step(timeout=timedelta(hours=1), retries=1)
def check_redis(server: RedisServer, repository: Repository, compared: bool) -> RedisSeen:
    """Look at the server in use: it can save, its data are there, and unless they were ``compared`` each can be read.

    Without a set to compare with, nothing tells whether the data are those of before: unproven.
    """
    found = look(server, repository)
    if found.condition not in (Condition.HEALTHY, Condition.CHANGED):
        return RedisSeen(checks=(_check("redis: it answers", Outcome.FAILED, str(found)),))
    there = Outcome.PASSED if found.condition is Condition.HEALTHY else Outcome.UNPROVEN
    try:
        with server.connect() as link:
            state = link.info("persistence", "replication")
            checks = [_saving(state), _role(state)]
            if not compared:
                content = measure(link)
                checks.append(
                    _check("redis: every key can be read", Outcome.PASSED, f"{sum(content.keys.values()):,} keys")
                )
    except redis.RedisError as error:
        return RedisSeen(checks=(_check("redis: every key can be read", Outcome.FAILED, first_line(error)),))
    if not compared:
        known = any(snapshot_of(one) for one in repository.sets(server.spec.store))
        outcome = there if known else Outcome.UNPROVEN
        checks.append(_check("redis: the data of the last backup are there", outcome, found.seen))
    return RedisSeen(checks=tuple(checks))


def kept_until(server: RedisServer, began: datetime) -> tuple[datetime | None, str]:
    """Give the moment up to which a server that was not restored has kept its data, None when unknown, and why.

    ``began`` itself when it never stopped; after a start what its way of saving promises, or its snapshot says.
    """
    with server.asking("how it keeps its data", state="the recovery is done") as link:
        place = layout(link)
        started = _started(link)
    # One that was killed a moment ago is not to pass for steady.
    if started + ROUNDING < began:
        return began, "it kept running, and nothing was restored"
    if place.mode is not Mode.SNAPSHOT:
        said = server.stack.logs(server.spec.service, tail=200, since=started - timedelta(minutes=5)).lower()
        if any(words in said for words in _LOST_ITS_TAIL):
            return None, "its append-only file had lost its end, as its log says"
        if place.fsync == "always":
            return began, "every write was on the disk before it was acknowledged (appendfsync always)"
        if place.fsync == "everysec":
            return began - EVERY_SECOND, "at most the last two seconds are lost (appendfsync everysec)"
        return None, "when writes reach the disk is left to the kernel (appendfsync no)"
    head = server.stack.execute(
        server.spec.service,
        ("head", "-c", "1024", f"{place.directory}/{place.dump}"),
        timeout=timedelta(seconds=30),
        check=False,
    )
    taken = snapshot_time(head.stdout)
    if taken is None or taken > started:
        return None, "the snapshot it started with has been replaced by a newer one"
    return taken, "the time that stands in the snapshot it started with"


def require_saving(found: Diagnosis) -> None:
    """Raise PreconditionError for a server that cannot save: a restart would lose what it has in memory alone."""
    if found.condition is Condition.UNSAVED:
        raise PreconditionError(
            f"the server cannot save, and what it holds may be in its memory alone: {found.seen}",
            state="the server runs, with its data in memory",
            next_step="do not restart it: free its disk, then BGSAVE until rdb_last_bgsave_status says ok",
        )


def _against(link: Link, newest: BackupSet) -> Diagnosis:
    holds = snapshot_of(newest)
    try:
        detail = read_detail(newest)
    except RecoveryError:
        return _unknown(link)
    assert holds is not None
    assert newest.recovery_point is not None
    clock = link.clock()
    second = int(clock.timestamp()) + 1
    there, wanted = sum(link.keys().values()), expected_keys(holds, detail, second)
    if there == 0 and wanted > 0:
        seen = f"it is empty; the backup set {newest.set_id} has {wanted:,} keys that have not expired"
        return Diagnosis(condition=Condition.EMPTY, seen=seen)
    asked = [one for one in detail.sample if one.expires == 0 or one.expires > second * 1000]
    if asked and (present := _present(link, asked)) * 2 < len(asked):
        there_of = f"{present} of {len(asked)} keys looked for are there"
        seen = f"{there_of}; {there:,} keys, the set {newest.set_id} has {wanted:,}"
        # Users write again at once, and some of it is under the keys of before.
        lost = _started(link) > newest.recovery_point and there * 2 < wanted
        if present and not lost:
            return Diagnosis(condition=Condition.HEALTHY, seen=seen, count=there)
        return Diagnosis(condition=Condition.EMPTY if lost else Condition.CHANGED, seen=seen, count=there)
    seen = f"it answers, with {there:,} keys; the last set had {wanted:,} that have not expired"
    return Diagnosis(condition=Condition.HEALTHY, seen=seen, count=there)


def _unknown(link: Link) -> Diagnosis:
    there = sum(link.keys().values())
    seen = f"it answers, with {there:,} keys; no backup set says how many it should have"
    return Diagnosis(condition=Condition.HEALTHY, seen=seen, count=there)


def _present(link: Link, sample: list[Sampled]) -> int:
    found = 0
    for database in sorted({one.database for one in sample}):
        link.ask("SELECT", database)
        asked = [("EXISTS", bytes.fromhex(one.key)) for one in sample if one.database == database]
        found += sum(number(answer) for answer in link.ask_all(asked))
    return found


def _started(link: Link) -> datetime:
    uptime = timedelta(seconds=int(link.info("server")["uptime_in_seconds"]))
    return (link.clock() - uptime).astimezone(UTC)


def _saving(state: dict[str, str]) -> Check:
    wrong = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if state.get(name, "ok") != "ok"
    ]
    outcome = Outcome.FAILED if wrong else Outcome.PASSED
    return _check(
        "redis: it can save", outcome, f"not ok: {', '.join(wrong)}" if wrong else "every status is ok", Subject.STATUS
    )


def _role(state: dict[str, str]) -> Check:
    if state["role"] == "master":
        return _check("redis: it follows no other server", Outcome.PASSED, "it is a primary", Subject.STATUS)
    seen = f"it follows {state['master_host']}:{state['master_port']}, and takes over whatever that one loses"
    return _check("redis: it follows no other server", Outcome.FAILED, seen, Subject.STATUS)


def _check(name: str, outcome: Outcome, seen: str, subject: Subject = Subject.DATA) -> Check:
    return Check(name=name, subject=subject, outcome=outcome, seen=seen)
