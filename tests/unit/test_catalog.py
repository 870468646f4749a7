"""The catalogue of backup sets: what is listed, in what order, what is whole, and what is ever removed."""

from __future__ import annotations

import gzip
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recoup.catalog import MANIFEST, VERIFIED, BackupSet, Repository, entries, problems, set_id
from recoup.errors import PreconditionError, RecoveryError
from recoup.manifest import DatabaseContent, DatabaseDump, DatabaseShape, Manifest, TableContent, Verification
from recoup.records import Check, Outcome, Subject, now

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backups")


def taken(repository: Repository, at: datetime, store: str = "database") -> BackupSet:
    """Publish a small set as a backup would."""
    with repository.staging(store, at) as staged:
        (staged / "dump").mkdir()
        (staged / "dump" / "toc.dat").write_bytes(b"table of contents")
        (staged / "dump" / "1.dat.gz").write_bytes(gzip.compress(b"1\t2\n"))
        (staged / "globals.sql").write_text("CREATE ROLE neo;\n")
        return repository.publish(staged, manifest(staged, at, store))


def manifest(staged: Path, at: datetime, store: str = "database") -> Manifest:
    return Manifest(
        set_id=set_id(store, at),
        store=store,
        component="postgres",
        recovery_point=at,
        started=at,
        ended=at + timedelta(seconds=1),
        recoup_version="0",
        holds=DatabaseDump(
            database="neo",
            server_version=180000,
            system_identifier="7000",
            compression="gzip:1",
            shape=DatabaseShape(owner="neo", encoding="UTF8", collate="C", ctype="C"),
            content=DatabaseContent(
                schema_fingerprint="f", tables=(TableContent(name="public.t", rows=1, digest="9"),), unsound=()
            ),
        ),
        files=entries(staged),
    )


def ids(repository: Repository, store: str = "database") -> list[str]:
    return [one.set_id for one in repository.sets(store)]


def test_a_repository_that_is_not_there_holds_nothing(repository: Repository) -> None:
    assert repository.sets("database") == ()


def test_a_published_set_is_read_back_as_it_was_written_and_is_whole(repository: Repository) -> None:
    one = taken(repository, NOON)
    (listed,) = repository.sets("database")
    assert listed == one
    assert listed.recovery_point == NOON
    assert problems(listed) == ""
    assert {entry.path for entry in one.manifest.files} == {"dump/toc.dat", "dump/1.dat.gz", "globals.sql"}  # type: ignore[union-attr]


def test_the_newest_comes_first_whatever_the_order_they_were_made_in(repository: Repository) -> None:
    moments = [NOON, NOON + timedelta(days=40), NOON - timedelta(microseconds=1), NOON + timedelta(seconds=1)]
    for moment in moments:
        taken(repository, moment)
    assert ids(repository) == [set_id("database", moment) for moment in sorted(moments, reverse=True)]


def test_a_moment_in_another_time_zone_is_named_by_its_utc_time() -> None:
    elsewhere = NOON.astimezone(tz=datetime.strptime("+0530", "%z").tzinfo)
    assert set_id("database", elsewhere) == set_id("database", NOON) == "20260301T120000000000Z-database"


def test_stores_are_kept_apart(repository: Repository) -> None:
    taken(repository, NOON)
    taken(repository, NOON, "redis")
    assert ids(repository) == ["20260301T120000000000Z-database"]
    taken(repository, NOON, "database-base")
    assert ids(repository) == ["20260301T120000000000Z-database"]
    assert ids(repository, "redis") == ["20260301T120000000000Z-redis"]


def test_dumps_of_the_written_plan_come_after_every_set_newest_first(repository: Repository) -> None:
    taken(repository, NOON)
    old = ["20260101_030000-database.sql.gz", "20260301-235959-database.sql.gz", "20251231_030000-database.sql.gz"]
    for name in old:
        (repository.root / name).write_bytes(gzip.compress(b"SELECT 1;"))
    (repository.root / "20260401_000000-redis.rdb.gz").write_bytes(b"")
    assert ids(repository) == [
        "20260301T120000000000Z-database",
        "20260301-235959-database.sql.gz",
        "20260101_030000-database.sql.gz",
        "20251231_030000-database.sql.gz",
    ]
    assert ids(repository, "redis") == []
    assert repository.sets("database")[1].manifest is None
    assert repository.sets("database")[1].recovery_point is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "is not valid"),
        ("{", "is not valid"),
        ('{"format": 2}', "is not valid"),
        ("[]", "is not valid"),
        ("\x00\xff", "is not valid"),
    ],
)
def test_a_broken_manifest_is_listed_with_the_reason_and_hides_no_other(
    content: str | None, why: str, repository: Repository
) -> None:
    good = taken(repository, NOON)
    broken = taken(repository, NOON + timedelta(hours=1))
    (broken.path / MANIFEST).unlink()
    if content is not None:
        (broken.path / MANIFEST).write_text(content)
    first, second = repository.sets("database")
    assert first.set_id == broken.set_id
    assert first.manifest is None
    assert why in first.broken
    assert problems(first) == first.broken
    assert second == good


