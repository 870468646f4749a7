"""With zero-loss each commit waits for the receiver; when that is gone the plan decides who waits, and for how long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.heartbeat import last_heartbeat, watching
from tasks.wal_receiver import have_it_received, receiver_of, set_synchronous, wait_for_receiver
from tests.continuous import RECEIVER, Continuous, continuous
from tests.stack_behaviour import eventually

PATIENCE = timedelta(seconds=2)


@pytest.fixture(scope="module")
def made(sandbox_state: Path) -> Iterator[Continuous]:
    with continuous("zero-loss", sandbox_state) as found:
        found.sql("CREATE TABLE public.notes (n int)")
        yield found


@pytest.fixture
def at(made: Continuous) -> Iterator[Continuous]:
    yield made
    made.stack.start(RECEIVER)
    have_it_received(made.server)


class Commit(threading.Thread):
    """One commit by a client of its own, which may hang."""

    def __init__(self, at: Continuous, n: int) -> None:
        super().__init__(daemon=True)
        self._at, self._n = at, n
        self.acknowledged = threading.Event()
        self.warned: list[str] = []

    def run(self) -> None:
        with self._at.server.connect(statement=timedelta(minutes=2)) as connection:
            connection.add_notice_handler(lambda said: self.warned.append(said.message_primary or ""))
            connection.execute("INSERT INTO public.notes VALUES (%s)", [self._n])
            self.acknowledged.set()


@contextmanager
def hanging(at: Continuous, n: int) -> Iterator[Commit]:
    """Give a commit that waits for a receiver that was stopped."""
    at.stack.stop(RECEIVER)
    eventually("the server knows", lambda: not receiver_of(at.server).streaming)
    commit = Commit(at, n)
    commit.start()
    eventually("it waits", lambda: waiting(at) == 1)
    assert not commit.acknowledged.is_set()
    yield commit
    commit.join(30)
    assert not commit.is_alive()
    assert commit.warned == []


def waiting(at: Continuous) -> int:
    return int(at.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))


def waits_for(at: Continuous) -> str:
    return at.sql("SHOW synchronous_standby_names")


def there(at: Continuous, n: int) -> bool:
    return at.sql(f"SELECT count(*) FROM public.notes WHERE n = {n}") == "1"


def test_the_server_waits_for_the_receiver_alone(at: Continuous) -> None:
    assert waits_for(at) == "recoup"
    assert receiver_of(at.server).synchronous
    assert at.sql("SHOW synchronous_commit") == "on"


def test_what_was_acknowledged_is_on_the_receiver_s_disk(at: Continuous) -> None:
    with at.server.connect() as connection:
        for n in range(20):
            connection.execute("INSERT INTO public.notes VALUES (%s)", [-n])
            row = connection.execute(
                "SELECT pg_current_wal_flush_lsn() <= flush_lsn FROM pg_stat_replication WHERE state = 'streaming'"
            ).fetchone()
            assert row == (True,)


def test_without_the_receiver_a_commit_hangs_until_it_is_back(at: Continuous) -> None:
    with hanging(at, 1) as commit:
        assert not commit.acknowledged.wait(1)
        assert not there(at, 1)
        at.stack.start(RECEIVER)
        assert commit.acknowledged.wait(30)
    assert there(at, 1)


def test_after_its_patience_the_watch_lets_the_server_serve_and_later_wait_again(at: Continuous) -> None:
    told: list[str] = []
    impatient = at.with_policy(without_receiver="serve", patience=PATIENCE)
    with watching(impatient.server, told.append):
        with hanging(at, 2) as commit:
            assert commit.acknowledged.wait(30)
            assert waits_for(at) == ""
            assert any("a loss is possible" in one for one in told)
        served = Commit(at, 3)
        served.start()
        assert served.acknowledged.wait(10), "who comes later does not wait any more"
        assert not receiver_of(at.server).streaming
        at.stack.start(RECEIVER)
        eventually("each commit waits again", lambda: waits_for(at) == "recoup")
        wait_for_receiver(at.server, timedelta(seconds=30), synchronous=True)
        assert "the receiver is back: each commit waits for it again" in told
    assert there(at, 2)
    assert there(at, 3)


def test_the_heart_goes_on_beating_without_the_receiver(at: Continuous) -> None:
    at.stack.stop(RECEIVER)
    eventually("the server knows", lambda: not receiver_of(at.server).streaming)
    seen = set()

    def beats() -> int:
        with at.server.connect() as connection:
            seen.add(last_heartbeat(connection))
        return len(seen)

    with watching(at.server, lambda _: None):
        # The first may be of before, the second be one that is then waited for.
        eventually("more than one new beat", lambda: beats() >= 3)


def test_a_short_absence_changes_nothing(at: Continuous) -> None:
    patient = at.with_policy(without_receiver="serve", patience=timedelta(minutes=5))
    told: list[str] = []
    with watching(patient.server, told.append), hanging(at, 4) as commit:
        eventually("the watch sees it", lambda: "the WAL is not received" in told)
        assert not commit.acknowledged.wait(1.5)
        assert waits_for(at) == "recoup"
        at.stack.start(RECEIVER)
        assert commit.acknowledged.wait(30)


def test_where_the_plan_says_wait_nobody_is_ever_let_go(at: Continuous) -> None:
    strict = at.with_policy(without_receiver="wait", patience=timedelta(seconds=0.5), heartbeat=timedelta(seconds=0.2))
    told: list[str] = []
    with watching(strict.server, told.append), hanging(at, 5) as commit:
        with at.server.connect() as connection:
            before = last_heartbeat(connection)
            # The heartbeat waits for nobody: the watch itself must not hang with the rest.
            eventually("the watch lives", lambda: last_heartbeat(connection) not in (None, before))
        assert not commit.acknowledged.wait(2)
        assert waits_for(at) == "recoup"
        at.stack.start(RECEIVER)
        assert commit.acknowledged.wait(30)
    assert there(at, 5)


def test_a_server_told_to_serve_alone_is_set_to_wait_again_when_prepared(at: Continuous) -> None:
    set_synchronous(at.server, waits=False)
    assert waits_for(at) == ""
    assert have_it_received(at.server).synchronous
    assert waits_for(at) == "recoup"
