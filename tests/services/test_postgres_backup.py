"""A backup of a database that is being written to: one moment of it, measured as it is, and reached by its own word."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from flows.backup import run_backup
from recoup.catalog import problems
from recoup.errors import PreconditionError, RecoveryError
from recoup.manifest import DatabaseDump
from tasks.postgres_backup import Taken, take_database_backup
from tasks.postgres_restore import restore_beside
from tasks.sandbox import Sandbox
from tests.postgres_scratch import Scratch, scratch

# Each order and its two lines are one transaction; the ledger's rows always add up to nothing.
SCHEMA = """
CREATE TABLE orders (id bigserial PRIMARY KEY, writer int NOT NULL, number int NOT NULL);
CREATE TABLE lines (order_id bigint NOT NULL REFERENCES orders, amount int NOT NULL);
CREATE TABLE resting (k int PRIMARY KEY, v text);
INSERT INTO resting SELECT n, md5(n::text) FROM generate_series(1, 5000) n;
"""


class Writers:
    """Clients that write whole orders and remember when each was acknowledged, by the server's own clock."""

    def __init__(self, database: Scratch, count: int) -> None:
        self.acknowledged: dict[tuple[int, int], datetime] = {}
        self._database = database
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,), daemon=True) for n in range(count)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        while len(self.acknowledged) < 50:
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _write(self, writer: int) -> None:
        with self._database.server.connect() as connection:
            number = 0
            while not self._stop.is_set():
                number += 1
                with connection.transaction():
                    row = connection.execute(
                        "INSERT INTO public.orders (writer, number) VALUES (%s, %s) RETURNING id", [writer, number]
                    ).fetchone()
                    assert row is not None
                    for amount in (number, -number):
                        connection.execute("INSERT INTO public.lines VALUES (%s, %s)", [row[0], amount])
                # Writers and server share this machine's clock.
                self.acknowledged[writer, number] = datetime.now(UTC)


class Busy:
    """A backup taken while writers wrote, and the copy restored from it."""

    def __init__(self, source: Scratch) -> None:
        self.source = source
        self.begun = datetime.now(UTC)
        with Writers(source, 3) as writers:
            self.taken: Taken = take_database_backup.fn(source.server, source.repository)
            self.ended = datetime.now(UTC)
            time.sleep(0.2)
        self.acknowledged = writers.acknowledged
        self.copy = f"{source.name}_copy"
        restore_beside.fn(source.server, source.repository, self.taken.set_id, self.copy)

    def orders(self) -> set[tuple[int, int]]:
        rows = self.source.sql("SELECT writer, number FROM orders", self.copy).splitlines()
        return {(int(row.split("|")[0]), int(row.split("|")[1])) for row in rows}


@pytest.fixture(scope="module")
def busy(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Busy]:
    with scratch(sandbox, tmp_path_factory.mktemp("busy") / "backups", SCHEMA) as source:
        yield Busy(source)


def test_every_row_acknowledged_before_the_recovery_point_is_in_the_copy(busy: Busy) -> None:
    point = busy.taken.recovery_point
    before = {order for order, when in busy.acknowledged.items() if when < point}
    assert len(before) >= 50
    assert before <= busy.orders()
    assert busy.begun < point < busy.ended
    # And the writers went on long after it, so that the copy is of a moment in between.
    assert len(busy.acknowledged) > len(busy.orders())


def test_the_copy_is_of_one_moment(busy: Busy) -> None:
    orders = busy.orders()
    for writer in {writer for writer, _ in orders}:
        numbers = {number for one, number in orders if one == writer}
        assert numbers == set(range(1, len(numbers) + 1)), "a later write of a client without an earlier one"
    asked = "SELECT count(*), count(DISTINCT order_id), sum(amount) FROM lines"
    assert busy.source.sql(asked, busy.copy) == f"{2 * len(orders)}|{len(orders)}|0", "a part of a transaction"
    assert busy.source.sql("SELECT bool_and(convalidated) FROM pg_constraint WHERE contype = 'f'", busy.copy) == "t"


def test_the_manifest_counts_what_the_copy_holds(busy: Busy) -> None:
    manifest = busy.source.repository.get("database", busy.taken.set_id).manifest
    assert manifest is not None
    assert isinstance(manifest.holds, DatabaseDump)
    counted = {
        f"public.{table}": int(busy.source.sql(f"SELECT count(*) FROM {table}", busy.copy))
        for table in ("orders", "lines", "resting")
    }
    assert {table.name: table.rows for table in manifest.holds.content.tables} == counted
    assert busy.taken.rows == sum(counted.values())
    assert busy.taken.tables == 3
    assert busy.source.content("resting", busy.copy) == busy.source.content("resting")
    assert manifest.recovery_point == busy.taken.recovery_point
    assert manifest.holds.database == busy.source.name
    version = int(busy.source.sql("SHOW server_version_num"))
    assert manifest.holds.server_version == version


