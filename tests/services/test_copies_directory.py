"""Copies in another directory, and what keeps any copy in step with the repository."""

from __future__ import annotations

import fcntl
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from flows.copies import fetch_latest, prune_everywhere, run_copies
from recoup.catalog import MANIFEST, BackupSet, Repository, problems, set_id, sha256
from recoup.errors import BusyError, DamagedError, PreconditionError, RecoveryError, WrongKeyError
from recoup.manifest import BaseBackup, Verification
from recoup.plan import ContinuousPolicy, DirectoryCopy
from recoup.records import Check, Outcome, Subject, now
from recoup.retention import Keep
from recoup.sealing import new_key_pair
from tasks.copies import NOTE, CopyPlace
from tasks.copies_sync import fetch_from_any, lacking, sync_copy
from tasks.standing import received_until
from tests.object_store import NOON, plan_with, taken


@pytest.fixture
def here(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backups")


@pytest.fixture
def there(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "empty-host")


@pytest.fixture
def disk(tmp_path: Path) -> DirectoryCopy:
    (tmp_path / "disk").mkdir()
    return DirectoryCopy(name="disk", path=tmp_path / "disk")


@pytest.fixture
def copy(here: Repository, disk: DirectoryCopy) -> CopyPlace:
    return CopyPlace.open(disk, here.root)


def hour(n: int) -> timedelta:
    return timedelta(hours=n)


def proven(repository: Repository, one: BackupSet, outcome: Outcome = Outcome.PASSED) -> BackupSet:
    check = Check(name="public.secret_table", subject=Subject.DATA, outcome=outcome, expected="1", seen="1")
    repository.note_verified(one, Verification(at=NOON, checks=(check,)))
    return repository.get("database", one.set_id)


def test_a_clear_copy_is_a_repository_by_itself(here: Repository, copy: CopyPlace, disk: DirectoryCopy) -> None:
    one = proven(here, taken(here, NOON))
    copy.push(one)
    (listed,) = Repository(disk.path).sets("database")
    assert listed.manifest == one.manifest
    assert problems(listed) == ""
    assert listed.verified is not None
    assert listed.verified.passed


def test_sealed_only_the_list_is_clear_and_it_does_not_say_what_is_inside(
    here: Repository, there: Repository, disk: DirectoryCopy, tmp_path: Path
) -> None:
    keys, other = new_key_pair(), new_key_pair()
    (tmp_path / "right").write_text(keys.identity.get_secret_value())
    (tmp_path / "wrong").write_text(other.identity.get_secret_value())
    more = {"recipients": (keys.recipient,), "identity": f"file:{tmp_path / 'right'}"}
    sealed = CopyPlace.open(disk.model_copy(update=more), here.root)
    one = proven(here, taken(here, NOON))
    sealed.push(one)
    for path in disk.path.rglob("*"):
        assert not path.is_file() or b"secret_table" not in path.read_bytes()
    assert {p.name for p in (disk.path / one.set_id).iterdir() if not p.name.endswith(".age")} == {
        "dump",
        NOTE,
        "verified.json",
    }
    wrong = CopyPlace.open(disk.model_copy(update={**more, "identity": f"file:{tmp_path / 'wrong'}"}), there.root)
    with pytest.raises(WrongKeyError):
        wrong.fetch(one.set_id, there)
    assert there.sets("database") == ()
    got = sealed.fetch(one.set_id, there)
    assert problems(got) == ""
    assert got.verified is not None


def test_other_recipients_are_not_mixed_with_what_a_killed_push_sealed(
    here: Repository, there: Repository, disk: DirectoryCopy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = taken(here, NOON)
    first, second = new_key_pair(), new_key_pair()
    (tmp_path / "second").write_text(second.identity.get_secret_value())
    before = CopyPlace.open(disk.model_copy(update={"recipients": (first.recipient,)}), here.root)
    with monkeypatch.context() as patch:

        def end(text: str, key: str) -> None:
            raise KeyboardInterrupt

        patch.setattr("tasks.places.Directory.put_text", lambda self, text, key: end(text, key))
        with pytest.raises(KeyboardInterrupt):
            before.push(one)
    more = {"recipients": (second.recipient,), "identity": f"file:{tmp_path / 'second'}"}
    after = CopyPlace.open(disk.model_copy(update=more), here.root)
    after.push(one)
    assert problems(after.fetch(one.set_id, there)) == ""


@pytest.mark.parametrize("name", ["globals.sql", "dump/toc.dat", MANIFEST])
def test_a_damaged_file_in_a_copy_is_noticed_and_nothing_is_kept(
    name: str, here: Repository, there: Repository, copy: CopyPlace, disk: DirectoryCopy
) -> None:
    one = taken(here, NOON)
    copy.push(one)
    stored = disk.path / one.set_id / name
    data = stored.read_bytes()
    stored.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert copy.sets("database")[0].broken == "", "sizes alone do not tell"
    with pytest.raises(DamagedError):
        copy.fetch(one.set_id, there)
    assert list(there.root.iterdir()) == []
    assert copy.problems(one.set_id, there.root)
    assert list(there.root.iterdir()) == []


def test_a_file_that_is_missing_or_short_shows_in_a_list(
    here: Repository, copy: CopyPlace, disk: DirectoryCopy
) -> None:
    one, other = taken(here, NOON), taken(here, NOON + hour(1))
    copy.push(one)
    copy.push(other)
    (disk.path / one.set_id / "globals.sql").unlink()
    (disk.path / other.set_id / "globals.sql").write_text("CREATE")
    assert [s.broken for s in copy.sets("database")] == ["globals.sql has 6 bytes of 17", "globals.sql is missing"]


def test_a_set_without_its_list_is_none(here: Repository, copy: CopyPlace, disk: DirectoryCopy) -> None:
    one = taken(here, NOON)
    copy.push(one)
    (disk.path / one.set_id / NOTE).unlink()
    assert copy.sets("database") == ()
    assert copy.leftovers("database") == (one.set_id,)
    with pytest.raises(PreconditionError, match="there is no set"):
        copy.fetch(one.set_id, Repository(here.root.parent / "elsewhere"))


@pytest.mark.parametrize("path", ["../../outside", "/tmp/recoup-outside"])
def test_a_manifest_that_names_a_file_outside_of_the_set_is_refused(
    path: str, here: Repository, there: Repository, copy: CopyPlace, disk: DirectoryCopy
) -> None:
    one = taken(here, NOON)
    copy.push(one)
    manifest = disk.path / one.set_id / MANIFEST
    note = disk.path / one.set_id / NOTE
    old = manifest.read_text()
    manifest.write_text(old.replace("globals.sql", path))
    entry = next(e for e in copy.sets("database")[0].note.files if e.path == MANIFEST)  # type: ignore[union-attr]
    text = note.read_text().replace(entry.sha256, sha256(manifest)).replace("globals.sql", path)
    note.write_text(text.replace(f'"size": {entry.size}', f'"size": {manifest.stat().st_size}'))
    with pytest.raises(DamagedError, match="outside of the set"):
        copy.fetch(one.set_id, there)


def test_a_disk_that_is_not_mounted_is_not_written_to_its_mount_point(
    here: Repository, copy: CopyPlace, disk: DirectoryCopy
) -> None:
    disk.path.rmdir()
    with pytest.raises(PreconditionError, match="is not there"):
        copy.push(taken(here, NOON))
    assert not disk.path.exists()


def test_the_empty_mount_point_of_a_disk_that_was_there_is_not_filled(here: Repository, disk: DirectoryCopy) -> None:
    taken(here, NOON)
    plan = plan_with(here.root, disk)
    assert run_copies(plan).complete
    disk.path.rename(disk.path.with_name("unmounted"))
    disk.path.mkdir()
    made = run_copies(plan)
    assert "mount" in str(made.synced[0]) or "not the directory" in str(made.synced[0])
    assert not made.complete
    assert list(disk.path.iterdir()) == []


def test_a_directory_that_cannot_be_read_hinders_no_other_copy(
    here: Repository, disk: DirectoryCopy, tmp_path: Path
) -> None:
    one = taken(here, NOON)
    (tmp_path / "odd").mkdir()
    odd = DirectoryCopy(name="odd", path=tmp_path / "odd")
    # A directory where a file should be refuses everybody, root too.
    (tmp_path / "odd" / one.set_id / NOTE).mkdir(parents=True)
    made = run_copies(plan_with(here.root, odd, disk))
    assert not made.complete
    assert one.set_id in str(made)
    assert [s.pushed for s in made.synced if s.copy_name == "disk"] == [(one.set_id,)]


def test_two_at_once_do_not_copy_to_the_same_place(here: Repository, copy: CopyPlace) -> None:
    copy.spool.mkdir(parents=True)
    with (copy.spool / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError):
            copy.push(taken(here, NOON))
    copy.push(here.sets("database")[0])
    assert len(copy.sets("database")) == 1


def test_a_damaged_set_here_gives_way_to_the_copy_and_is_kept_aside(here: Repository, copy: CopyPlace) -> None:
    one = taken(here, NOON)
    copy.push(one)
    (one.path / "globals.sql").write_text("damaged")
    assert problems(copy.fetch(one.set_id, here)) == ""
    (aside,) = here.root.glob("*.damaged-*")
    assert (aside / "globals.sql").read_text() == "damaged"
    assert [s.set_id for s in here.sets("database")] == [one.set_id]


def based(repository: Repository, hours: int, parent: str = "") -> BackupSet:
    """Publish a base backup, or an increment on another one."""
    at = NOON + hour(hours)
    like = taken(Repository(repository.root.parent / f"like-{hours}"), at, series="database-base")
    assert like.manifest is not None
    holds = BaseBackup(
        server_version=180000,
        system_identifier="7",
        timeline=1,
        start_lsn="0/1",
        stop_lsn="0/2",
        compression="none",
        segment_size=16 * 1024 * 1024,
        parent=parent,
    )
    with repository.staging("database-base", at) as staged:
        for entry in like.manifest.files:
            (staged / entry.path).parent.mkdir(exist_ok=True)
            (staged / entry.path).write_bytes((like.path / entry.path).read_bytes())
        return repository.publish(staged, like.manifest.model_copy(update={"holds": holds}))


def test_an_increment_comes_with_what_it_needs_both_ways(here: Repository, there: Repository, copy: CopyPlace) -> None:
    full = based(here, 0)
    first = based(here, 1, full.set_id)
    second = based(here, 2, first.set_id)
    order = [one.set_id for one in lacking(here.sets("database-base"), (), Keep(5), now())]
    assert order == [full.set_id, first.set_id, second.set_id]
    sync_copy.fn(here, copy, {"database-base": Keep(1)})
    assert len(copy.sets("database-base")) == 3
    copy.fetch(second.set_id, there)
    assert [problems(one) for one in there.sets("database-base")] == ["", "", ""]


def test_the_newest_and_the_proven_are_copied_and_one_that_failed_its_test_is_not(here: Repository) -> None:
    sets = [taken(here, NOON + hour(n)) for n in range(5)]
    proven(here, sets[1])
    proven(here, sets[2], Outcome.FAILED)
    wanted = [one.set_id for one in lacking(here.sets("database"), (), Keep(9), now())]
    assert wanted == [sets[4].set_id, sets[1].set_id]
    proven(here, sets[4], Outcome.FAILED)
    assert [one.set_id for one in lacking(here.sets("database"), (), Keep(9), now())] == [
        sets[3].set_id,
        sets[1].set_id,
    ]


def test_one_that_could_not_be_tested_whole_is_copied(here: Repository) -> None:
    one = proven(here, taken(here, NOON), Outcome.UNPROVEN)
    assert [found.set_id for found in lacking(here.sets("database"), (), Keep(9), now())] == [one.set_id]


def test_of_several_copies_the_one_with_the_newest_set_is_asked_first(
    here: Repository, there: Repository, tmp_path: Path
) -> None:
    disks = []
    for n in range(2):
        (tmp_path / f"disk-{n}").mkdir()
        disks.append(DirectoryCopy(name=f"disk-{n}", path=tmp_path / f"disk-{n}"))
        newest = taken(here, NOON + hour(n))
        CopyPlace.open(disks[n], here.root).push(newest)
    copies = tuple(CopyPlace.open(disk, there.root) for disk in disks)
    assert fetch_from_any(copies, "database", there).use.set_id == newest.set_id


def test_a_disk_without_room_does_not_bring_older_data_back(
    here: Repository, there: Repository, copy: CopyPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy.push(taken(here, NOON))
    copy.push(taken(here, NOON + hour(1), big=5000))
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10_000, 6000, 4000))
    with pytest.raises(RecoveryError, match="GB free"):
        fetch_from_any((copy,), "database", there)
    assert there.sets("database") == ()


def test_what_would_expire_at_once_is_not_copied(here: Repository) -> None:
    sets = [proven(here, taken(here, NOON + hour(n))) for n in range(4)]
    assert [one.set_id for one in lacking(here.sets("database"), (), Keep(2), now())] == [
        sets[3].set_id,
        sets[2].set_id,
    ]


def test_a_run_brings_what_is_missing_and_notes_what_was_proven_since(here: Repository, disk: DirectoryCopy) -> None:
    plan = plan_with(here.root, disk)
    copy = CopyPlace.open(disk, here.root)
    first = taken(here, NOON)
    assert run_copies(plan).synced[0].pushed == (first.set_id,)
    assert [one.verified for one in copy.sets("database")] == [False]
    proven(here, first)
    second = taken(here, NOON + hour(1))
    assert run_copies(plan).synced[0].pushed == (second.set_id,)
    assert [one.verified for one in copy.sets("database")] == [False, True]
    assert run_copies(plan).synced[0].pushed == ()


def test_a_copy_that_lost_a_file_gets_it_again(here: Repository, disk: DirectoryCopy) -> None:
    plan = plan_with(here.root, disk)
    one = taken(here, NOON)
    run_copies(plan)
    (disk.path / one.set_id / "globals.sql").unlink()
    assert run_copies(plan).synced[0].pushed == (one.set_id,)
    assert CopyPlace.open(disk, here.root).sets("database")[0].broken == ""


def test_one_damaged_set_does_not_hinder_the_others(here: Repository, disk: DirectoryCopy) -> None:
    good, bad = proven(here, taken(here, NOON)), taken(here, NOON + hour(1))
    (bad.path / "globals.sql").write_text("CREATE ROLE ne0;\n")
    made = run_copies(plan_with(here.root, disk))
    assert made.synced[0].pushed == (good.set_id,)
    assert bad.set_id in made.synced[0].problems[0]
    assert not made.complete


def test_what_a_killed_push_left_goes_when_its_set_is_gone_here(here: Repository, disk: DirectoryCopy) -> None:
    old = set_id("database", now() - timedelta(days=2))
    young = set_id("database", now())
    for one in (old, young):
        (disk.path / one).mkdir()
        (disk.path / one / "globals.sql").write_text("half")
    taken(here, NOON)
    made = run_copies(plan_with(here.root, disk))
    assert made.synced[0].removed == (old,)
    assert (disk.path / young).exists(), "another machine may be at it"


def test_where_this_host_removes_nothing_what_has_expired_stays_until_somebody_prunes(
    here: Repository, disk: DirectoryCopy
) -> None:
    mine = disk.model_copy(update={"removes": False})
    copy, plan = CopyPlace.open(mine, here.root), plan_with(here.root, mine)
    for n in range(3):
        copy.push(taken(here, NOON + hour(n)))
    half = set_id("database", now() - timedelta(days=2))
    (disk.path / half).mkdir()
    (disk.path / half / "globals.sql").write_text("half")
    synced = sync_copy.fn(here, copy, {"database": Keep(1)})
    assert (synced.removed, synced.problems) == ((), ())
    assert len(copy.sets("database")) == 3
    assert (disk.path / half).exists()

    def places(by_schedule: bool) -> list[str]:
        return [one.where for one in prune_everywhere(plan, ("database",), dry_run=True, by_schedule=by_schedule)]

    assert [place for place in places(True) if mine.name in place] == []
    assert len([place for place in places(False) if mine.name in place]) == 1


def test_with_no_copy_that_has_one_every_reason_is_told(there: Repository, disk: DirectoryCopy, tmp_path: Path) -> None:
    gone = DirectoryCopy(name="gone", path=tmp_path / "gone")
    with pytest.raises(RecoveryError) as failed:
        fetch_latest(plan_with(there.root, gone, disk), "", "database")
    assert "gone: " in failed.value.what
    assert "disk: " in failed.value.what
    with pytest.raises(PreconditionError, match="names no copies"):
        fetch_latest(plan_with(there.root), "", "database")


def test_the_first_copy_that_has_a_good_one_is_used(
    here: Repository, there: Repository, disk: DirectoryCopy, tmp_path: Path
) -> None:
    one = taken(here, NOON)
    run_copies(plan_with(here.root, disk))
    gone = DirectoryCopy(name="gone", path=tmp_path / "gone")
    fetched = fetch_latest(plan_with(there.root, gone, disk), "", "database")
    assert (fetched.copy_name, fetched.use.set_id) == ("disk", one.set_id)


def test_wal_counts_only_where_it_goes_on_from_a_base_backup_that_is_there(here: Repository, tmp_path: Path) -> None:
    _, postgres = plan_with(here.root).postgres()
    policy = ContinuousPolicy(wal=tmp_path / "wal", base=postgres.backup)
    continuous = postgres.model_copy(update={"continuous": policy})
    assert received_until(postgres.model_copy(update={"continuous": None}), ()) == (None, "")
    assert "no base backup" in received_until(continuous, (taken(here, NOON),))[1]
    assert received_until(continuous, (based(here, 0),))[1], "there is no WAL at all"
