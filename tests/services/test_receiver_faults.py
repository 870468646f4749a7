"""A receiver whose disk is full, or that came too late: what is lost is told, and what comes after it is kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.continuous import mending
from recoup.errors import RecoveryError
from recoup.plan import DirectoryCopy
from recoup.target import Target
from tasks.copies import CopyPlace
from tasks.heartbeat import watching, witness_of
from tasks.postgres_choice import find_base, lost_since
from tasks.standing import received_until
from tasks.wal_receiver import have_it_received, receiver_of
from tasks.wal_shipping import Shipper, bring_wal
from tests.continuous import RECEIVER, Continuous, continuous, failed
from tests.services.test_postgres_disk_full import MEGABYTE, fill, may_mount, small_disk
from tests.stack_behaviour import eventually

QUICK = timedelta(seconds=0.2)


@pytest.fixture
def at(sandbox_state: Path) -> Iterator[Continuous]:
    with continuous("async", sandbox_state) as made:
        made.sql("CREATE TABLE public.notes (n int)")
        yield made


def write(at: Continuous, *notes: int) -> None:
    for n in notes:
        at.sql(f"INSERT INTO public.notes VALUES ({n}); SELECT pg_switch_wal()")


def clock(at: Continuous) -> datetime:
    return datetime.fromisoformat(at.sql("SELECT clock_timestamp() AT TIME ZONE 'UTC'")).replace(tzinfo=UTC)


def held(at: Continuous, to: Target) -> str:
    chosen = find_base(at.server, at.repository, to)
    with at.restored(chosen.set_id, chosen.to) as (beside, checks):
        assert not failed(checks)
        return at.sql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM public.notes", beside=beside)


def lose_the_slot(at: Continuous) -> None:
    """Have the server write more than it keeps for a receiver that is away."""
    at.stack.stop(RECEIVER)
    eventually("the server knows", lambda: not receiver_of(at.server).streaming)
    write(at, *range(100, 106))

    def lost() -> bool:
        at.sql("CHECKPOINT")
        return receiver_of(at.server).lost

    eventually("the slot is lost", lost)


def test_a_slot_that_was_lost_is_told_made_anew_and_a_base_backup_is_begun(at: Continuous, tmp_path: Path) -> None:
    small = at.with_policy(slot_keep="32MB", heartbeat=QUICK)
    have_it_received(small.server)
    older = small.base()
    write(small, 1)
    moment = clock(small)
    write(small, 2)
    small.received()
    told: list[str] = []
    begun = mending(small.plan, small.stack, "", told.append)
    with watching(small.server, told.append):
        lose_the_slot(small)
        eventually("it is told", lambda: "some of it is lost: a new base backup is needed" in told[-1])
        assert "its slot is lost" in str(receiver_of(small.server))
        small.stack.start(RECEIVER)
        eventually("it is received again", lambda: told[-1] == "the WAL is received")
    assert "made anew" in small.stack.logs(RECEIVER, tail=50)
    write(small, 3)
    small.received()

    # The gap is seen, by who restores and by recoup ready; what lies before it is reached.
    assert "is missing, though later ones are there" in lost_since(small.server, small.repository)
    with pytest.raises(RecoveryError, match="is missing, though later ones are there"):
        find_base(small.server, small.repository, Target())
    spec = small.plan.postgres()[1]
    assert "is missing" in received_until(spec, small.repository.sets("database-base"))[1]
    assert held(small, Target(time=moment)) == "1"

    begun().join(120)
    assert "taking a new base backup" in told[-2], told
    assert "taken: " in told[-1], told
    assert lost_since(small.server, small.repository) == ""
    assert find_base(small.server, small.repository, Target()).set_id > older.set_id
    write(small, 4)
    small.received()
    everything = f"1 2 3 4 {' '.join(str(n) for n in range(100, 106))}"
    assert held(small, Target()) == everything
    # Asked again, nothing is to be done.
    before = len(told)
    begun().join(60)
    assert len(told) == before

    # And all of it is shipped, whatever its directory is called.
    copy = DirectoryCopy(name="disk", path=tmp_path)
    Shipper(small.wal, CopyPlace.open(copy, small.repository.root)).ship()
    brought = small.with_policy(wal=small.sandbox.directory / "brought")
    brought.wal.mkdir(mode=0o755)
    base = small.repository.sets("database-base")[0].base
    assert base is not None
    assert bring_wal(CopyPlace.open(copy, small.repository.root), brought.wal, base).count
    assert [place.name for place in brought.dirs] == [place.name for place in small.dirs]
    assert held(brought, Target()) == everything


@pytest.mark.skipif(not may_mount(), reason="only who may mount a small disk can fill one")
def test_a_disk_of_the_receiver_that_is_really_full_costs_nothing_once_there_is_room(at: Continuous) -> None:
    quick = at.with_policy(heartbeat=QUICK)
    at.base()
    at.received()
    at.stack.stop(RECEIVER)
    owner, before = at.wal.stat(), at.wal.with_name("wal.before")
    at.wal.rename(before)
    with small_disk(at.wal, 256 * MEGABYTE, f",uid={owner.st_uid},gid={owner.st_gid},mode=0755"):
        for path in before.iterdir():
            shutil.copytree(path, at.wal / path.name) if path.is_dir() else shutil.copy2(path, at.wal)
        for path in at.wal.rglob("*"):
            os.chown(path, owner.st_uid, owner.st_gid)
        at.stack.start(RECEIVER)
        eventually("it is received", lambda: receiver_of(at.server).streaming)
        told: list[str] = []
        with watching(quick.server, told.append):
            eventually("it is watched", lambda: told == ["the WAL is received"] and witness_of(at.wal) is not None)
            fill(at.wal / "filler", 0)
            write(at, 1, 2, 3, 4, 5)
            eventually("it is told", lambda: told[-1] == "the WAL is not received")
            assert "No space left on device" in at.stack.logs(RECEIVER, tail=200)
            seen = receiver_of(at.server)
            assert not seen.lost
            assert seen.kept > 16 * MEGABYTE, "the server keeps what was not received"
            assert at.sql("SELECT count(*) FROM public.notes") == "5", "it serves on"
            # What is noted grows old, and nothing newer is claimed.
            late = witness_of(at.wal)
            assert late is not None
            received, _ = received_until(at.plan.postgres()[1], at.repository.sets("database-base"))
            assert received is None or received <= (late.seen or late.at)
            (at.wal / "filler").unlink()
            eventually("it is received again", lambda: told[-1] == "the WAL is received", timedelta(seconds=60))
        at.received()
        assert lost_since(at.server, at.repository) == ""
        assert held(at, Target()) == "1 2 3 4 5"
        at.stack.stop(RECEIVER)
    for path in at.wal.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    at.wal.rmdir()
    before.rename(at.wal)
