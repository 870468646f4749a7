"""The receiver, base backups, retention and the heartbeat of a living server: nothing of its WAL is ever missing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recoup.errors import PreconditionError, RecoveryError
from recoup.target import Target
from recoup.wal import Segment, parse_lsn, reach
from tasks.heartbeat import beat, last_heartbeat, watching, witness_of
from tasks.postgres_base import prune_wal, take_base_backup
from tasks.postgres_choice import find_base
from tasks.postgres_replay import WITNESSED
from tasks.wal_receiver import have_it_received, prepare_continuous, receiver_of, wait_for_receiver
from tests.continuous import RECEIVER, Continuous, continuous, failed
from tests.stack_behaviour import eventually

SIZE = 16 << 20
SERIES = "database-base"


@pytest.fixture(scope="module")
def at(sandbox_state: Path) -> Iterator[Continuous]:
    with continuous("async", sandbox_state) as made:
        made.base()
        made.sql("CREATE TABLE public.notes (n int PRIMARY KEY)")
        yield made


@pytest.fixture(autouse=True)
def _received_again(at: Continuous) -> Iterator[None]:
    yield
    have_it_received(at.server)


def write(at: Continuous, n: int, *, switch: bool = False) -> None:
    at.sql(f"INSERT INTO public.notes VALUES ({n})")
    if switch:
        at.sql("SELECT pg_switch_wal()")


def streaming(at: Continuous) -> bool:
    return receiver_of(at.server).streaming


def no_gap(at: Continuous) -> None:
    """See that from each base backup every segment is there, up to what the server writes now."""
    at.received()
    now = parse_lsn(at.sql("SELECT pg_current_wal_flush_lsn()"))
    for one in at.repository.sets(SERIES):
        assert one.base is not None
        found = reach(at.dirs, one.base)
        assert found.wrong == ""
        assert found.whole <= now <= found.whole + (SIZE if found.partial else 0)


def settings(at: Continuous, name: str) -> str:
    return at.sql(f"SHOW {name}")


def test_the_server_is_set_to_what_it_needs_and_the_receiver_runs_as_its_user(at: Continuous) -> None:
    assert settings(at, "max_slot_wal_keep_size") == "16GB"
    assert settings(at, "summarize_wal") == "on"
    assert settings(at, "synchronous_standby_names") == ""
    assert at.sql("SELECT active FROM pg_replication_slots WHERE slot_name = 'recoup'") == "t"
    (who,) = at.receiving()
    data = at.sandbox.directory / "services" / "postgres" / "data"
    assert Path(f"/proc/{who.pid}").stat().st_uid == data.stat().st_uid
    assert {path.stat().st_uid for path in at.segments()} <= {data.stat().st_uid}


def test_asked_again_nothing_is_restarted(at: Continuous) -> None:
    (before,) = at.receiving()
    assert prepare_continuous.fn(at.server).streaming
    assert at.receiving() == [before]


def test_a_write_is_on_the_receiver_s_disk_at_once(at: Continuous) -> None:
    write(at, 1)
    at.received()
    lsn = parse_lsn(at.sql("SELECT pg_current_wal_flush_lsn()"))
    name = Segment(1, lsn // SIZE).name(SIZE)
    with (at.dirs[0] / f"{name}.partial").open("rb") as file:
        assert file.read(lsn % SIZE)[-8:].strip(b"\0")


def test_a_killed_receiver_comes_back_by_itself_and_leaves_no_gap(at: Continuous) -> None:
    (before,) = at.receiving()
    os.kill(before.pid, signal.SIGKILL)
    for n in range(10, 14):
        write(at, n, switch=True)
    eventually("it is received again", lambda: streaming(at))
    (after,) = at.receiving()
    assert after != before
    no_gap(at)


def test_a_receiver_that_is_stopped_is_started_and_leaves_no_gap(at: Continuous) -> None:
    at.stack.kill(RECEIVER)
    assert not at.receiving()
    eventually("the server knows", lambda: not streaming(at))
    for n in range(20, 24):
        write(at, n, switch=True)
    found = receiver_of(at.server)
    assert not found.streaming
    assert found.kept > 3 * SIZE
    assert prepare_continuous.fn(at.server).streaming
    no_gap(at)


def test_a_receiver_whose_disk_was_full_goes_on_once_there_is_room(at: Continuous) -> None:
    """A full disk leaves a segment that is too short for pg_receivewal; the server still has what belongs into it."""
    write(at, 30)
    at.received()
    at.stack.kill(RECEIVER)
    os.truncate(at.partial(), 5000)
    write(at, 31)
    have_it_received(at.server)
    no_gap(at)


def test_a_receiver_that_never_comes_is_named_with_its_last_words(at: Continuous) -> None:
    at.stack.stop(RECEIVER)
    away = at.wal.with_name("away")
    at.wal.rename(away)
    at.wal.write_text("no directory")
    try:
        at.stack.start(RECEIVER)
        with pytest.raises(RecoveryError, match=f"is not received after 2 s: .*{at.wal}") as refused:
            wait_for_receiver(at.server, timedelta(seconds=2))
        assert RECEIVER in refused.value.next_step
    finally:
        at.stack.stop(RECEIVER)
        at.wal.unlink()
        away.rename(at.wal)


def test_a_server_that_was_killed_is_received_again_without_a_gap(at: Continuous) -> None:
    write(at, 40, switch=True)
    at.stack.kill("postgres")
    at.stack.start("postgres")
    eventually("it answers", lambda: at.stack.state("postgres").health == "healthy")
    write(at, 41)
    have_it_received(at.server)
    no_gap(at)


def test_a_plan_without_continuous_backup_says_so(at: Continuous) -> None:
    name, spec = at.plan.postgres()
    bare = spec.model_copy(update={"continuous": None})
    plan = at.plan.model_copy(update={"components": {**at.plan.components, name: bare}})
    with pytest.raises(PreconditionError, match="no continuous backup"):
        take_base_backup.fn(Continuous(at.sandbox, plan, at.stack).server, at.repository, False)


def test_two_base_backups_at_once_are_both_good(at: Continuous) -> None:
    with ThreadPoolExecutor() as pool:
        taken = [pool.submit(at.base, incremental=one) for one in (False, True)]
        made = [one.result(timeout=60) for one in taken]
    assert len({one.set_id for one in made}) == 2
    known = {one.set_id for one in at.repository.sets(SERIES)}
    for one in made:
        assert one.set_id in known
        with at.restored(one.set_id, "latest") as (beside, checks):
            assert at.sql("SELECT count(*) FROM records WHERE id LIKE 'seed-%'", beside=beside) == "6000"
        assert not failed(checks)
    assert not list(at.repository.root.glob(".*")), "something half-made was left"


def test_restored_while_it_is_written_nothing_is_called_damaged(at: Continuous) -> None:
    stop, count = threading.Event(), 1000
    at.received()

    def busy() -> None:
        nonlocal count
        with at.server.connect() as connection:
            while not stop.is_set():
                connection.execute(
                    "INSERT INTO public.notes SELECT generate_series(%s::int, %s::int)", [count, count + 99]
                )
                count += 100

    writer = threading.Thread(target=busy)
    writer.start()
    try:
        chosen = find_base(at.server, at.repository, Target())
        with watching(at.server, lambda _: None), at.restored(chosen.set_id, "latest") as (_, checks):
            assert not failed(checks)
    finally:
        stop.set()
        writer.join()


def test_the_heartbeat_is_witnessed_only_once_it_was_received(at: Continuous) -> None:
    at.stack.stop(RECEIVER)
    eventually("the server knows", lambda: not streaming(at))
    before = witness_of(at.wal)
    told: list[str] = []
    quick = at.with_policy(heartbeat=timedelta(seconds=0.2))
    with watching(quick.server, told.append):
        eventually("it says so", lambda: told == ["the WAL is not received"])
        with at.server.connect() as connection:
            eventually("a heartbeat is written", lambda: last_heartbeat(connection) is not None)
        # Several rounds of the watch.
        time.sleep(1)
        assert witness_of(at.wal) == before, "nobody has received this heartbeat"
        at.stack.start(RECEIVER)
        eventually("it says so", lambda: told[-1] == "the WAL is received")
        eventually("it is witnessed", lambda: witness_of(at.wal) != before)
    witness = witness_of(at.wal)
    assert witness is not None
    flushed = receiver_of(at.server).flushed
    assert parse_lsn(witness.lsn) <= parse_lsn(flushed)
    chosen = find_base(at.server, at.repository, Target())
    with at.restored(chosen.set_id, "latest") as (beside, checks):
        with beside.connect() as connection:
            held = last_heartbeat(connection)
        assert held is not None
        assert held >= witness.at
        assert checks[WITNESSED].outcome == "passed"
    # What is restored to before the heartbeat does not hold it, and must not pass for the latest.
    later = witness.model_copy(update={"at": datetime.now(UTC), "count": witness.count + 10})
    # Also one by an older recoup, which did not count them.
    for missing in (later, later.model_copy(update={"count": 0})):
        (at.wal / "witness.json").write_text(missing.model_dump_json())
        with at.restored(chosen.set_id, "latest") as (_, checks):
            assert len(failed(checks)) == 1


def test_no_heartbeat_where_the_plan_has_none(at: Continuous) -> None:
    beat(at.server)
    with at.server.connect() as connection:
        before = last_heartbeat(connection)
        told: list[str] = []
        with watching(at.with_policy(heartbeat=None).server, told.append):
            eventually("it watches", lambda: bool(told))
            write(at, 60)
            at.received()
        assert last_heartbeat(connection) == before


def test_the_watch_outlives_the_server(at: Continuous) -> None:
    told: list[str] = []
    with watching(at.with_policy(heartbeat=timedelta(seconds=0.2)).server, told.append):
        eventually("it watches", lambda: told == ["the WAL is received"])
        at.stack.kill("postgres")
        eventually("it says what it sees", lambda: told[-1].startswith("no heartbeat: "))
        at.stack.start("postgres")
        eventually("it goes on", lambda: told[-1] in ("the WAL is received", "the WAL is not received"))


def test_only_what_no_kept_base_backup_needs_is_pruned(at: Continuous) -> None:
    # Whole ones are counted: what changed since one goes with it.
    alone, kept = (at.with_policy(base={"interval": "1d", "keep": keep}) for keep in (1, 2))
    write(at, 70, switch=True)
    first = alone.base()
    write(at, 71, switch=True)
    second = alone.base(incremental=True)
    # The incremental one needs the files of the first, and its WAL is needed for as long as that is kept.
    assert {one.set_id for one in at.repository.sets(SERIES)} == {first.set_id, second.set_id}
    oldest = parse_lsn(first.start_lsn) // SIZE
    assert min(path.name for path in at.segments()) == Segment(1, oldest).name(SIZE)
    write(at, 72, switch=True)
    third = kept.base()
    fourth = kept.base()
    assert {one.set_id for one in at.repository.sets(SERIES)} == {third.set_id, fourth.set_id}
    assert first.set_id in (*third.pruned, *fourth.pruned)
    assert min(path.name for path in at.segments()) == Segment(1, parse_lsn(third.start_lsn) // SIZE).name(SIZE)
    no_gap(at)
    with at.restored(third.set_id, "latest") as (beside, checks):
        assert at.sql("SELECT count(*) FROM public.notes WHERE n BETWEEN 70 AND 72", beside=beside) == "3"
    assert not failed(checks)


def test_without_a_base_backup_no_wal_is_pruned(at: Continuous, tmp_path: Path) -> None:
    platform = at.plan.platform.model_copy(update={"repository": tmp_path})
    bare = Continuous(at.sandbox, at.plan.model_copy(update={"platform": platform}), at.stack)
    before = at.segments()
    assert prune_wal(bare.server, bare.repository) == 0
    assert at.segments() == before