def test_a_manifest_of_a_later_version_with_unknown_keys_is_not_half_understood(repository: Repository) -> None:
    one = taken(repository, NOON)
    text = (one.path / MANIFEST).read_text()
    (one.path / MANIFEST).write_text(text.replace('"format": 1', '"format": 1, "encrypted": true'))
    assert "is not valid" in repository.sets("database")[0].broken


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.unlink(), "dump/1.dat.gz: No such file or directory"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "dump/1.dat.gz has"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "dump/1.dat.gz has"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01"), "dump/1.dat.gz does not match its sha256"),
    ],
    ids=["missing", "shorter", "longer", "one byte"],
)
def test_a_damaged_file_is_named(damage: object, why: str, repository: Repository) -> None:
    one = taken(repository, NOON)
    assert callable(damage)
    damage(one.path / "dump" / "1.dat.gz")
    assert why in problems(repository.sets("database")[0])


def test_a_manifest_that_lists_no_file_proves_nothing(repository: Repository) -> None:
    with repository.staging("database", NOON) as staged:
        one = repository.publish(staged, manifest(staged, NOON))
    assert problems(one) == "the manifest lists no file"


def test_an_unknown_set_is_refused_with_the_names_of_those_there_are(repository: Repository) -> None:
    taken(repository, NOON)
    with pytest.raises(PreconditionError, match="no backup set 2020") as refused:
        repository.get("database", "2020")
    assert "20260301T120000000000Z-database" in refused.value.next_step


def test_what_is_not_published_leaves_nothing(repository: Repository) -> None:
    def fail_half_way() -> None:
        with repository.staging("database", NOON) as staged:
            (staged / "half").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert list(repository.root.iterdir()) == []


def test_what_is_being_staged_is_not_listed(repository: Repository) -> None:
    with repository.staging("database", NOON) as staged:
        (staged / MANIFEST).write_text(manifest(staged, NOON).model_dump_json())
        assert repository.sets("database") == ()


