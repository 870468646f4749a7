"""A disk that is really full, during a backup and during a restore: said clearly, nothing lost, mended by room."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.backup import run_backup
from flows.database import DatabaseRecovery, When, run_recovery
from recoup.catalog import Repository, problems
from recoup.errors import PreconditionError, RecoveryError
from recoup.plan import load_plan
from recoup.records import Verdict
from recoup.stacks.process import ProcessStack
from tasks.postgres import Server
from tasks.postgres_backup import take_database_backup
from tasks.sandbox import Sandbox, create, destroy
from tests.postgres_scratch import Scratch, scratch
from tests.stack_behaviour import eventually, ready

MEGABYTE = 1 << 20
# Random bytes, which no compression makes smaller.
FILL = """
CREATE TABLE filling AS SELECT n, (SELECT decode(string_agg(md5(random()::text || n || m), ''), 'hex')
    FROM generate_series(1, 1024) m) AS bytes FROM generate_series(1, {0} * 64) n
"""


def may_mount() -> bool:
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as place:
        if subprocess.run(["mount", "-t", "tmpfs", "none", place], capture_output=True, check=False).returncode != 0:
            return False
        subprocess.run(["umount", place], check=True)
    return True


pytestmark = pytest.mark.skipif(not may_mount(), reason="only who may mount a small disk can fill one")


@contextmanager
def small_disk(place: Path, size: int, options: str = "") -> Iterator[Path]:
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(filler: Path, left: int) -> None:
    """Make a file that leaves so many bytes of its disk."""
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(filler.parent).free - left)


@pytest.fixture
def backed_up(sandbox: Sandbox, tmp_path: Path) -> Iterator[Scratch]:
    """Give a small database with one set on a disk of 16 MB."""
    with (
        small_disk(tmp_path / "disk", 16 * MEGABYTE) as disk,
        scratch(sandbox, disk / "backups", "CREATE TABLE t AS SELECT generate_series(1, 1000) k") as source,
    ):
        run_backup(source.plan, source.stack, verify=False)
        yield source


def test_no_room_is_said_before_anything_is_written(backed_up: Scratch) -> None:
    backed_up.sql(FILL.format(30))
    (older,) = backed_up.repository.sets("database")
    with pytest.raises(PreconditionError, match="may need half of that") as refused:
        run_backup(backed_up.plan, backed_up.stack, verify=False)
    assert refused.value.exit_code == 2
    assert "free space" in refused.value.next_step
    assert backed_up.repository.sets("database") == (older,)


def test_a_disk_that_fills_during_the_backup(backed_up: Scratch) -> None:
    backed_up.sql(FILL.format(18))
    (older,) = backed_up.repository.sets("database")
    with pytest.raises(RecoveryError, match="No space left on device") as failed:
        run_backup(backed_up.plan, backed_up.stack, verify=False)
    assert failed.value.state == "no set was published; the older ones are untouched"
    assert "recoup backup now" in failed.value.next_step
    assert backed_up.repository.sets("database") == (older,)
    assert problems(older) == ""
    assert [path.name for path in backed_up.repository.root.iterdir()] == [older.set_id], "the room is given back"
    backed_up.sql("TRUNCATE filling")
    taken = run_backup(backed_up.plan, backed_up.stack, verify=False)
    assert taken.set_id == backed_up.repository.sets("database")[0].set_id


@pytest.mark.parametrize("left", [0, 4096, 20_000])
def test_a_disk_that_is_full_to_the_last_page(left: int, backed_up: Scratch) -> None:
    """The dump fits, or its directory, or not even that: whatever is the last thing that fits, no set is published."""
    (older,) = backed_up.repository.sets("database")
    filler = backed_up.repository.root.parent / "filler"
    fill(filler, left)
    with pytest.raises((RecoveryError, PreconditionError), match=r"No space left on device") as failed:
        take_database_backup.fn(backed_up.server, backed_up.repository)
    assert failed.value.next_step
    assert backed_up.repository.sets("database") == (older,)
    assert problems(older) == ""
    assert [path.name for path in backed_up.repository.root.iterdir()] == [older.set_id]


@pytest.fixture
def cramped(sandbox_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """Give a sandbox whose databases, but not whose WAL, are on a disk of 96 MB."""
    monkeypatch.setenv("RECOUP_STATE", str(sandbox_state))
    made = create("process")
    stack = ProcessStack.open(made.directory)
    base = made.directory / "services" / "postgres" / "data" / "base"
    try:
        stack.stop("postgres")
        owner = base.stat()
        moved = base.rename(base.with_name("base.moved"))
        with small_disk(base, 96 * MEGABYTE, f",uid={owner.st_uid},gid={owner.st_gid},mode=0700"):
            subprocess.run(["cp", "-a", f"{moved}/.", str(base)], check=True)
            stack.start("postgres")
            eventually("the database answers", lambda: ready(stack))
            yield made
            stack.kill("postgres")
    finally:
        destroy(made)


@pytest.mark.slow
def test_a_disk_that_fills_during_the_restore(cramped: Sandbox, tmp_path: Path) -> None:
    plan = load_plan(cramped.plan)
    platform = Scratch(plan, ProcessStack.open(cramped.directory), "neo_service_layer")
    base = cramped.directory / "services" / "postgres" / "data" / "base"
    platform.sql(FILL.format(12))
    run_backup(plan, platform.stack, verify=False)
    platform.sql("DELETE FROM accounts WHERE id > 5000")
    before = platform.databases(), platform.content("accounts")
    filler = base / "filler"
    # Room for an empty database, and for a part of what is to be restored.
    fill(filler, 14 * MEGABYTE)
    request = DatabaseRecovery(plan=cramped.plan, restore=When.ALWAYS)
    record = run_recovery(plan, request, ledger=tmp_path / "ledger.jsonl")
    assert record.verdict is Verdict.NOT_RECOVERED
    assert "No space left on device" in record.why
    assert "the old database is untouched; the half-made one was removed" in record.state_left
    assert "space" in record.next_step
    assert (platform.databases(), platform.content("accounts")) == before
    assert [state.service for state in platform.stack.services() if not state.running] == []
    filler.unlink()
    record = run_recovery(plan, request, ledger=tmp_path / "ledger.jsonl")
    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed"), (
        platform.stack.logs("postgres", tail=70)
    )
    assert platform.sql("SELECT count(*) FROM accounts") == "7000"
    assert Server.of(plan, platform.stack, None).spec.database == platform.name
    assert len(Repository(plan.platform.repository).sets("database")) == 1
