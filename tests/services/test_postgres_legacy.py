"""The written plan's own dumps: what its restore does to a database that is not empty, and what ours does instead."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.database import DatabaseRecovery, When, run_recovery
from recoup.errors import RecoveryError
from recoup.plan import load_plan
from recoup.records import Outcome, RecoveryRecord, Subject, Verdict
from recoup.stacks.process import ProcessStack
from tasks.postgres_restore import find_backup, restore_beside, swap_databases
from tasks.sandbox import Sandbox
from tests.postgres_scratch import Scratch, scratch

SCHEMA = """
CREATE TABLE payments (amount int, note text);
INSERT INTO payments SELECT n, 'as backed up' FROM generate_series(1, 1000) n;
CREATE TABLE users (id bigserial PRIMARY KEY, name text);
INSERT INTO users (name) SELECT 'user ' || n FROM generate_series(1, 100) n;
CREATE SEQUENCE tickets START 500; SELECT nextval('tickets');
"""
# The restore of the written plan, word for word but for "docker exec -i neo-postgres" before psql.
PLANS_RESTORE = 'gunzip -c | psql -U "$DB_USER" -d "$DB_NAME"'
PLANS_CHECK = 'psql -U "$DB_USER" -d "$DB_NAME" -c "\\dt"'
# What users did after the dump was taken, a mistake among it.
SINCE = (
    "UPDATE payments SET amount = 0; DELETE FROM users WHERE id <= 50; INSERT INTO users (name) VALUES ('came later')"
)


@pytest.fixture
def old(sandbox: Sandbox, tmp_path: Path) -> Iterator[Scratch]:
    with scratch(sandbox, tmp_path / "backups", SCHEMA) as made:
        yield made


def test_the_plans_restore_doubles_and_half_applies_and_calls_it_success(old: Scratch) -> None:
    dump = gzip.compress(old.plain_dump())
    users = old.content("users")
    old.sql(SINCE)
    done = old.shell(PLANS_RESTORE, stdin=dump)
    assert done.returncode == 0
    assert 'relation "payments" already exists' in done.stderr
    assert old.sql("SELECT count(*), sum(amount) FROM payments") == f"2000|{500 * 1001}", "doubled"
    assert old.sql("SELECT count(*) FROM users") == "51", "the rows that were deleted are not back"
    assert old.content("users") != users
    shown = old.shell(PLANS_CHECK)
    assert shown.returncode == 0
    assert b"payments" in shown.stdout, "the plan's check passes"


def test_ours_restores_the_same_dump_beside_and_every_row_once(old: Scratch) -> None:
    old.put_legacy(old.plain_dump())
    tables = {table: old.content(table) for table in ("payments", "users")}
    old.sql(SINCE)
    since = {table: old.content(table) for table in tables}
    chosen = find_backup(old.server, old.repository, "latest")
    assert chosen.legacy
    assert chosen.recovery_point is None
    restored = restore_beside.fn(old.server, old.repository, chosen.set_id, f"{old.name}_new")
    assert {table: old.content(table, restored.database) for table in tables} == tables
    assert old.sql("SELECT nextval('tickets')", restored.database) == "501"
    assert {table: old.content(table) for table in tables} == since, "nothing of the old one was touched"
    assert [c.outcome for c in restored.checks if c.name == "content against the manifest"] == [Outcome.UNPROVEN]
    swapped = swap_databases.fn(old.server, chosen.set_id, restored.database, f"{old.name}_old")
    assert swapped.kept == f"{old.name}_old"
    assert {table: old.content(table) for table in tables} == tables


def test_a_second_restore_of_it_gives_the_same_again(old: Scratch) -> None:
    name = old.put_legacy(old.plain_dump()).name
    for _ in range(2):
        restore_beside.fn(old.server, old.repository, name, f"{old.name}_new")
    assert old.content("payments", f"{old.name}_new") == old.content("payments")


def cut(dump: bytes) -> bytes:
    """Give a dump as it is when the machine died while it was compressed."""
    whole = gzip.compress(dump)
    return whole[: len(whole) // 2]


def ended_early(dump: bytes) -> bytes:
    """Give a dump as it is when pg_dump was killed: gzip closes its file well all the same."""
    return gzip.compress(dump[: dump.index(b"COPY public.users")])


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        (cut, "its gzip is damaged"),
        (ended_early, "the dump's closing line is missing"),
        (lambda _: b"", "the dump's closing line is missing"),
        (lambda dump: dump, "its gzip is damaged"),
    ],
    ids=["truncated", "pg_dump killed", "empty", "not compressed"],
)
def test_a_dump_that_is_not_whole_is_refused_where_the_plan_takes_it(spoilt: object, why: str, old: Scratch) -> None:
    assert callable(spoilt)
    path = old.put_legacy(old.plain_dump())
    path.write_bytes(spoilt(old.plain_dump()))
    with pytest.raises(RecoveryError, match="no good backup set") as refused:
        find_backup(old.server, old.repository, "latest")
    assert why in refused.value.what
    assert refused.value.state == "no data was touched"
    # Into an empty database even, the plan's pipeline calls the half of it a success.
    old.sql("DROP TABLE payments, users; DROP SEQUENCE tickets")
    assert old.shell(PLANS_RESTORE, stdin=path.read_bytes()).returncode == 0


def test_an_older_whole_dump_is_used_before_a_newer_broken_one(old: Scratch) -> None:
    old.put_legacy(old.plain_dump(), "20260101_030000-database.sql.gz")
    old.put_legacy(b"half", "20260102_030000-database.sql.gz")
    chosen = find_backup(old.server, old.repository, "latest")
    assert chosen.set_id == "20260101_030000-database.sql.gz"
    assert [one.set_id for one in chosen.skipped] == ["20260102_030000-database.sql.gz"]


def with_an_error_in_the_middle(dump: bytes) -> bytes:
    assert b"COPY public.users" in dump
    return dump.replace(b"COPY public.users", b"ALTER TABLE no_such_table OWNER TO neo;\nCOPY public.users", 1)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_in_the_middle_of_it_leaves_nothing_in_place(old: Scratch) -> None:
    dump = old.plain_dump() + b"-- filling\n" * 500_000
    closed = dump + old.plain_dump()[-200:]
    name = old.put_legacy(with_an_error_in_the_middle(closed)).name
    before = {table: old.content(table) for table in ("payments", "users")}
    with pytest.raises(RecoveryError, match="no_such_table") as failed:
        restore_beside.fn(old.server, old.repository, name, f"{old.name}_new")
    assert failed.value.state == "the old database is untouched; the half-made one was removed"
    assert failed.value.next_step
    assert old.databases() == {old.name}
    assert {table: old.content(table) for table in before} == before


@pytest.fixture
def whole(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scratch]:
    """Give the platform's own database with an empty repository, for a recovery from end to end."""
    monkeypatch.setenv("RECOUP_STATE", str(tmp_path))
    plan = load_plan(sandbox.plan)
    platform = plan.platform.model_copy(update={"repository": tmp_path / "backups"})
    made = Scratch(
        plan.model_copy(update={"platform": platform}), ProcessStack.open(sandbox.directory), "neo_service_layer"
    )
    yield made
    for name in made.databases() - {made.name}:
        made.sql(f"DROP DATABASE {name} WITH (FORCE)", "postgres")


