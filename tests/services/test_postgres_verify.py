"""The restore test of a backup set: good ones pass, each bad one is found by what is bad about it, nothing is left."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.backup import run_backup
from flows.procedure import watched_by
from recoup.catalog import MANIFEST, BackupSet, Repository, entries
from recoup.errors import PreconditionError, RecoveryError
from recoup.manifest import Manifest, RedisSnapshot
from recoup.progress import Silent
from recoup.records import Outcome
from tasks.postgres_backup import take_database_backup
from tasks.postgres_restore import find_backup, restore_beside
from tasks.postgres_verify import Verified, verify_database_backup
from tasks.sandbox import Sandbox
from tests.everybody import let_in
from tests.postgres_scratch import Scratch, scratch
from tests.services.odd_database import DATABASE, SCHEMA
from tests.services.test_postgres_disk_full import FILL, may_mount, small_disk
from tests.services.test_postgres_restore import altered, wrong_digest
from tests.stack_behaviour import eventually

PLAIN = "CREATE TABLE orders (id bigserial PRIMARY KEY, what text); INSERT INTO orders (what) VALUES ('a'), ('b')"
# Declared immutable, and not: an index on it holds what no later look at the row gives.
WOBBLY = """
CREATE FUNCTION wobbly(int) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN random(); END';
CREATE TABLE measured AS SELECT n FROM generate_series(1, 500) n;
CREATE INDEX answers_otherwise ON measured (wobbly(n));
"""
HEARTBEAT = (
    "CREATE SCHEMA recoup; CREATE TABLE recoup.heartbeat (id int PRIMARY KEY, at timestamptz NOT NULL); "
    "INSERT INTO recoup.heartbeat VALUES (1, now() - interval '{0}')"
)
_SEPARATE = multiprocessing.get_context("spawn")


@pytest.fixture
def source(sandbox: Sandbox, tmp_path: Path) -> Iterator[Scratch]:
    with scratch(sandbox, tmp_path / "backups", PLAIN) as made:
        yield made
        assert not left_over(made), "nothing of a throwaway server may stay"


def place(source: Scratch) -> Path:
    return source.plan.platform.scratch


def left_over(source: Scratch) -> list[Path]:
    return list(place(source).iterdir()) if place(source).exists() else []


def backed_up(source: Scratch) -> BackupSet:
    taken = take_database_backup.fn(source.server, source.repository)
    return source.repository.get("database", taken.set_id)


def verified(source: Scratch, one: BackupSet) -> Verified:
    return verify_database_backup.fn(source.server, source.repository, one.set_id, place(source))


def failed(found: Verified) -> list[str]:
    return [f"{check.name}: {check.seen}" for check in found.failed]


def test_a_backup_is_proven_as_soon_as_it_is_taken_and_says_so(source: Scratch) -> None:
    before = source.databases()
    taken = run_backup(source.plan, source.stack)
    (one,) = source.repository.sets("database")
    assert one.verified is not None
    assert one.verified.passed
    names = " ".join(check.name for check in one.verified.checks)
    for looked_at in ("sha256", "empty server", "digests", "schema", "sequences", "constraints", "amcheck"):
        assert looked_at in names
    assert "checks passed" in str(taken)
    assert "verified" in str(find_backup(source.server, source.repository, "latest"))
    assert source.databases() == before, "the server in use is left alone"


def test_whatever_a_database_holds_passes(sandbox: Sandbox, tmp_path: Path) -> None:
    with scratch(sandbox, tmp_path, SCHEMA) as source:
        source.sql(DATABASE.format(source.name))
        found = verified(source, backed_up(source))
        assert {check.outcome for check in found.checks} == {Outcome.PASSED}, str(found)
    source.sql("DROP ROLE scratch_reader", "postgres")


def flip(one: BackupSet) -> None:
    path = max((one.path / "dump").iterdir(), key=lambda file: file.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_and_hash_again(one: BackupSet) -> None:
    """As when the damage was done before the files were hashed."""
    toc = one.path / "dump" / "toc.dat"
    toc.write_bytes(toc.read_bytes()[:-40])
    listed = {entry.path for entry in one.manifest.files} if one.manifest else set()
    kept = tuple(entry for entry in entries(one.path) if entry.path in listed)
    altered(one, lambda manifest: manifest.model_copy(update={"files": kept}))


@pytest.mark.parametrize(
    ("harm", "seen"),
    [
        (flip, "does not match its sha256"),
        (cut_and_hash_again, "the set restores into an empty server: pg_restore failed"),
        (lambda one: altered(one, wrong_digest), "public.orders differs"),
    ],
)
def test_a_bad_set_is_marked_as_failed_with_what_is_wrong(
    harm: Callable[[BackupSet], None], seen: str, source: Scratch
) -> None:
    one = backed_up(source)
    harm(one)
    found = verified(source, one)
    assert any(seen in text for text in failed(found)), failed(found)
    marked = source.repository.get("database", one.set_id).verified
    assert marked is not None
    assert marked.failed == found.failed
    assert not marked.passed


def test_a_set_without_a_manifest_fails_too(source: Scratch) -> None:
    one = backed_up(source)
    (one.path / MANIFEST).write_text("{")
    assert "its manifest is not valid" in failed(verified(source, one))[0]


def test_a_set_that_failed_is_skipped_for_an_older_one_and_taken_only_by_its_name(source: Scratch) -> None:
    older = backed_up(source)
    newer = backed_up(source)
    good = (newer.path / MANIFEST).read_text()
    altered(newer, wrong_digest)
    verified(source, newer)
    # The files are whole: only the restore test knows.
    (newer.path / MANIFEST).write_text(good)
    chosen = find_backup(source.server, source.repository, "latest")
    assert chosen.set_id == older.set_id
    assert "not verified" in str(chosen)
    assert "restore test failed" in chosen.skipped[0].reason
    named = find_backup(source.server, source.repository, newer.set_id)
    assert "although its restore test failed" in str(named)
    restore_beside.fn(source.server, source.repository, named.set_id, f"{source.name}_copy")
    # A later test that passes takes the mark away.
    assert not verified(source, newer).failed
    assert find_backup(source.server, source.repository, "latest").set_id == newer.set_id


def test_an_unverified_newer_set_is_preferred_to_a_verified_older_one(source: Scratch) -> None:
    verified(source, backed_up(source))
    newer = backed_up(source)
    assert find_backup(source.server, source.repository, "latest").set_id == newer.set_id


def test_an_index_that_does_not_agree_with_its_table_fails_the_backup(source: Scratch) -> None:
    source.sql(WOBBLY)
    with pytest.raises(RecoveryError, match="answers_otherwise") as bad:
        run_backup(source.plan, source.stack)
    assert bad.value.exit_code == 1
    assert "marked as failed" in bad.value.state
    (one,) = source.repository.sets("database")
    assert one.verified is not None
    assert [check.name for check in one.verified.failed] == ["indexes agree with their tables (amcheck)"]
    assert source.repository.get("database", one.set_id).manifest is not None, "the set stays"


@pytest.mark.parametrize(("age", "outcome"), [("2 seconds", Outcome.PASSED), ("1 hour", Outcome.UNPROVEN)])
def test_the_heartbeat_must_be_of_the_sets_own_time(age: str, outcome: Outcome, source: Scratch) -> None:
    source.sql(HEARTBEAT.format(age))
    found = {check.name: check for check in verified(source, backed_up(source)).checks}
    assert found["the newest heartbeat is of the set's own time"].outcome is outcome


def test_without_a_heartbeat_no_such_check_is_made(source: Scratch) -> None:
    assert not [check for check in verified(source, backed_up(source)).checks if "heartbeat" in check.name]


def test_two_at_once_do_not_meet(source: Scratch) -> None:
    one = backed_up(source)
    with ThreadPoolExecutor(max_workers=2) as pool:
        for found in pool.map(lambda _: verified(source, one), range(2)):
            assert {check.outcome for check in found.checks} == {Outcome.PASSED}, str(found)
    assert [path.name for path in one.path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.skipif(not may_mount(), reason="only who may mount a small disk can fill one")
def test_no_room_for_the_test_is_not_the_sets_fault(source: Scratch, tmp_path: Path) -> None:
    source.sql(FILL.format(40))
    one = backed_up(source)
    let_in(tmp_path)
    # Not enough for a server; enough for one, and not for what is restored into it.
    for size, at in ((8, "initdb|No space"), (80, "could not be tested.*No space left on device")):
        with (
            small_disk(tmp_path / "d", size << 20, ",mode=755") as disk,
            pytest.raises(RecoveryError, match=at) as full,
        ):
            verify_database_backup.fn(source.server, source.repository, one.set_id, disk)
        print(full.value)
    assert source.repository.get("database", one.set_id).verified is None
    assert find_backup(source.server, source.repository, "latest").set_id == one.set_id


class _Killer(Silent):
    def __init__(self, at: str) -> None:
        self._at = at

    def note(self, text: str) -> None:
        if text.startswith(self._at):
            os.kill(os.getpid(), signal.SIGKILL)


def _verify_and_die(source: Scratch, set_id: str, at: str) -> None:
    from flows.backup import run_verification

    with watched_by(_Killer(at)):
        run_verification(source.plan, source.stack, set_id)


@pytest.mark.parametrize("moment", ["making an empty server", "restoring", "checking"])
def test_a_killed_one_leaves_no_server_and_the_next_one_no_file(moment: str, source: Scratch) -> None:
    one = backed_up(source)
    child = _SEPARATE.Process(target=_verify_and_die, args=(source, one.set_id, moment))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    eventually("the throwaway server has ended", lambda: not processes_in(place(source)))
    assert source.repository.get("database", one.set_id).verified is None
    assert not verified(source, one).failed


def processes_in(scratch: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(scratch) in arguments:
            found.append(arguments)
    return found


def test_a_set_of_another_kind_or_none_at_all_is_refused(source: Scratch) -> None:
    with pytest.raises(PreconditionError, match="no backup set"):
        verify_database_backup.fn(source.server, Repository(place(source) / "none"), "x", place(source))
    one = backed_up(source)

    def of_redis(manifest: Manifest) -> Manifest:
        other = RedisSnapshot(server_version="8", keys={}, expiring={}, digest="", compression="")
        return manifest.model_copy(update={"holds": other})

    altered(one, of_redis)
    with pytest.raises(PreconditionError, match="no logical copy"):
        verified(source, one)