def dead_pid() -> int:
    """Give the pid of a process that is no more."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.close(reader)
    os.close(writer)
    os.waitpid(pid, 0)
    return pid


def test_what_a_dead_backup_left_is_cleaned_and_what_a_living_one_makes_is_not(repository: Repository) -> None:
    dead = repository.root / f".20260101T000000000000Z-database.{dead_pid()}.abcdef.partial"
    nonsense = repository.root / ".20260101T000000000000Z-database.somebody.abcdef.partial"
    living = repository.root / f".20260101T000000000000Z-database.{os.getpid()}.abcdef.partial"
    other_store = repository.root / f".20260101T000000000000Z-redis.{dead_pid()}.abcdef.partial"
    for path in (dead, nonsense, living, other_store):
        (path / "dump").mkdir(parents=True)
    with repository.staging("database", NOON) as staged:
        assert {path.name for path in repository.root.iterdir()} == {living.name, other_store.name, staged.name}


def test_a_repository_that_cannot_be_written_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "backups").write_text("a file")
    with (
        pytest.raises(PreconditionError, match="cannot be written") as refused,
        Repository(tmp_path / "backups").staging("database", NOON),
    ):
        pytest.fail("it was entered")
    assert refused.value.exit_code == 2
    assert "platform.repository" in refused.value.next_step


def test_a_set_that_cannot_be_published_leaves_the_older_ones(repository: Repository) -> None:
    older = taken(repository, NOON)
    with pytest.raises(RecoveryError, match="could not be published") as failed:
        # The same moment gives the same name, and a set is never replaced.
        taken(repository, NOON)
    assert "older ones are untouched" in failed.value.state
    assert problems(repository.sets("database")[0]) == ""
    assert [path.name for path in repository.root.iterdir()] == [older.set_id]


def test_the_oldest_beyond_those_to_keep_are_pruned(repository: Repository) -> None:
    all_of_them = [taken(repository, NOON + timedelta(hours=n)).set_id for n in range(5)]
    assert sorted(repository.prune("database", 3)) == all_of_them[:2]
    assert ids(repository) == list(reversed(all_of_them[2:]))
    assert sorted(path.name for path in repository.root.iterdir()) == all_of_them[2:]
    assert repository.prune("database", 3) == ()


def test_one_of_a_time_still_to_come_is_never_the_newest_and_pushes_no_other_out(repository: Repository) -> None:
    good = [taken(repository, NOON + timedelta(hours=n)).set_id for n in range(3)]
    wrong = [taken(repository, now() + timedelta(days=365 + n)).set_id for n in range(2)]
    assert ids(repository) == [*reversed(good), *reversed(wrong)]
    assert repository.prune("database", 2) == (good[0],)
    assert set(ids(repository)) == {*good[1:], *wrong}


@pytest.mark.parametrize("keep", [0, 1, -3])
def test_the_last_set_is_never_pruned(keep: int, repository: Repository) -> None:
    taken(repository, NOON)
    newest = taken(repository, NOON + timedelta(hours=1))
    repository.prune("database", keep)
    repository.prune("database", keep)
    assert ids(repository) == [newest.set_id]


def test_broken_sets_do_not_count_so_the_last_good_one_stays(repository: Repository) -> None:
    good = taken(repository, NOON)
    for hours in (1, 2, 3):
        broken = taken(repository, NOON + timedelta(hours=hours))
        (broken.path / MANIFEST).write_text("{")
    repository.prune("database", 1)
    assert good.set_id in ids(repository)
    assert problems(repository.get("database", good.set_id)) == ""


def test_sets_whose_files_are_damaged_do_not_push_the_last_good_one_out(repository: Repository) -> None:
    good = taken(repository, NOON)
    for hours in (1, 2):
        damaged = taken(repository, NOON + timedelta(hours=hours))
        (damaged.path / "dump" / "1.dat.gz").write_bytes(b"")
    repository.prune("database", 2)
    assert [one.set_id for one in repository.sets("database") if not problems(one)] == [good.set_id]
    good.path.joinpath("dump", "1.dat.gz").unlink()
    assert repository.prune("database", 1) == (), "with no whole one left, somebody may still want the pieces"


def test_dumps_of_the_written_plan_are_never_pruned(repository: Repository) -> None:
    taken(repository, NOON)
    (repository.root / "20200101-database.sql.gz").write_bytes(gzip.compress(b"SELECT 1;"))
    repository.prune("database", 1)
    assert "20200101-database.sql.gz" in ids(repository)


def test_the_last_restore_test_of_a_set_is_known_and_is_no_part_of_what_was_backed_up(repository: Repository) -> None:
    one = taken(repository, NOON)
    assert one.verified is None
    for outcome in (Outcome.FAILED, Outcome.PASSED):
        check = Check(name="restored", subject=Subject.DATA, outcome=outcome, expected="1 row", seen="1 row")
        repository.note_verified(one, Verification(at=NOON, checks=(check,)))
    (again,) = repository.sets("database")
    assert again.verified is not None
    assert again.verified.passed
    assert problems(again) == ""
    (one.path / VERIFIED).write_text("{")
    assert repository.sets("database")[0].verified is None, "what cannot be read proves nothing"


def test_a_restore_test_passed_only_with_every_check_passed() -> None:
    def found(*outcomes: Outcome) -> bool:
        checks = (Check(name="c", subject=Subject.DATA, outcome=o, expected="", seen="") for o in outcomes)
        return Verification(at=NOON, checks=tuple(checks)).passed

    assert found(Outcome.PASSED, Outcome.PASSED)
    assert not found(Outcome.PASSED, Outcome.UNPROVEN)
    assert not found()


def test_a_repository_that_may_not_be_read_is_not_taken_for_an_empty_one() -> None:
    with tempfile.TemporaryDirectory() as made:
        root = Path(made) / "backups"
        root.mkdir(mode=0o000)
        Path(made).chmod(0o755)
        was = os.geteuid()
        os.seteuid(65534 if was == 0 else was)
        try:
            with pytest.raises(PreconditionError, match="may not be read: Permission denied") as refused:
                Repository(root).sets("database")
        finally:
            os.seteuid(was)
    assert "root" in refused.value.next_step
