"""What can be reached is known before anything is moved: base by base, from what stands in the WAL itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.database import DatabaseRecovery, run_recovery
from recoup.errors import RecoveryError
from recoup.records import Verdict
from recoup.target import Target, parse_target
from tasks.postgres_base import BaseTaken
from tasks.postgres_choice import find_base
from tasks.wal_receiver import have_it_received, receiver_of
from tests.continuous import RECEIVER, Continuous, continuous, failed, flip
from tests.stack_behaviour import eventually

NEVER = 2_000_000_000


@dataclass(frozen=True)
class Written:
    """Transactions by when they ended: between the base backups, after the newer one (though begun before it)."""

    at: Continuous
    older: BaseTaken
    newer: BaseTaken
    between: str
    across: str


@pytest.fixture(scope="module")
def written(sandbox_state: Path) -> Iterator[Written]:
    with continuous("async", sandbox_state) as at:
        at.sql("CREATE TABLE public.notes (n int)")
        older = at.base()
        at.sql("INSERT INTO public.notes VALUES (1)")
        between = at.sql("BEGIN; INSERT INTO public.notes VALUES (2); SELECT pg_current_xact_id(); COMMIT")
        with at.server.connect() as connection, connection.transaction():
            connection.execute("INSERT INTO public.notes VALUES (3)")
            row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
            assert row is not None
            newer = at.base()
        at.sql("INSERT INTO public.notes VALUES (4)")
        at.received()
        yield Written(at, older, newer, between, str(row[0]))


@pytest.fixture(autouse=True)
def _received(written: Written) -> Iterator[None]:
    yield
    have_it_received(written.at.server)


def clock(at: Continuous) -> datetime:
    return datetime.fromisoformat(at.sql("SELECT clock_timestamp() AT TIME ZONE 'UTC'")).replace(tzinfo=UTC)


def notes(at: Continuous, to: Target) -> str:
    """Give what a server restored to a moment holds, by the base backup that is chosen for it."""
    chosen = find_base(at.server, at.repository, to)
    with at.restored(chosen.set_id, chosen.to) as (beside, checks):
        assert not failed(checks)
        return at.sql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM public.notes", beside=beside)


def test_a_transaction_before_the_newest_base_backup_is_reached_from_the_older(written: Written) -> None:
    to = Target(xid=int(written.between))
    chosen = find_base(written.at.server, written.at.repository, to)
    assert chosen.set_id == written.older.set_id
    (skipped,) = chosen.skipped
    assert skipped.set_id == written.newer.set_id
    assert f"transaction {written.between}" in skipped.reason
    assert notes(written.at, to) == "1"


def test_what_counts_is_where_a_transaction_ended_not_where_it_began(written: Written) -> None:
    to = Target(xid=int(written.across))
    assert find_base(written.at.server, written.at.repository, to).set_id == written.newer.set_id
    assert notes(written.at, to) == "1 2"
    # As the server says it where more than four thousand million were made before.
    assert find_base(written.at.server, written.at.repository, Target(xid=int(written.across) + (1 << 32))).set_id


def test_a_transaction_that_is_nowhere_is_refused_before_anything_is_touched(written: Written, tmp_path: Path) -> None:
    at = written.at
    with pytest.raises(RecoveryError, match=f"the end of transaction {NEVER} is not in the WAL") as refused:
        find_base(at.server, at.repository, Target(xid=NEVER))
    assert refused.value.state == "no data was touched"
    data = at.sandbox.directory / "services" / "postgres" / "data"
    before = (data / "postmaster.pid").read_text(), data.stat().st_ino
    request = DatabaseRecovery(plan=at.sandbox.plan, to=f"xid:{NEVER}")
    record = run_recovery(at.plan, request, ledger=tmp_path / "ledger.jsonl")
    assert record.verdict is Verdict.NOT_RECOVERED
    assert f"the end of transaction {NEVER}" in record.why
    assert ((data / "postmaster.pid").read_text(), data.stat().st_ino) == before


def test_a_transaction_behind_damage_is_told_from_one_that_never_was(written: Written) -> None:
    damaged = written.at.copy()
    # Beyond the newer base backup's beginning: the segment still looks right from outside.
    at = int(written.newer.start_lsn.partition("/")[2], 16) % (16 << 20)
    flip(damaged.partial(), at + 60)
    with pytest.raises(RecoveryError, match=rf"transaction {NEVER} is not in the WAL.*is damaged"):
        find_base(damaged.server, damaged.repository, Target(xid=NEVER))


def test_a_time_after_the_last_commit_is_the_end_of_what_was_received(written: Written) -> None:
    """No heartbeat is written here: the server has been idle, and the receiver has all there is."""
    at = written.at
    moment = clock(at)
    assert moment > clock(at) - timedelta(minutes=1)
    chosen = find_base(at.server, at.repository, Target(time=moment))
    assert parse_target(chosen.to).through
    assert "all that was received is of before the moment" in chosen.why
    at.sql("INSERT INTO public.notes VALUES (5)")
    try:
        # What came after the choice is not in it.
        with at.restored(chosen.set_id, chosen.to) as (beside, checks):
            assert not failed(checks)
            assert at.sql("SELECT max(n) FROM public.notes", beside=beside) == "4"
        at.received()
        # Now a commit lies behind it, by which the server itself finds the moment.
        assert find_base(at.server, at.repository, Target(time=moment)).to == moment.isoformat()
        assert notes(at, Target(time=moment)) == "1 2 3 4"
    finally:
        at.sql("DELETE FROM public.notes WHERE n = 5")


def test_a_time_until_which_nobody_knows_what_was_written_is_refused(written: Written) -> None:
    at = written.at
    time.sleep(0.1)
    at.sql("CHECKPOINT")
    at.received()
    at.stack.stop(RECEIVER)
    eventually("the server knows", lambda: not receiver_of(at.server).streaming)
    at.sql("INSERT INTO public.notes VALUES (6)")
    try:
        with pytest.raises(RecoveryError, match=r"the last transaction received since it is of .* is not known") as no:
            find_base(at.server, at.repository, Target(time=clock(at)))
        assert no.value.state == "no data was touched"
        # It was received until this very moment, and then nothing more.
        last = datetime.fromtimestamp(at.partial().stat().st_mtime, UTC)
        assert parse_target(find_base(at.server, at.repository, Target(time=last)).to).through
    finally:
        at.sql("DELETE FROM public.notes WHERE n = 6")


def test_an_lsn_at_the_end_is_reached_and_one_beyond_it_is_refused(written: Written) -> None:
    at = written.at
    at.received()
    end = at.sql("SELECT pg_current_wal_insert_lsn()")
    assert notes(at, Target(lsn=end)) == "1 2 3 4"
    with pytest.raises(RecoveryError, match=r"the WAL received since it ends at .*, before 0/7F000000"):
        find_base(at.server, at.repository, Target(lsn="0/7F000000"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files that the server's user cannot read")
def test_wal_that_only_root_may_read_is_looked_through_as_well(written: Written) -> None:
    copy = written.at.copy()
    for path in [*copy.segments(), copy.partial()]:
        os.chown(path, 0, 0)
        path.chmod(0o600)
    assert find_base(copy.server, copy.repository, Target(xid=int(written.across))).set_id == written.newer.set_id
