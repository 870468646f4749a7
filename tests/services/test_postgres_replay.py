"""A server restored from base backup and WAL holds what it held at that very moment, or nobody is told that it does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from recoup.errors import RecoveryError
from recoup.records import Outcome
from recoup.stacks import proctable
from recoup.target import Target
from recoup.wal import parse_lsn
from recoup.wal_rest import rest
from tasks.heartbeat import Witness
from tasks.postgres import Server
from tasks.postgres_backup import take_database_backup
from tasks.postgres_base import BaseTaken
from tasks.postgres_choice import choose_base, find_base
from tasks.postgres_replay import restored_server
from tasks.wal_scan import _RECORD, _scan
from tests.continuous import Continuous, continuous, failed, flip, own

HEARTBEAT = "the last heartbeat that was received is there"
REPLAYED = "all that was received is replayed"
# Segments of PostgreSQL's default size.
SIZE = 16 << 20


@dataclass(frozen=True)
class History:
    """What was written, and when, in a copy that nobody writes to; ``live`` is where it was made.

    Notes 1 and 2 lie before the newer base backup, 3 and 4 after it; then a table is dropped, ``full`` is a segment
    full of records, and note 5 is in the one that was not received to its end.
    """

    live: Continuous
    at: Continuous
    older: BaseTaken
    newer: BaseTaken
    before_any: datetime
    between: datetime
    after_three: datetime
    before_four: str
    dropping: str
    full: str


@pytest.fixture(scope="module")
def history(sandbox_state: Path) -> Iterator[History]:
    with continuous("async", sandbox_state) as live:
        before_any = _clock(live)
        older = live.base()
        live.sql("CREATE TABLE public.notes (n int); CREATE TABLE public.precious AS SELECT 42 AS answer")
        live.sql("INSERT INTO public.notes VALUES (1)")
        between = _clock(live)
        live.sql("SELECT pg_switch_wal()")
        live.sql("INSERT INTO public.notes VALUES (2)")
        newer = live.base(incremental=True)
        assert newer.parent == older.set_id
        live.sql("INSERT INTO public.notes VALUES (3)")
        after_three, before_four = _clock(live), live.sql("SELECT pg_current_wal_insert_lsn()")
        live.sql("INSERT INTO public.notes VALUES (4)")
        dropping = live.sql("BEGIN; SELECT pg_current_xact_id(); DROP TABLE public.precious; COMMIT")
        live.sql("SELECT pg_switch_wal()")
        full = live.sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        live.sql("CREATE TABLE public.bulk AS SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 50000) n")
        live.sql("SELECT pg_switch_wal()")
        live.sql("INSERT INTO public.notes VALUES (5)")
        live.received()
        yield History(live, live.copy(), older, newer, before_any, between, after_three, before_four, dropping, full)


@pytest.fixture
def damaged(history: History) -> Iterator[Continuous]:
    """Give a copy of what was received, for one test to damage."""
    made = history.at.copy(linked=True)
    yield made
    shutil.rmtree(made.wal.parent)


def _clock(at: Continuous) -> datetime:
    return datetime.fromisoformat(at.sql("SELECT clock_timestamp() AT TIME ZONE 'UTC'")).replace(tzinfo=UTC)


def notes(at: Continuous, beside: Server) -> str:
    return at.sql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM public.notes", beside=beside)


def precious(at: Continuous, beside: Server) -> bool:
    return at.sql("SELECT to_regclass('public.precious') IS NOT NULL", beside=beside) == "t"


def segment(at: Continuous, name: str) -> Path:
    (found,) = (path for path in at.segments() if path.name == name)
    return found


def witnessed(at: Continuous, lsn: str) -> None:
    """Leave the witness of a heartbeat that had been received up to an LSN."""
    assert at.wal.parent.name.startswith("copy-")
    system = at.dirs[0].name.partition("-")[0]
    witness = Witness(system_identifier=system, at=datetime(2026, 1, 1, tzinfo=UTC), lsn=lsn)
    (at.wal / "witness.json").write_text(witness.model_dump_json())


def test_wal_of_a_receiver_that_was_away_gives_way_to_a_newer_dump(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = history.at.copy()
    # As when the server is dead: nobody can be asked what it has sent.
    monkeypatch.setattr("tasks.wal_scan._live", lambda *_: None)
    assert choose_base.fn(at.server, at.repository, "latest").set_id == history.newer.set_id
    long_ago = datetime.now(UTC).timestamp() - 3600
    for path in at.wal.rglob("0*"):
        os.utime(path, (long_ago, long_ago))
    assert choose_base.fn(at.server, at.repository, "latest").set_id == history.newer.set_id
    dump = take_database_backup.fn(at.server, at.repository).set_id
    found = choose_base.fn(at.server, at.repository, "latest")
    assert (found.set_id, dump in found.why) == ("", True), found
    assert choose_base.fn(at.server, at.repository, f"lsn:{history.before_four}").set_id == history.newer.set_id
    shutil.rmtree(at.wal.parent)


def test_a_last_commit_that_ends_in_zeros_is_known_to_be_whole(history: History) -> None:
    """The last byte of a commit is of its time, and 0 for centuries: not told from what was never received."""
    base = history.at.repository.get("database-base", history.newer.set_id).base
    assert base is not None
    said = _scan(history.at.server, history.at.dirs, base, parse_lsn(base.start_lsn), "commit")
    found = _RECORD.search(said)
    assert found is not None, said
    commit, length = parse_lsn(found["lsn"]), int(found["length"])
    after = commit + length
    assert "was not replayed" in rest(history.at.dirs, base, commit, after - 1).damaged
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recoup.wal_rest._crc32c", lambda _: 0)
        assert "is damaged, or is not there" in rest(history.at.dirs, base, commit, after - 1).unclear


def test_to_the_latest_moment_everything_is_there(history: History) -> None:
    chosen = find_base(history.at.server, history.at.repository, Target())
    assert (chosen.set_id, chosen.skipped) == (history.newer.set_id, ())
    with history.at.restored(chosen.set_id, "latest") as (beside, checks):
        assert notes(history.at, beside) == "1 2 3 4 5"
        assert not precious(history.at, beside)
        assert history.at.sql("SELECT count(*) FROM public.bulk", beside=beside) == "50000"
        assert history.at.sql("SELECT count(*) FROM records WHERE id LIKE 'seed-%'", beside=beside) == "6000"
        assert history.at.sql("SELECT pg_is_in_recovery()", beside=beside) == "f"
    assert not failed(checks)
    assert checks[REPLAYED].outcome is Outcome.PASSED
    # Without a heartbeat nobody can tell, and nobody says so.
    assert checks[HEARTBEAT].outcome is Outcome.UNPROVEN


@pytest.mark.parametrize(
    ("base", "kind", "expected"),
    [("newer", "time", "1 2 3"), ("newer", "lsn", "1 2 3"), ("newer", "xid", "1 2 3 4"), ("older", "xid", "1 2 3 4")],
)
def test_to_a_moment_all_before_it_is_there_and_nothing_after(
    base: str, kind: str, expected: str, history: History
) -> None:
    to = {
        "time": history.after_three.isoformat(),
        "lsn": f"lsn:{history.before_four}",
        "xid": f"xid:{history.dropping}",
    }[kind]
    with history.at.restored(getattr(history, base).set_id, to) as (beside, checks):
        assert notes(history.at, beside) == expected
        assert precious(history.at, beside)
        assert history.at.sql("SELECT answer FROM public.precious", beside=beside) == "42"
    assert not failed(checks)
    assert checks["the moment was reached"].outcome is Outcome.PASSED


def test_nothing_of_a_restored_server_is_left(history: History) -> None:
    with history.at.restored(history.newer.set_id, "latest") as (beside, _):
        assert beside.at is not None
        assert beside.at.is_dir()
        (place,) = history.at.plan.platform.scratch.iterdir()
        assert proctable.dwelling(place)
    assert list(history.at.plan.platform.scratch.iterdir()) == []
    assert proctable.dwelling(place) == ()


def test_the_last_writes_are_in_the_segment_that_was_not_received_to_its_end(
    history: History, damaged: Continuous
) -> None:
    end = history.live.sql("SELECT pg_current_wal_flush_lsn()")
    damaged.partial().unlink()
    with damaged.restored(history.newer.set_id, "latest") as (beside, checks):
        assert notes(damaged, beside) == "1 2 3 4"
    assert not failed(checks)
    # Nothing in the files tells of the loss: the witness does.
    witnessed(damaged, end)
    with damaged.restored(history.newer.set_id, "latest") as (_, checks):
        assert f"is before {end}, which had been received" in str(failed(checks))


@pytest.mark.parametrize("left", [0, SIZE // 2])
def test_one_whose_padding_the_disk_had_no_room_for_is_used_as_far_as_it_goes(
    left: int, history: History, damaged: Continuous
) -> None:
    os.truncate(own(damaged.partial()), left)
    with damaged.restored(history.newer.set_id, "latest") as (beside, _):
        assert notes(damaged, beside) == ("1 2 3 4 5" if left else "1 2 3 4")


@pytest.mark.parametrize(
    ("where", "last"),
    [
        pytest.param(SIZE // 2, False, id="in the middle"),
        pytest.param(40, False, id="in the first record"),
        pytest.param(SIZE // 2, True, id="in the middle of the last whole segment"),
        pytest.param(SIZE - 20000, True, id="near the end of the last whole segment"),
    ],
)
def test_a_flipped_byte_never_ends_the_replay_without_a_word(
    where: int, last: bool, history: History, damaged: Continuous
) -> None:
    path = segment(damaged, history.full)
    if last:
        for later in damaged.segments():
            if later.name > history.full:
                later.unlink()
        damaged.partial().unlink()
    flip(path, where)
    # Its size and first page are right, so it is not seen before it is replayed.
    with damaged.restored(history.newer.set_id, "latest") as (_, checks):
        assert failed(checks), "the replay ended early, and nobody said so"
    assert "damaged" in str(failed(checks))


def test_a_flipped_byte_in_the_last_segment_is_told_from_its_end(history: History, damaged: Continuous) -> None:
    note_five = damaged.partial().read_bytes()
    flip(damaged.partial(), 48)
    assert damaged.partial().read_bytes() != note_five
    with damaged.restored(history.newer.set_id, "latest") as (beside, checks):
        assert notes(damaged, beside) == "1 2 3 4"
        assert failed(checks)


def test_a_record_that_was_only_half_received_is_no_damage(history: History, damaged: Continuous) -> None:
    path = own(damaged.partial())
    used = len(path.read_bytes().rstrip(b"\0"))
    with path.open("r+b") as file:
        file.seek(used - 10)
        file.write(bytes(10))
    with damaged.restored(history.newer.set_id, "latest") as (_, checks):
        assert not failed(checks)


def test_a_flipped_byte_before_which_the_moment_lies_is_never_seen(history: History, damaged: Continuous) -> None:
    flip(segment(damaged, history.full), SIZE // 2)
    with damaged.restored(history.newer.set_id, f"xid:{history.dropping}") as (beside, checks):
        assert notes(damaged, beside) == "1 2 3 4"
    assert not failed(checks)


def test_a_moment_behind_a_flipped_byte_is_not_claimed_to_be_reached(history: History, damaged: Continuous) -> None:
    flip(segment(damaged, history.full), SIZE // 2)
    end = history.live.sql("SELECT pg_current_wal_insert_lsn()")
    with (
        pytest.raises(RecoveryError, match="recovery ended before configured recovery target was reached"),
        damaged.restored(history.newer.set_id, f"lsn:{end}"),
    ):
        pytest.fail("it is not there")


def test_a_missing_segment_is_named_and_no_base_backup_is_chosen(history: History, damaged: Continuous) -> None:
    segment(damaged, history.full).unlink()
    with pytest.raises(RecoveryError, match=f"the segment {history.full} is missing") as refused:
        find_base(damaged.server, damaged.repository, Target())
    assert refused.value.state == "no data was touched"
    assert history.newer.set_id in refused.value.what
    assert history.older.set_id in refused.value.what
    # As a step of a procedure it is an answer: a dump is restored then.
    assert history.full in choose_base.fn(damaged.server, damaged.repository, "latest").why


def test_a_segment_missing_before_the_newer_base_backup_harms_only_the_older(
    history: History, damaged: Continuous
) -> None:
    first = damaged.segments()[0]
    first.unlink()
    assert find_base(damaged.server, damaged.repository, Target()).set_id == history.newer.set_id
    with pytest.raises(RecoveryError, match=first.name):
        find_base(damaged.server, damaged.repository, Target(time=history.between))


def test_a_segment_cut_short_is_named(history: History, damaged: Continuous) -> None:
    os.truncate(own(segment(damaged, history.full)), SIZE - 1)
    with pytest.raises(RecoveryError, match=f"the segment {history.full} has {SIZE - 1} bytes instead of {SIZE}"):
        find_base(damaged.server, damaged.repository, Target())


@pytest.mark.parametrize("what", ["segments", "the last one", "directory"])
def test_wal_the_server_cannot_read_is_never_taken_for_the_end(
    what: str, history: History, damaged: Continuous
) -> None:
    """WAL received as root: a server beside finds it, cannot read it, and would end at the base backup."""
    if os.geteuid() != 0:
        pytest.skip("only root can make files that the server's user cannot read")
    segments = [*damaged.segments(), damaged.partial()]
    for path in {"segments": segments, "the last one": segments[-1:], "directory": [damaged.dirs[0]]}[what]:
        os.chown(own(path), 0, 0)
        path.chmod(0o700 if path.is_dir() else 0o600)
    with damaged.restored(history.newer.set_id, "latest") as (beside, checks):
        assert notes(damaged, beside) == "1 2 3 4 5"
    assert not failed(checks)


def test_a_base_backup_with_a_flipped_byte_is_passed_over_for_the_older(history: History, damaged: Continuous) -> None:
    newest = damaged.repository.get("database-base", history.newer.set_id)
    (archive,) = (newest.path / "base").glob("base.tar*")
    flip(archive, archive.stat().st_size // 2)
    chosen = find_base(damaged.server, damaged.repository, Target())
    assert chosen.set_id == history.older.set_id
    (skipped,) = chosen.skipped
    assert skipped.set_id == history.newer.set_id
    assert "sha256" in skipped.reason
    with damaged.restored(chosen.set_id, "latest") as (beside, checks):
        assert notes(damaged, beside) == "1 2 3 4 5"
    assert not failed(checks)


def test_one_that_is_damaged_harms_what_builds_on_it(history: History, damaged: Continuous) -> None:
    parent = damaged.repository.get("database-base", history.older.set_id)
    (archive,) = (parent.path / "base").glob("base.tar*")
    flip(archive, archive.stat().st_size // 2)
    with pytest.raises(RecoveryError) as refused:
        find_base(damaged.server, damaged.repository, Target())
    assert f"{history.newer.set_id}: {history.older.set_id}: " in refused.value.what


def test_a_file_that_is_wrong_inside_a_right_archive_is_found_by_the_server_s_own_check(
    history: History, damaged: Continuous
) -> None:
    one = damaged.repository.get("database-base", history.older.set_id)
    manifest = own(one.path / "base" / "backup_manifest")
    manifest.write_bytes(manifest.read_bytes().replace(b"PG_VERSION", b"PG_VERSIOM", 1))
    with pytest.raises(RecoveryError, match=r"manifest|PG_VERSIO"), damaged.restored(one.set_id, "latest"):
        pytest.fail("it cannot have been verified")


def test_before_the_newer_base_backup_the_older_is_taken(history: History) -> None:
    at = history.at
    for target in (Target(time=history.between), Target(lsn=history.newer.start_lsn)):
        chosen = find_base(at.server, at.repository, target)
        assert chosen.set_id == history.older.set_id
        (skipped,) = chosen.skipped
        assert "taken after that" in skipped.reason


def test_before_the_first_base_backup_there_is_nothing(history: History) -> None:
    for target in (Target(time=history.before_any), Target(lsn="0/1000028")):
        with pytest.raises(RecoveryError, match="it was taken after that") as refused:
            find_base(history.at.server, history.at.repository, target)
        assert refused.value.state == "no data was touched"


@pytest.mark.parametrize("to", ["time", "lsn", "xid"])
def test_a_moment_that_was_never_received_is_a_clear_failure(to: str, history: History) -> None:
    # A commit must come after the moment for the server to know that it has come.
    wanted = {"time": datetime.now(UTC).isoformat(), "lsn": "lsn:0/7F000000", "xid": "xid:2000000000"}[to]
    with (
        pytest.raises(RecoveryError, match="recovery ended before configured recovery target was reached") as refused,
        history.at.restored(history.newer.set_id, wanted),
    ):
        pytest.fail("it is not there")
    assert refused.value.state == "the database in use is untouched"
    assert list(history.at.plan.platform.scratch.iterdir()) == []


def test_what_the_disk_refuses_while_it_is_unpacked_ends_the_recovery(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The kernel tells such an error once; the flush at the end would not hear of it again.
    sync = tmp_path / "sync"
    sync.write_text("#!/bin/sh\ncase $* in */lib.sh) exit 0 ;; esac\necho 'sync: Input/output error' >&2\nexit 1\n")
    sync.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    target, scratch = history.at.sandbox.directory / "refused", history.at.plan.platform.scratch
    server, repository = history.at.server, history.at.repository
    with (
        pytest.raises(RecoveryError, match="could not be written to the disk"),
        restored_server(server, repository, history.older.set_id, Target(), scratch, into=str(target), label="r"),
    ):
        pytest.fail("it was given out as restored")
    assert (target / "recovery.signal").exists()
    shutil.rmtree(target)