def recover(whole: Scratch, sandbox: Sandbox, tmp_path: Path) -> RecoveryRecord:
    request = DatabaseRecovery(plan=sandbox.plan, restore=When.ALWAYS)
    return run_recovery(whole.plan, request, ledger=tmp_path / "ledger.jsonl")


def test_recovered_from_a_plain_dump_alone_it_is_unproven(whole: Scratch, sandbox: Sandbox, tmp_path: Path) -> None:
    whole.put_legacy(whole.plain_dump())
    before = whole.content("accounts")
    whole.sql("DELETE FROM accounts WHERE id > 5000")
    record = recover(whole, sandbox, tmp_path)
    assert record.verdict is Verdict.UNPROVEN
    assert "a plain dump has no manifest to compare with" in record.why
    assert {c.outcome for c in record.checks if c.subject is Subject.USER} == {Outcome.PASSED}
    assert record.stores[0].met is None
    assert record.stores[0].basis == "a plain dump does not say when it was taken"
    assert whole.content("accounts") == before


def test_a_plain_dump_with_an_error_is_not_recovered_from(whole: Scratch, sandbox: Sandbox, tmp_path: Path) -> None:
    dump = whole.plain_dump()
    whole.put_legacy(dump.replace(b"COPY public.users", b"SELECT 1 / 0;\nCOPY public.users", 1))
    before = whole.databases(), whole.content("accounts"), whole.content("users")
    record = recover(whole, sandbox, tmp_path)
    assert record.verdict is Verdict.NOT_RECOVERED
    assert "division by zero" in record.why
    assert "old database is untouched" in record.state_left
    assert record.next_step
    assert (whole.databases(), whole.content("accounts"), whole.content("users")) == before
    assert [state.service for state in whole.stack.services() if not state.running] == [], "the services run again"
