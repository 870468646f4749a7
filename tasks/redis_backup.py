"""A backup of a Redis: one snapshot, copied out, restored into a throwaway server and measured there."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import redis

import recoup
from recoup.catalog import Repository, entries, set_id
from recoup.errors import PreconditionError, RecoveryError, first_line
from recoup.manifest import Manifest, RedisSnapshot, Verification
from recoup.records import Check, Frozen, Outcome, Subject, now
from tasks.redis_content import CONTENT, Content
from tasks.redis_scratch import PACKED, RDB, pack, program_of, prove_copy, read_detail, snapshot_of, snapshot_time
from tasks.redis_server import Condition, Link, RedisServer, answers, layout, number
from tasks.redis_users import USERS, read_users, users_of
from tasks.step import note, step

SNAPSHOT = timedelta(hours=1)
# The server stamps what it saves by a clock that stands still between two ticks of its kernel, 10 ms at most.
_TICK = timedelta(milliseconds=20)
_UNTOUCHED = "no set was published; the older ones are untouched"


class RedisReady(Frozen):
    """The server is there and the repository has room; sizes in bytes."""

    memory: int
    free: int

    def __str__(self) -> str:
        return f"{self.memory / 1e6:.0f} MB of memory, free in the repository {self.free / 1e9:.1f} GB"


class RedisTaken(Frozen):
    """What a backup published; sizes in bytes."""

    set_id: str
    recovery_point: datetime
    size: int
    count: int
    expiring: int
    pruned: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.set_id}: {self.count:,} keys, {self.expiring:,} of them expiring, {self.size / 1e6:.1f} MB"


@step(timeout=timedelta(minutes=2), retries=2)
def check_redis_backup_can_begin(server: RedisServer, repository: Repository) -> RedisReady:
    """Give the sizes that matter; raises PreconditionError when the server does not answer or there is no room."""
    found = answers(server)
    if found.condition is not Condition.HEALTHY:
        raise PreconditionError(
            f"{server.component} cannot be backed up: {found}",
            next_step="recoup recover redis, if this is not a planned stop",
        )
    with server.asking("how large it is", state="nothing was changed") as link:
        memory = int(link.info("memory")["used_memory"])
    root = next(p for p in (repository.root, *repository.root.parents) if p.exists())
    free = shutil.disk_usage(root).free
    # The plain copy and the compressed one lie there together for a while; an RDB is smaller than the memory it fills.
    if free < memory:
        raise PreconditionError(
            f"{root} has {free / 1e9:.2f} GB free; the copy of {memory / 1e9:.2f} GB of memory may need all of that",
            next_step="free space, lower the plan's backup.keep, or name another repository",
        )
    return RedisReady(memory=memory, free=free)


@step(timeout=timedelta(hours=4), retries=1)
def take_redis_backup(server: RedisServer, repository: Repository) -> RedisTaken:
    """Take one set of the server's data; see publish_snapshot."""
    return publish_snapshot(server, repository)


def publish_snapshot(server: RedisServer, repository: Repository, reached: datetime | None = None) -> RedisTaken:
    """Snapshot, copy out, restore the copy into a throwaway server, measure it there, and publish the set.

    ``reached`` is the set's recovery point where the server itself does not know it: a replica is as old as what it
    had last received. Raises RecoveryError when any of it fails: no set is published then, and the older ones stay.
    """
    started = now()
    try:
        with repository.staging(server.spec.store, started) as staged:
            with server.asking("a snapshot", state=_UNTOUCHED) as link:
                program = program_of(link)
                taken = take_snapshot(link)
                place = layout(link)
                release = link.info("server")["redis_version"]
                users, acl_file = users_of(link), link.setting("aclfile")
            if reached:
                # Users are not replicated: those of the primary are known from its own newest set.
                users, acl_file = _users_before(repository, server.spec.store)
            note("copying the snapshot out")
            server.stack.copy_out(server.spec.service, f"{place.directory}/{place.dump}", staged / RDB)
            _prove_it_is_this_one(staged / RDB, taken)
            point = _free(repository, server.spec.store, reached) if reached else taken
            with ThreadPoolExecutor(max_workers=1) as pool:
                packing = pool.submit(pack, staged / RDB, staged / PACKED)
                content = prove_copy(server, program, staged)
                packing.result()
            (staged / RDB).unlink()
            detail = content.detail().model_copy(update={"acl_file": acl_file})
            (staged / CONTENT).write_text(detail.model_dump_json(), encoding="utf-8")
            if users:
                text = "".join(f"{line}\n" for line in users)
                (staged / USERS).write_text(text, encoding="utf-8", errors="surrogateescape")
            manifest = Manifest(
                set_id=set_id(server.spec.store, point),
                store=server.spec.store,
                component=server.component,
                recovery_point=point,
                started=started,
                ended=now(),
                recoup_version=recoup.__version__,
                holds=_holds(content, release),
                files=entries(staged),
            )
            one = repository.publish(staged, manifest)
    except RecoveryError as error:
        raise RecoveryError(error.what, state=error.state or _UNTOUCHED, next_step=error.next_step) from None
    except OSError as error:
        raise RecoveryError(
            f"the backup could not be written: {error.strerror}",
            state=_UNTOUCHED,
            next_step=f"see to the space and rights of {repository.root}, then back up again",
        ) from None
    repository.note_verified(one, Verification(at=now(), checks=(_restored(content),)))
    rule = server.spec.backup
    return RedisTaken(
        set_id=manifest.set_id,
        recovery_point=point,
        size=manifest.size,
        count=sum(content.keys.values()),
        expiring=sum(content.expiring.values()),
        # The copy of a replica may stand behind an older one, and is about to be used.
        pruned=repository.prune(server.spec.store, rule) if rule and reached is None else (),
    )