def test_digests_tell_one_content_from_another_and_not_one_order_from_another(busy: Busy) -> None:
    source = busy.source

    def digest() -> str:
        taken = take_database_backup.fn(source.server, source.repository)
        dump = source.repository.get("database", taken.set_id).dump
        assert dump is not None
        return next(table.digest for table in dump.content.tables if table.name == "public.resting")

    first = digest()
    source.sql("CREATE TABLE other AS SELECT * FROM resting ORDER BY k DESC; TRUNCATE resting")
    source.sql("INSERT INTO resting SELECT * FROM other; DROP TABLE other")
    assert digest() == first
    source.sql("UPDATE resting SET v = v || ' ' WHERE k = 4711")
    assert digest() != first


@pytest.fixture
def resting(sandbox: Sandbox, tmp_path: Path) -> Iterator[Scratch]:
    with scratch(sandbox, tmp_path / "backups", SCHEMA) as source:
        yield source


def test_a_set_is_whole_private_and_holds_no_secret(resting: Scratch) -> None:
    taken = run_backup(resting.plan, resting.stack, verify=False)
    (one,) = resting.repository.sets("database")
    assert one.set_id == taken.set_id
    assert problems(one) == ""
    assert {path.name for path in one.path.iterdir()} == {"dump", "globals.sql", "manifest.json", "schema.txt"}
    assert one.path.stat().st_mode & 0o077 == 0
    password = (resting.stack.directory / "secrets" / "db_password").read_bytes()
    assert [path for path in one.path.rglob("*") if path.is_file() and password in path.read_bytes()] == []
    assert "CREATE ROLE neo" in (one.path / "globals.sql").read_text()


def test_what_the_server_sets_against_idle_sessions_does_not_cut_the_snapshot(resting: Scratch) -> None:
    resting.sql("INSERT INTO resting SELECT n, md5(n::text) FROM generate_series(5001, 100000) n")
    for setting in ("idle_in_transaction_session_timeout", "transaction_timeout", "lock_timeout"):
        resting.sql(f"ALTER DATABASE {resting.name} SET {setting} TO 10", "postgres")
    assert take_database_backup.fn(resting.server, resting.repository).rows == 100_000


def test_only_as_many_as_the_plan_keeps_are_kept(resting: Scratch) -> None:
    keep = resting.server.spec.backup.keep
    component = resting.plan.components["postgres"]
    few = component.model_copy(update={"backup": resting.server.spec.backup.model_copy(update={"keep": 2})})
    plan = resting.plan.model_copy(update={"components": {**resting.plan.components, "postgres": few}})
    assert keep > 2
    taken = [run_backup(plan, resting.stack, verify=False) for _ in range(3)]
    assert taken[-1].pruned == (taken[0].set_id,)
    assert [one.set_id for one in resting.repository.sets("database")] == [taken[2].set_id, taken[1].set_id]


def test_a_database_that_does_not_answer_is_not_backed_up(resting: Scratch) -> None:
    resting.sql(f"ALTER DATABASE {resting.name} ALLOW_CONNECTIONS false", "postgres")
    with pytest.raises(PreconditionError, match="cannot be backed up") as refused:
        run_backup(resting.plan, resting.stack, verify=False)
    assert refused.value.exit_code == 2
    assert "recoup recover database" in refused.value.next_step
    assert not resting.repository.root.exists()


def test_a_server_that_dies_during_the_backup_leaves_no_set(resting: Scratch) -> None:
    older = run_backup(resting.plan, resting.stack, verify=False)
    resting.sql("INSERT INTO resting SELECT n, md5(n::text) FROM generate_series(5001, 400000) n")
    ended = threading.Event()

    def end_sessions() -> None:
        while not ended.wait(0.02):
            try:
                with resting.server.connect("postgres") as connection:
                    connection.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [resting.name]
                    )
            except psycopg.Error:
                continue

    killer = threading.Thread(target=end_sessions, daemon=True)
    killer.start()
    try:
        with pytest.raises(RecoveryError, match=r"dump failed|went away") as failed:
            take_database_backup.fn(resting.server, resting.repository)
    finally:
        ended.set()
        killer.join(10)
    assert "older ones are untouched" in str(failed.value)
    assert "recoup backup now" in str(failed.value)
    assert [one.set_id for one in resting.repository.sets("database")] == [older.set_id]
    assert [path.name for path in resting.repository.root.iterdir()] == [older.set_id]
    assert datetime.now(UTC) - older.recovery_point < timedelta(minutes=5)
