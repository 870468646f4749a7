"""Restoring a Redis: the old data put aside whole, the copy laid where this server reads it, and what it loaded proved.

Which file that is depends on how the server keeps its data, and a wrong one is ignored without a word: so a server
that has just been started, empty, is asked first.
"""

from __future__ import annotations

import gzip
import os
import shutil
import threading
from datetime import datetime, timedelta
from pathlib import PurePosixPath

import redis

from recoup.catalog import BackupSet, Repository, problems
from recoup.errors import PreconditionError, ProgramError, RecoveryError, first_line
from recoup.records import Check, Frozen, Outcome, SkippedSet, now
from tasks.copies import CopyPlace
from tasks.copies_fetch import here_or_fetched
from tasks.redis_backup import take_snapshot
from tasks.redis_content import compare
from tasks.redis_reading import measure
from tasks.redis_scratch import PACKED, Program, prove_set, read_detail, snapshot_of
from tasks.redis_server import (
    Condition,
    Layout,
    Mode,
    RedisServer,
    answers,
    layout,
    wait_until_it_answers,
)
from tasks.redis_users import bring_users_back, lay_users_down
from tasks.step import note, step

RESTORE = timedelta(hours=4)
# $1 the data directory, $2 the file in it, $3 the manifest beside that, empty for none, $4 what stands in it.
_PLACE = """
set -eu
umask 077
owner=$(stat -c %u:%g "$1")
target=$1/$2
place=$(dirname "$target")
[ -d "$place" ] || { mkdir "$place"; chown "$owner" "$place"; }
trap 'rm -f "$target.part"' EXIT
dd of="$target.part" bs=65536 conv=fsync 2>/dev/null || { echo "$target cannot be written (disk full?)" >&2; exit 9; }
chown "$owner" "$target.part"
mv "$target.part" "$target"
if [ -n "$3" ]; then
  printf '%s\\n' "$4" >"$1/$3"
  chown "$owner" "$1/$3"
fi
sync
wc -c <"$target"
"""


class RedisChosen(Frozen):
    """The set to restore, and the newer ones that were skipped with the reason; ``of_replica``: taken of it."""

    set_id: str
    recovery_point: datetime
    of_replica: bool = False
    skipped: tuple[SkippedSet, ...] = ()

    def __str__(self) -> str:
        reasons = "; ".join(f"{s.set_id} ({s.reason})" for s in self.skipped)
        return f"{self.set_id}; skipped {len(self.skipped)}: {reasons}" if reasons else self.set_id


class RedisRestored(Frozen):
    """A server that has loaded a set and was compared with its manifest; ``aside`` says where the old data are."""

    set_id: str
    mode: Mode
    count: int
    aside: str
    checks: tuple[Check, ...]

    def __str__(self) -> str:
        return f"{self.count:,} keys loaded ({self.mode}); the old data are at {self.aside}"


class Placement(Frozen):
    """Where a copy is to lie, relative to the data directory; ``manifest`` names a file that must name it."""

    file: str
    manifest: str = ""
    line: str = ""


@step(timeout=timedelta(hours=2))
def choose_redis_backup(
    server: RedisServer, repository: Repository, wanted: str, copies: tuple[CopyPlace, ...] = ()
) -> RedisChosen:
    """Give the backup set to restore; see find_redis_backup. Where none is good here, one is fetched from a copy."""
    return here_or_fetched(
        lambda one: find_redis_backup(server, repository, one), copies, server.spec.store, repository, wanted
    )


def find_redis_backup(server: RedisServer, repository: Repository, wanted: str) -> RedisChosen:
    """Give the newest set that is whole (``latest``), or the named one; raises RecoveryError when there is none.

    A set is whole when every file has its sha256 and a throwaway server has loaded it before: at the backup, or else
    now.
    """
    known = repository.sets(server.spec.store)
    candidates = known if wanted == "latest" else (repository.get(server.spec.store, wanted),)
    skipped: list[SkippedSet] = []
    for one in candidates:
        note(f"verifying {one.set_id}")
        wrong = _wrong(server, repository, one)
        if not wrong and one.recovery_point:
            return RedisChosen(set_id=one.set_id, recovery_point=one.recovery_point, skipped=tuple(skipped))
        skipped.append(SkippedSet(set_id=one.set_id, reason=wrong))
    looked = "; ".join(f"{s.set_id}: {s.reason}" for s in skipped) or "there is no set at all"
    raise RecoveryError(
        f"no good backup set of {server.spec.store} in {repository.root}: {looked}",
        state="no data was touched",
        next_step="bring a good set into the repository (a copy elsewhere?), then run the recovery again",
    )


