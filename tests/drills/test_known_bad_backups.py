"""Backups that are known to be bad: the older good one is used and the record says why, or nothing is claimed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.backup import run_backup
from flows.drill import DatabaseDrill, drill_database
from recoup.catalog import BackupSet, problems
from recoup.records import Outcome, Verdict
from tasks.postgres_fault import Fault
from tasks.spoil import Spoil, spoil
from tests.drills.platform import Platform
from tests.stack_behaviour import arguments_here, eventually

SPOILT = [how for how in Spoil if how is not Spoil.NOTHING]
REASONS = {
    Spoil.FLIP_BYTE: "does not match its sha256",
    Spoil.TRUNCATE: "bytes, the manifest says",
    Spoil.REMOVE_FILE: "No such file or directory",
    Spoil.BREAK_MANIFEST: "its manifest is not valid",
}
BACKUP = """
import sys
from pathlib import Path
from flows.backup import run_backup
from recoup.plan import load_plan
from recoup.stacks import open_stack
plan = load_plan(Path(sys.argv[1]))
print("ready", flush=True)
run_backup(plan, open_stack(plan), verify=False)
"""


@pytest.fixture
def older(platform: Platform) -> BackupSet:
    """Give the good set that is there before a test, and a row that only newer sets hold."""
    good = platform.repository.sets("database")[0]
    assert problems(good) == ""
    return good


@pytest.fixture
def newer(platform: Platform, older: BackupSet) -> Iterator[BackupSet]:
    """Give a set newer than ``older``, to be spoilt; gone after the test."""
    platform.sql("INSERT INTO records (id, body) VALUES ('only-in-the-newer', '{}') ON CONFLICT DO NOTHING")
    taken = run_backup(platform.plan, platform.stack, verify=False)
    one = platform.repository.get("database", taken.set_id)
    yield one
    shutil.rmtree(one.path, ignore_errors=True)


@pytest.mark.parametrize("how", SPOILT)
def test_the_older_good_set_is_used_and_the_newer_one_named(
    how: Spoil, platform: Platform, older: BackupSet, newer: BackupSet
) -> None:
    spoil(platform.repository, how)
    began = platform.break_it(Fault.DROP_TABLE)
    record = platform.recover(began)
    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    assert record.backup is not None
    assert record.backup.set_id == older.set_id
    assert record.backup.recovery_point == older.recovery_point
    (skipped,) = record.backup.skipped
    assert skipped.set_id == newer.set_id
    assert REASONS[how] in skipped.reason
    assert record.stores[0].recovery_point == older.recovery_point
    assert platform.sql("SELECT count(*) FROM records WHERE id = 'only-in-the-newer'") == "0"
    assert record in platform.ledger.records()


@pytest.mark.parametrize("how", [how for how in SPOILT if how is not Spoil.BREAK_MANIFEST])
def test_without_an_older_good_set_nothing_is_claimed_and_nothing_touched(
    how: Spoil, platform: Platform, older: BackupSet, tmp_path: Path
) -> None:
    kept = shutil.copytree(older.path, tmp_path / older.set_id)
    users = platform.sql("SELECT count(*) || ' ' || sum(hashtext(u::text)) FROM users u")
    spoil(platform.repository, how)
    began = platform.break_it(Fault.DROP_TABLE)
    before = platform.databases()
    running = {state.service: state.started for state in platform.stack.services()}
    record = platform.recover(began)
    assert record.verdict is Verdict.NOT_RECOVERED
    assert "no good backup set" in record.why
    assert older.set_id in record.why
    assert REASONS[how] in record.why
    assert record.state_left == "no data was touched"
    assert record.next_step
    assert platform.databases() == before
    assert platform.sql("SELECT count(*) || ' ' || sum(hashtext(u::text)) FROM users u") == users
    assert {state.service: state.started for state in platform.stack.services()} == running, "nothing was stopped"
    assert platform.ledger.records()[-1] == record
    # The next step that it names is the right one.
    shutil.rmtree(older.path)
    shutil.copytree(kept, older.path)
    assert platform.recover(began).verdict is Verdict.RECOVERED


def test_a_new_empty_database_is_not_taken_for_the_old_one_when_no_manifest_can_be_read(
    platform: Platform, older: BackupSet, tmp_path: Path
) -> None:
    kept = shutil.copytree(older.path, tmp_path / older.set_id)
    platform.sql("INSERT INTO records (id, body) VALUES ('not-in-a-new-database', '{}')")
    spoil(platform.repository, Spoil.BREAK_MANIFEST)
    # After a wipe the stack makes a database anew, schema and all: it answers, and the gateway serves its users.
    began = platform.break_it(Fault.WIPE)
    record = platform.recover(began)
    assert platform.sql("SELECT count(*) FROM records WHERE id = 'not-in-a-new-database'") == "0"
    assert record.verdict is Verdict.UNPROVEN
    assert "no set with a readable manifest" in record.why
    assert record.next_step
    assert record.stores[0].met is None
    shutil.rmtree(older.path)
    shutil.copytree(kept, older.path)
    assert platform.recover(began).verdict is Verdict.RECOVERED


def test_a_drill_on_a_spoilt_backup_alone_fails_and_leaves_no_sandbox(state: Path) -> None:
    record = drill_database.fn(DatabaseDrill(fault=Fault.WIPE, spoil=Spoil.FLIP_BYTE, older=False))
    assert record.verdict is Verdict.NOT_RECOVERED
    assert record.state_left == "no data was touched"
    assert record.clock.restored is None
    assert record.rto_met is None
    assert not any(check.outcome is Outcome.PASSED for check in record.checks)
    assert not (state / "sandboxes" / record.stack.rpartition(":")[2]).exists()


@pytest.mark.parametrize("moment", ["while it is dumped", "with all files there and no manifest"])
def test_a_killed_backup_leaves_no_set_and_the_next_one_cleans_up(
    moment: str, platform: Platform, older: BackupSet
) -> None:
    root = platform.repository.root
    if moment == "while it is dumped":
        platform.sql("CREATE TABLE many AS SELECT n, md5(n::text) AS text FROM generate_series(1, 400000) n")
        child = subprocess.Popen([sys.executable, "-c", BACKUP, str(platform.sandbox.plan)])
        try:
            eventually("pg_dump is under way", lambda: "pg_dump" in arguments_here_with(f"{root}/."))
        finally:
            child.kill()
        assert child.wait() == -signal.SIGKILL
        platform.sql("DROP TABLE many")
    else:
        assert platform.back_up_and_die("hashing the files") == -signal.SIGKILL
    (dead,) = root.glob(".*.partial")
    assert (dead / "dump" / "toc.dat").exists() or moment == "while it is dumped"
    assert [one.set_id for one in platform.repository.sets("database")] == [older.set_id]
    eventually("the orphaned pg_dump has ended", lambda: arguments_here_with(dead.name) == "")
    taken = run_backup(platform.plan, platform.stack, verify=False)
    assert {path.name for path in root.iterdir()} == {taken.set_id, older.set_id}
    assert problems(platform.repository.get("database", taken.set_id)) == ""
    shutil.rmtree(root / taken.set_id)


def arguments_here_with(text: str) -> str:
    return "\n".join(line for line in arguments_here().splitlines() if text in line)
