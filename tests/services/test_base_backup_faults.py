"""Base backups at bad moments: while everything is being changed, killed on the way, of other versions, tablespaces."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from recoup.catalog import Repository
from recoup.errors import PreconditionError, RecoveryError
from recoup.plan import load_plan
from recoup.stacks.process import ProcessStack
from recoup.target import Target
from tasks import postgres_base
from tasks.postgres import Server
from tasks.postgres_base_verify import verify_base_backup
from tasks.postgres_choice import find_base
from tests.continuous import Continuous, continuous, failed
from tests.stack_behaviour import eventually

SERIES = "database-base"
OLD = Path("/usr/lib/postgresql/15/bin")
_SEPARATE = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def at(sandbox_state: Path) -> Iterator[Continuous]:
    with continuous("async", sandbox_state) as made:
        made.base()
        made.sql("CREATE TABLE public.ledger (n int PRIMARY KEY)")
        yield made


def test_taken_while_the_schema_is_being_changed_it_is_whole(at: Continuous) -> None:
    stop = threading.Event()

    def change(worker: int) -> None:
        with at.server.connect() as connection:
            n = 0
            while not stop.is_set():
                n += 1
                name = f"public.busy_{worker}"
                with suppress(psycopg.errors.DeadlockDetected):
                    connection.execute(f"CREATE TABLE {name} AS SELECT g, md5(g::text) t FROM generate_series(1,500) g")
                    connection.execute(f"CREATE INDEX ON {name} (t)")
                    connection.execute(f"ALTER TABLE {name} ADD COLUMN more int DEFAULT {n}")
                    connection.execute(f"ALTER TABLE {name} ALTER COLUMN g TYPE bigint")
                    connection.execute(f"TRUNCATE {name}")
                    connection.execute(f"INSERT INTO {name} SELECT g, 'x', g FROM generate_series(1,500) g")
                    connection.execute(f"VACUUM FULL {name}")
                    connection.execute(f"DROP TABLE {name}")
                connection.execute("INSERT INTO public.ledger VALUES (%s)", [worker * 1_000_000 + n])

    def databases() -> None:
        with at.server.connect("postgres") as connection:
            while not stop.is_set():
                connection.execute("CREATE DATABASE passing")
                connection.execute("DROP DATABASE passing")

    workers = [threading.Thread(target=change, args=(n,)) for n in (1, 2)] + [threading.Thread(target=databases)]
    for worker in workers:
        worker.start()
    try:
        eventually("they are at it", lambda: int(at.sql("SELECT count(*) FROM public.ledger")) > 4)
        taken = [at.base(), at.base(incremental=True)]
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    written = at.sql("SELECT count(*) FROM public.ledger")
    at.received()
    for one in taken:
        found = verify_base_backup.fn(at.server, at.repository, one.set_id, at.plan.platform.scratch)
        assert not found.failed, found.failed
        with at.restored(one.set_id, "latest") as (beside, checks):
            assert at.sql("SELECT count(*) FROM public.ledger", beside=beside) == written
            assert at.sql("SELECT to_regclass('public.busy_1') IS NULL", beside=beside) == "t"
        assert not failed(checks)


def test_wal_that_is_written_and_checkpointed_meanwhile_is_still_there_at_the_end(
    at: Continuous, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = postgres_base.base_command
    monkeypatch.setattr(postgres_base, "base_command", lambda *given: (*real(*given), "--max-rate=2M"))
    done = threading.Event()

    def recycle() -> None:
        while not done.wait(0.1):
            at.sql("CREATE TABLE passing (); DROP TABLE passing; SELECT pg_switch_wal(); CHECKPOINT")

    writer = threading.Thread(target=recycle)
    writer.start()
    try:
        taken = at.base()
    finally:
        done.set()
        writer.join()
    found = verify_base_backup.fn(at.server, at.repository, taken.set_id, at.plan.platform.scratch)
    assert not found.failed, found.failed
    slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'recoup_base_%'"
    assert at.sql(slots) == "0"


def _take(directory: Path, plan: Path, stage: str, reached: Path) -> None:
    """Take a base backup in a process of its own, which stops at a stage to be killed there."""

    def wait() -> None:
        reached.touch()
        threading.Event().wait(60)

    if stage == "before anything was copied":
        postgres_base._copy = lambda *_: wait()  # type: ignore[assignment]
    if stage == "copied, not listed yet":
        postgres_base.entries = lambda *_: wait()  # type: ignore[attr-defined, assignment]
    if stage == "being copied":
        real = postgres_base.base_command

        def command(*given: object) -> tuple[str, ...]:
            reached.touch()
            return (*real(*given), "--max-rate=32kB")  # type: ignore[arg-type]

        postgres_base.base_command = command  # type: ignore[assignment]
    if stage == "published, WAL not pruned yet":
        postgres_base.prune_wal = lambda *_: wait()  # type: ignore[assignment]
    loaded = load_plan(plan)
    server = Server.of(loaded, ProcessStack.open(directory), None)
    postgres_base.take_base(server, Repository(loaded.platform.repository), False)


@pytest.mark.parametrize(
    "stage",
    ["before anything was copied", "being copied", "copied, not listed yet", "published, WAL not pruned yet"],
)
def test_killed_on_the_way_it_shows_no_half_of_a_set_and_hinders_no_other(
    at: Continuous, tmp_path: Path, stage: str
) -> None:
    before = {one.set_id for one in at.repository.sets(SERIES)}
    reached = tmp_path / "reached"
    child = _SEPARATE.Process(target=_take, args=(at.sandbox.directory, at.sandbox.plan, stage, reached))
    child.start()
    eventually("the stage is reached", reached.exists)
    child.kill()
    child.join()
    now = {one.set_id for one in at.repository.sets(SERIES)}
    published = stage.startswith("published")
    assert len(now - before) == int(published)
    # Retention comes after publishing, and takes no set before it.
    assert published or before <= now
    newest = find_base(at.server, at.repository, Target())
    assert newest.set_id in now
    after = at.base()
    assert not list(at.repository.root.glob(".*-database-base.*")), "what was left is removed"
    with at.restored(after.set_id, "latest") as (_, checks):
        assert not failed(checks)


def test_one_of_another_major_version_is_refused_before_anything_is_moved(at: Continuous) -> None:
    other = at.copy()
    for one in other.repository.sets(SERIES):
        path = one.path / "manifest.json"
        path.write_text(path.read_text().replace('"server_version": 18', '"server_version": 17'))
    with pytest.raises(RecoveryError, match="it is of PostgreSQL 17, and 18 is what would replay it") as refused:
        find_base(other.server, other.repository, Target())
    assert refused.value.state == "no data was touched"
    assert "dump" in refused.value.next_step


@pytest.mark.skipif(not OLD.exists(), reason="no programs of another version are installed")
def test_so_it_is_when_the_service_was_given_other_programs(at: Continuous) -> None:
    path = at.sandbox.directory / "stack.json"
    was = path.read_text()
    spec = json.loads(was)
    for service in spec["services"]:
        if service["name"] == "postgres":
            service["bin"] = [str(OLD), *service["bin"]]
    path.write_text(json.dumps(spec))
    try:
        stack = ProcessStack.open(at.sandbox.directory)
        with pytest.raises(RecoveryError, match="it is of PostgreSQL 18, and 15 is what would replay it"):
            find_base(Server.of(at.plan, stack, None), at.repository, Target())
    finally:
        path.write_text(was)


def test_a_tablespace_is_refused_with_what_to_do_and_never_replayed(at: Continuous) -> None:
    base = at.base()
    place = at.sandbox.directory / "elsewhere"
    place.mkdir()
    owner = at.wal.stat()
    if os.geteuid() == 0:
        os.chown(place, owner.st_uid, owner.st_gid)
    at.sql(f"CREATE TABLESPACE elsewhere LOCATION '{place}'")
    try:
        at.sql("CREATE TABLE public.far TABLESPACE elsewhere AS SELECT generate_series(1, 1000) n")
        with pytest.raises(PreconditionError, match="tablespaces of its own") as refused:
            at.base()
        # What it says to do is what has to be done.
        assert 'ALTER TABLE ALL IN TABLESPACE "elsewhere" SET TABLESPACE pg_default;' in refused.value.next_step
        at.sql("UPDATE public.far SET n = n + 1")
        at.sql("CHECKPOINT")
        at.received()
        files = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        assert files
        with pytest.raises(RecoveryError, match="the WAL makes a tablespace"):
            find_base(at.server, at.repository, Target())
        # A replay would write into the files that are in use.
        with (
            pytest.raises(RecoveryError, match=r"the WAL makes a tablespace .*elsewhere") as never,
            at.restored(base.set_id, "latest"),
        ):
            pytest.fail("it was replayed")
        assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == files
        before = never.value.what.partition("--to ")[2].partition(")")[0]
        with at.restored(base.set_id, before) as (beside, checks):
            assert at.sql("SELECT to_regclass('public.far') IS NULL", beside=beside) == "t"
        assert not failed(checks)
    finally:
        at.sql('ALTER TABLE ALL IN TABLESPACE "elsewhere" SET TABLESPACE pg_default')
        at.sql('DROP TABLESPACE "elsewhere"')
        shutil.rmtree(place)
    after = at.base()
    with at.restored(after.set_id, "latest") as (beside, _):
        assert at.sql("SELECT count(*) FROM public.far", beside=beside) == "1000"