@step(timeout=RESTORE, retries=1)
def restore_redis(server: RedisServer, repository: Repository, set_id: str, label: str) -> RedisRestored:
    """Put the old data aside, lay the copy where this server reads it, start it and compare what it loaded.

    Whoever uses the server must be stopped before. Raises RecoveryError when any of it fails; the old data are whole
    where they were put. Repeated, what the attempt before had laid down is put aside as well.
    """
    service, stack = server.spec.service, server.stack
    one = repository.get(server.spec.store, set_id)
    _keep_what_is_in_memory(server)
    stack.stop(service)
    note("moving the old data aside")
    aside = stack.put_aside(service, label=label)
    try:
        acl_file = read_detail(one).acl_file
        lay_users_down(server, one, acl_file)
        place = _ask_an_empty_server(server)
        stack.stop(service)
        # What the empty server wrote is in the way of the copy, and may be the rest of an attempt before.
        stack.put_aside(service, label=f"{label}-tried-{now():%H%M%S%f}")
        note(f"laying the copy down ({place.mode})")
        _lay_down(server, one, place)
        lay_users_down(server, one, acl_file)
        stack.start(service)
        found = wait_until_it_answers(server)
        if found.condition is not Condition.HEALTHY:
            raise RecoveryError(f"the server does not load the copy: {found}\n{_log(server)}")
        checks = (*compare_with(server, one), *bring_users_back(server, one))
    except (redis.RedisError, ProgramError, OSError) as error:
        what = error.what if isinstance(error, ProgramError) else first_line(error)
        raise _failed(set_id, what, aside) from None
    except (RecoveryError, PreconditionError) as error:
        raise _failed(set_id, error.what, aside) from None
    failed = [check for check in checks if check.outcome is Outcome.FAILED]
    if failed:
        raise RecoveryError(
            f"what was restored from {set_id} is not what was backed up: "
            + "; ".join(f"{c.name}: {c.seen}, expected {c.expected}" for c in failed),
            state=f"the old data are whole at {aside}; the server runs with what was restored",
            next_step="see that nobody else writes to it, or use an older set: recoup recover redis --backup SET",
        )
    holds = snapshot_of(one)
    keys = sum(holds.keys.values()) if holds else 0
    return RedisRestored(set_id=set_id, mode=place.mode, count=keys, aside=aside, checks=checks)


def compare_with(server: RedisServer, one: BackupSet) -> tuple[Check, ...]:
    """Read every key the server holds and compare with a set, keys that have expired since left out."""
    holds = snapshot_of(one)
    if holds is None:
        raise PreconditionError(f"{one.set_id} holds no Redis snapshot")
    note("comparing every key with the set")
    with server.connect() as link:
        return compare(holds, read_detail(one), measure(link))


def placement(place: Layout) -> Placement:
    """Give where the copy must lie for a server that keeps its data so.

    A single append-only file may begin with an RDB (6.x), and then is nothing else; from 7 on its first part is one,
    and counts only when the manifest names it (Redis manual, persistence).
    """
    if place.mode is Mode.SNAPSHOT:
        return Placement(file=place.dump)
    if place.mode is Mode.SINGLE:
        return Placement(file=place.append)
    base = f"{place.append}.1.base.rdb"
    named = f'"{base}"' if " " in base else base
    directory = PurePosixPath(place.append_directory)
    return Placement(
        file=str(directory / base),
        manifest=str(directory / f"{place.append}.manifest"),
        line=f"file {named} seq 1 type b",
    )


def place_command(place: Layout) -> tuple[str, ...]:
    """Give the argv that lays a copy, read from its input, where the server reads it, and prints its size."""
    where = placement(place)
    return ("sh", "-c", _PLACE, "sh", place.directory, where.file, where.manifest, where.line)


def _wrong(server: RedisServer, repository: Repository, one: BackupSet) -> str:
    if found := problems(one):
        return found
    if snapshot_of(one) is None:
        return "it holds no Redis snapshot"
    if one.verified is not None:
        failed = [check for check in one.verified.checks if check.outcome is not Outcome.PASSED]
        return "" if one.verified.passed else f"its restore test failed: {failed[0].seen if failed else 'no check'}"
    try:
        with repository.staging(server.spec.store, now()) as place:
            failed = [c for c in prove_set(server, Program(), one, place) if c.outcome is not Outcome.PASSED]
    except (PreconditionError, OSError) as error:
        return f"it was never restored, and cannot be tried now: {first_line(error)}"
    return f"it cannot be restored: {failed[0].seen}" if failed else ""


def _keep_what_is_in_memory(server: RedisServer) -> None:
    """Have a server that answers save its data, so that what is put aside is whole; it may hold them in memory only."""
    if answers(server).condition not in (Condition.HEALTHY, Condition.UNSAVED):
        return
    with server.asking("a snapshot of the data in use", state="nothing was changed") as link:
        if any(link.keys().values()):
            note("saving the data in use before they are put aside")
            take_snapshot(link)


def _ask_an_empty_server(server: RedisServer) -> Layout:
    # One that ran before may have been told otherwise than what stands in its configuration.
    server.stack.start(server.spec.service)
    found = wait_until_it_answers(server)
    if found.condition is not Condition.HEALTHY:
        raise RecoveryError(f"the server does not start without data either: {found}\n{_log(server)}")
    with server.connect() as link:
        return layout(link)


def _lay_down(server: RedisServer, one: BackupSet, place: Layout) -> None:
    reader, writer = os.pipe()
    failures: list[str] = []
    sent: list[int] = []

    def pump() -> None:
        with os.fdopen(writer, "wb") as sink:
            try:
                with gzip.open(one.path / PACKED) as packed:
                    shutil.copyfileobj(packed, sink, 1 << 20)
                    sent.append(packed.tell())
            except BrokenPipeError:
                return
            except (OSError, EOFError) as error:
                failures.append(first_line(error))

    pumping = threading.Thread(target=pump, daemon=True)
    pumping.start()
    with os.fdopen(reader, "rb") as source:
        done = server.stack.beside(server.spec.service, place_command(place), timeout=RESTORE, stdin=source)
    pumping.join()
    if failures or [int(done.text)] != sent:
        raise RecoveryError(f"the copy was not laid down whole: {'; '.join(failures) or done.text}")


def _log(server: RedisServer) -> str:
    return server.stack.logs(server.spec.service, tail=6).strip()


def _failed(set_id: str, what: str, aside: str) -> RecoveryError:
    return RecoveryError(
        f"the restore of {set_id} failed: {what}",
        state=f"the old data are whole at {aside}; the server is down, or holds less than the set",
        next_step="mend what is named (space on its disk? version? who else uses it?), then run the recovery again",
    )