def take_snapshot(link: Link, *, patience: timedelta = SNAPSHOT) -> datetime:
    """Have the server save a snapshot of its own, and give the moment up to which that is surely complete.

    The moment is the server's clock just before the snapshot began; LASTSAVE would be the one at which it ended.
    Raises RecoveryError when the server fails to save, redis.RedisError when it goes away.
    """
    until = time.monotonic() + patience.total_seconds()
    while True:
        point = link.clock()
        try:
            link.ask("BGSAVE")
            break
        except redis.ResponseError as error:
            # Its own save, or a rewrite of the append-only file, is under way: what that writes began before now.
            if "in progress" not in str(error) and "child process" not in str(error):
                raise _not_saved(first_line(error)) from None
            note("waiting: the server is already saving")
        if time.monotonic() > until:
            raise _not_saved("another save did not end")
        time.sleep(0.1)
    note("the server is saving")
    while True:
        found = link.info("persistence")
        if found["rdb_bgsave_in_progress"] == "0":
            break
        if time.monotonic() > until:
            raise _not_saved(f"it did not end within {patience.total_seconds():.0f} s")
        time.sleep(0.05)
    if found["rdb_last_bgsave_status"] != "ok":
        raise _not_saved("its log says why (disk full? no memory for a second process?)")
    # A save that somebody ended (FLUSHALL does) leaves the status as it was.
    if number(link.ask("LASTSAVE")) < int((point - _TICK).timestamp()):
        raise _not_saved("its save was ended before it was done")
    return point


def _prove_it_is_this_one(rdb: Path, point: datetime) -> None:
    with rdb.open("rb") as file:
        taken = snapshot_time(file.read(1024))
    if taken is None:
        raise RecoveryError("what was copied is no snapshot of a Redis, or does not say when it was taken")
    if taken < (point - _TICK).replace(microsecond=0):
        raise RecoveryError(
            f"what was copied is an older snapshot, of {taken.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            next_step="see whether the server's dir and dbfilename are what CONFIG GET says",
        )


def _users_before(repository: Repository, series: str) -> tuple[tuple[str, ...], str]:
    for one in repository.sets(series):
        if snapshot_of(one):
            return read_users(one), read_detail(one).acl_file
    return (), ""


def _free(repository: Repository, series: str, point: datetime) -> datetime:
    # A replica that was detached is as old each time it is backed up, and no two sets have one name.
    while (repository.root / set_id(series, point)).exists():
        point += timedelta(microseconds=1)
    return point


def _holds(content: Content, release: str) -> RedisSnapshot:
    return RedisSnapshot(
        server_version=release,
        keys={str(db): keys for db, keys in sorted(content.keys.items())},
        expiring={str(db): keys for db, keys in sorted(content.expiring.items())},
        digest=content.digest,
        compression="gzip:1",
    )


def _restored(content: Content) -> Check:
    return Check(
        name="redis: the copy loads into an empty server",
        subject=Subject.DATA,
        outcome=Outcome.PASSED,
        expected="redis-check-rdb passes, every key can be read",
        seen=f"{sum(content.keys.values()):,} keys read",
    )


def _not_saved(why: str) -> RecoveryError:
    return RecoveryError(
        f"the server could not save a snapshot: {why}",
        state="it goes on with its data in memory; " + _UNTOUCHED,
        next_step="see to the disk and the memory of the server, then back up again",
    )
