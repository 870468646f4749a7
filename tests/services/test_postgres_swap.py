"""Giving a restored database its name: at once or not at all, safe to repeat; and runs that must change nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from flows.database import DatabaseRecovery, When, run_recovery
from recoup.catalog import MANIFEST
from recoup.errors import PreconditionError, RecoveryError
from recoup.plan import load_plan
from tasks.postgres_backup import take_database_backup
from tasks.postgres_diagnosis import look
from tasks.postgres_restore import Swapped, restore_beside, swap_databases
from tasks.sandbox import Sandbox
from tests.postgres_scratch import Scratch, scratch

BACKED_UP = "CREATE TABLE t (k int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)"


class Restored:
    """A database with a restored copy beside it, which lacks what was written since."""

    def __init__(self, old: Scratch) -> None:
        self.old = old
        self.taken = take_database_backup.fn(old.server, old.repository)
        old.sql("INSERT INTO t VALUES (101)")
        self.target, self.kept = f"{old.name}_new", f"{old.name}_kept"
        restore_beside.fn(old.server, old.repository, self.taken.set_id, self.target)

    def swap(self) -> Swapped:
        return swap_databases.fn(self.old.server, self.taken.set_id, self.target, self.kept)

    def swapped(self) -> bool:
        """Say whether all of it is done; fails when only a part is."""
        names = self.old.databases()
        if names == {self.old.name, self.target}:
            return False
        assert names == {self.old.name, self.kept}
        assert self.old.sql("SELECT count(*) FROM t") == "100"
        return True


@pytest.fixture
def restored(sandbox: Sandbox, tmp_path: Path) -> Iterator[Restored]:
    with scratch(sandbox, tmp_path / "backups", BACKED_UP) as old:
        yield Restored(old)


def test_it_bears_the_name_and_the_old_one_is_kept_with_all_its_rows(restored: Restored) -> None:
    assert restored.swap().kept == restored.kept
    assert restored.swapped()
    restored.old.sql(f"ALTER DATABASE {restored.kept} ALLOW_CONNECTIONS true", "postgres")
    assert restored.old.sql("SELECT max(k) FROM t", restored.kept) == "101"


def test_done_twice_it_says_the_same_and_changes_nothing(restored: Restored) -> None:
    first = restored.swap()
    restored.old.sql("INSERT INTO t VALUES (1000)")
    assert restored.swap() == first
    assert restored.old.sql("SELECT max(k) FROM t") == "1000"


def test_killed_before_the_rename_it_goes_on(restored: Restored) -> None:
    # What a run that was killed after its first statement leaves: the old database refuses everybody.
    restored.old.sql(f"ALTER DATABASE {restored.old.name} ALLOW_CONNECTIONS false", "postgres")
    with (
        pytest.raises(psycopg.OperationalError, match="not currently accepting connections"),
        restored.old.server.connect(),
    ):
        pytest.fail("it was let in")
    assert restored.swap().kept == restored.kept
    assert restored.swapped()


def test_clients_that_come_back_at_once_do_not_hinder_it(restored: Restored) -> None:
    stop = threading.Event()
    connected, ended = threading.Semaphore(0), list[str]()

    def insist() -> None:
        while not stop.is_set():
            try:
                with restored.old.server.connect() as connection:
                    connected.release()
                    while not stop.is_set():
                        connection.execute("SELECT 1")
            except psycopg.Error as error:
                ended.append(str(error))

    clients = [threading.Thread(target=insist, daemon=True) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        assert all(connected.acquire(timeout=20) for _ in clients)
        assert restored.swap().kept == restored.kept
    finally:
        stop.set()
        for client in clients:
            client.join(20)
    assert len(ended) >= len(clients), "every one of them was thrown out"
    assert restored.swapped()


def test_a_rename_that_fails_changes_nothing_and_can_be_done_again(restored: Restored) -> None:
    old = restored.old
    old.sql(f"CREATE DATABASE {restored.kept}", "postgres")
    with pytest.raises(RecoveryError, match="already exists") as failed:
        restored.swap()
    assert f"kept as {restored.target}" in failed.value.state
    assert "goes on here" in failed.value.next_step
    assert old.databases() == {old.name, restored.target, restored.kept}
    old.sql(f"DROP DATABASE {restored.kept}", "postgres")
    assert restored.swap().kept == restored.kept
    assert restored.swapped()


def test_what_was_not_compared_is_never_swapped_in(restored: Restored) -> None:
    old = restored.old
    old.sql(f"DROP DATABASE {restored.target}; ", "postgres")
    old.sql(f"CREATE DATABASE {restored.target}", "postgres")
    with pytest.raises(RecoveryError, match="is not there as it was restored and compared"):
        restored.swap()
    assert not restored.swapped()
    assert old.sql("SELECT max(k) FROM t") == "101"
    old.sql(f"DROP DATABASE {restored.target}", "postgres")
    with pytest.raises(RecoveryError, match="is not there") as refused:
        restored.swap()
    assert "--fresh" in refused.value.next_step
    assert old.sql("SELECT max(k) FROM t") == "101"


def test_without_an_old_database_there_is_nothing_to_keep(restored: Restored) -> None:
    restored.old.sql(f"DROP DATABASE {restored.old.name}", "postgres")
    assert restored.swap().kept == ""
    assert restored.swap().kept == ""
    assert restored.old.databases() == {restored.old.name}


def test_a_server_made_anew_is_known_by_the_database_that_was_swapped_in(restored: Restored) -> None:
    """An image that finds its directory empty makes a new server, with another identifier than the set's."""
    old = restored.old
    manifest = old.repository.root / restored.taken.set_id / MANIFEST
    own = old.sql("SELECT system_identifier FROM pg_control_system()", "postgres")
    assert own in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(own, "7000"))
    assert look(old.server, old.repository).replaced
    restored.swap()
    assert not look(old.server, old.repository).replaced


def test_a_wrong_password_ends_the_run_before_anything_is_changed(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOUP_STATE", str(tmp_path))
    (tmp_path / "password").write_text("not the password")
    plan = load_plan(sandbox.plan)
    wrong = plan.components["postgres"].model_copy(update={"password": f"file:{tmp_path}/password"})
    plan = plan.model_copy(update={"components": {**plan.components, "postgres": wrong}})
    with scratch(sandbox, tmp_path / "none") as look:
        before = look.sql("SELECT datname FROM pg_database"), [state.started for state in look.stack.services()]
        with pytest.raises(PreconditionError, match="turned the login of user neo away") as refused:
            run_recovery(
                plan, DatabaseRecovery(plan=sandbox.plan, restore=When.ALWAYS), ledger=tmp_path / "ledger.jsonl"
            )
        after = look.sql("SELECT datname FROM pg_database"), [state.started for state in look.stack.services()]
    assert refused.value.exit_code == 2
    assert refused.value.state == "nothing was changed"
    assert f"file:{tmp_path}/password" in refused.value.next_step
    assert "not the password" not in str(refused.value)
    assert after == before


def test_an_unknown_component_is_refused_by_name(sandbox: Sandbox, tmp_path: Path) -> None:
    request = DatabaseRecovery(plan=sandbox.plan, component="no-such-database")
    with pytest.raises(PreconditionError, match="no-such-database") as refused:
        run_recovery(load_plan(sandbox.plan), request, ledger=tmp_path / "ledger.jsonl")
    assert refused.value.exit_code == 2
    assert "postgres" in str(refused.value)
    assert not (tmp_path / "ledger.jsonl").exists()
