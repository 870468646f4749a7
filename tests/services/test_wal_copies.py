"""WAL in the copies: what no base backup there needs goes, what one needs stays, and from what stays all comes back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from flows.copies import prune_everywhere, run_copies
from flows.database import DatabaseRecovery, run_recovery
from recoup.catalog import Repository
from recoup.errors import PreconditionError
from recoup.manifest import Verification
from recoup.plan import Copy, DirectoryCopy
from recoup.records import Check, Outcome, Subject, Verdict, now
from recoup.target import Target
from recoup.wal import Segment, parse_lsn
from tasks.copies import CopyNote, CopyPlace
from tasks.postgres_base import BaseTaken
from tasks.postgres_choice import choose_base
from tasks.wal_pruning import bases_here
from tasks.wal_scan import settle
from tasks.wal_shipping import Shipper
from tests.continuous import Continuous, continuous, failed
from tests.object_store import new_bucket, spec_of

SIZE = 16 << 20
SERIES = ("database-base",)
KINDS = ["directory", pytest.param("s3", marks=pytest.mark.s3), pytest.param("locked", marks=pytest.mark.s3)]


@pytest.fixture(scope="module")
def live(sandbox_state: Path) -> Iterator[Continuous]:
    with continuous("async", sandbox_state) as made:
        made.sql("CREATE TABLE public.notes (n int)")
        yield made


def copied(live: Continuous, place: Path, kind: str) -> Continuous:
    """Give the same with a repository of its own and a copy."""
    copy: Copy
    if kind == "directory":
        (place / "disk").mkdir()
        copy = DirectoryCopy(name="disk", path=place / "disk")
    else:
        locked = kind == "locked"
        copy = spec_of(new_bucket(lock=locked), **({"lock": timedelta(hours=1)} if locked else {}))
    backups = live.sandbox.directory / f"backups-{uuid4().hex[:8]}"
    platform = live.plan.platform.model_copy(update={"copies": (copy,), "repository": backups})
    return replace(live, plan=live.plan.model_copy(update={"platform": platform}))


def keeping(at: Continuous, keep: int) -> Continuous:
    return at.with_policy(base={"interval": "1d", "keep": keep})


def write(at: Continuous, *notes: int) -> None:
    for n in notes:
        at.sql(f"INSERT INTO public.notes VALUES ({n}); SELECT pg_switch_wal()")


def place_of(at: Continuous) -> CopyPlace:
    return CopyPlace.open(at.plan.platform.copies[0], at.repository.root)


def ship(at: Continuous) -> None:
    at.received()
    Shipper(at.wal, place_of(at)).ship()


def shipped(at: Continuous) -> list[str]:
    """Give the names of the WAL in the copy, as it is seen from outside recoup."""
    names = (key.split("/")[2].partition("@")[0] for key in place_of(at).place.listing("wal/") if "@" in key)
    return sorted(name for name in names if not name.endswith((".history", ".partial")))


def first(taken: BaseTaken, timeline: int = 1) -> str:
    return Segment(timeline, parse_lsn(taken.start_lsn) // SIZE).name(SIZE)


def elsewhere(at: Continuous) -> Continuous:
    """Give a host that has nothing of it but the plan."""
    empty = at.with_policy(wal=at.sandbox.directory / f"wal-{uuid4().hex[:8]}")
    backups = at.sandbox.directory / f"backups-{uuid4().hex[:8]}"
    platform = empty.plan.platform.model_copy(update={"repository": backups})
    empty.wal.mkdir(mode=0o755)
    return replace(empty, plan=empty.plan.model_copy(update={"platform": platform}))


def comes_back(at: Continuous, expected: str) -> None:
    """See that a host that has nothing of it restores all of it from the copy."""
    at.received()
    empty = elsewhere(at)
    chosen = choose_base.fn(empty.server, empty.repository, "latest", (place_of(empty),))
    assert chosen.set_id, chosen.why
    with empty.restored(chosen.set_id, "latest") as (beside, checks):
        assert at.sql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM public.notes", beside=beside) == expected
    assert not failed(checks)


@pytest.mark.parametrize("kind", KINDS)
def test_wal_that_no_base_backup_there_needs_goes(live: Continuous, tmp_path: Path, kind: str) -> None:
    live.sql("TRUNCATE public.notes")
    at = keeping(copied(live, tmp_path, kind), 2)
    older = at.base()
    assert run_copies(at.plan).complete
    write(at, 1, 2)
    newer = at.base()
    write(at, 3)
    ship(at)
    assert run_copies(at.plan).complete
    before = shipped(at)
    assert first(older) in before, "both are kept"

    less = keeping(at, 1)
    (here, there) = prune_everywhere(less.plan, SERIES, dry_run=True)
    for seen in (here, there):
        assert [one.set_id for one in seen.decisions if not one.kept] == (
            [older.set_id] if kind != "locked" or seen is here else []
        )
    (told,) = here.wal
    assert first(older) in told.names
    assert first(newer) not in told.names
    if kind == "locked":
        assert there.wal == (), "the older base backup is under a lock, and so its WAL is needed"
    else:
        assert {name for some in there.wal for name in some.names if "partial" not in name} == {
            name for name in before if name < first(newer)
        }
    assert shipped(at) == before
    assert first(older) in {path.name for path in at.segments()}

    (_, there) = prune_everywhere(less.plan, SERIES, dry_run=False)
    assert there.failed == ()
    assert min(path.name for path in at.segments()) == first(newer)
    kept = before if kind == "locked" else [name for name in before if name >= first(newer)]
    assert shipped(at) == kept
    # What was removed is not sent again by one that starts anew.
    ship(at)
    assert min(shipped(at)) == min(kept)
    comes_back(less, "1 2 3")


def test_an_older_base_backup_is_fetched_when_the_moment_lies_before_the_newest(
    live: Continuous, tmp_path: Path
) -> None:
    live.sql("TRUNCATE public.notes")
    at = keeping(copied(live, tmp_path, "directory"), 2)
    older = at.base()
    assert run_copies(at.plan).complete
    write(at, 1)
    wanted = at.sql("BEGIN; INSERT INTO public.notes VALUES (2); SELECT pg_current_xact_id(); COMMIT")
    write(at, 3)
    newer = at.base()
    ship(at)
    assert run_copies(at.plan).complete
    empty = elsewhere(at)
    chosen = choose_base.fn(empty.server, empty.repository, f"xid:{wanted}", (place_of(empty),))
    assert (chosen.set_id, [one.set_id for one in chosen.skipped]) == (older.set_id, [newer.set_id])
    with empty.restored(chosen.set_id, chosen.to) as (beside, checks):
        assert at.sql("SELECT string_agg(n::text, ' ') FROM public.notes", beside=beside) == "1"
    assert not failed(checks)


@pytest.mark.s3
def test_under_a_lock_what_nobody_needs_stays_and_is_told(live: Continuous, tmp_path: Path) -> None:
    at = keeping(copied(live, tmp_path, "locked"), 1)
    write(at, 1)
    ship(at)
    before = shipped(at)
    newer = at.base()
    assert before[0] < first(newer)
    ship(at)
    made = run_copies(at.plan)
    assert made.complete, made
    assert made.synced[0].segments_removed == 0
    (_, there) = prune_everywhere(at.plan, SERIES, dry_run=False)
    assert there.failed == ()
    assert there.wal
    assert all(some.kept and some.why.startswith("locked until") for some in there.wal)
    assert set(before) <= set(shipped(at))


def test_no_wal_goes_while_the_manifest_of_a_base_backup_cannot_be_read(tmp_path: Path) -> None:
    """It may be readable again tomorrow, and its WAL would be gone: no file can be read where a directory is."""
    repository = Repository(tmp_path)
    (unreadable := tmp_path / "20260101T000000000000Z-database-base" / "manifest.json").mkdir(parents=True)
    with pytest.raises(PreconditionError, match="no WAL is removed: 20260101T000000000000Z-database-base"):
        bases_here(repository, ("database-base",))
    unreadable.rmdir()
    unreadable.write_text("{")
    assert bases_here(repository, ("database-base",)) == ()


def test_a_set_that_does_not_say_what_it_needs_keeps_everything(live: Continuous, tmp_path: Path) -> None:
    """Sealed by an older recoup, and gone here: nothing tells where its WAL begins."""
    at = keeping(copied(live, tmp_path, "directory"), 2)
    older = at.base()
    assert run_copies(at.plan).complete
    note = tmp_path / "disk" / older.set_id / "copy.json"
    known = CopyNote.model_validate_json(note.read_bytes())
    note.write_text(known.model_copy(update={"sealed": True}).model_dump_json(exclude={"base"}))
    shutil.rmtree(at.repository.root / older.set_id)
    write(at, 1, 2)
    at.base()
    ship(at)
    live_wal, before = at.segments(), shipped(at)
    (synced,) = run_copies(at.plan).synced
    assert synced.problems == (f"WAL in disk is not pruned: {older.set_id} there does not say which WAL it needs",)
    (_, there) = prune_everywhere(at.plan, SERIES, dry_run=False)
    assert there.failed == synced.problems
    assert shipped(at) == before
    assert at.segments() == live_wal


def test_what_a_restore_has_undone_goes_when_enough_newer_can_be_recovered_from(
    live: Continuous, tmp_path: Path
) -> None:
    live.sql("TRUNCATE public.notes")
    at = keeping(copied(live, tmp_path, "directory"), 2)
    path = tmp_path / "plan.yaml"
    path.write_text(at.plan.dump_yaml())
    before = at.base()
    write(at, 1)
    moment = datetime.fromisoformat(at.sql("SELECT clock_timestamp() AT TIME ZONE 'UTC'")).replace(tzinfo=UTC)
    write(at, 2)
    undone = at.base()
    write(at, 3)
    ship(at)
    assert run_copies(at.plan).complete
    request = DatabaseRecovery(plan=path, to=moment.isoformat())
    record = run_recovery(at.plan, request, ledger=tmp_path / "ledger.jsonl")
    assert record.verdict is Verdict.RECOVERED, record.why
    write(at, 4)
    later = at.sql("BEGIN; INSERT INTO public.notes VALUES (0); SELECT pg_current_xact_id(); ROLLBACK")
    ship(at)
    assert run_copies(at.plan).complete
    # From the timeline that was left on into the new one.
    base = at.repository.get("database-base", before.set_id).base
    assert base is not None
    assert settle(at.server, at.dirs, base, Target(xid=int(later))).wrong == ""

    def sets(where: Repository | CopyPlace) -> set[str]:
        return {one.set_id for one in where.sets("database-base")}

    assert {before.set_id, undone.set_id} < sets(at.repository), "one alone is not the two of the plan"
    assert shipped(at)[0] == first(before)
    last = at.base()
    for one in at.repository.sets("database-base"):
        check = Check(name="restore test", subject=Subject.DATA, outcome=Outcome.PASSED, seen="")
        at.repository.note_verified(one, Verification(at=now(), checks=(check,)))
    write(at, 5)
    ship(at)
    assert run_copies(at.plan).complete
    for where in (at.repository, place_of(at)):
        assert len(sets(where)) == 2
        assert {before.set_id, undone.set_id}.isdisjoint(sets(where))
    for names in ([path.name for path in at.segments()], shipped(at)):
        assert {name[:8] for name in names} == {"00000002"}, "of the timeline that was left nothing stays"
        assert first(last, 2) in names
    comes_back(at, "1 4 5")
