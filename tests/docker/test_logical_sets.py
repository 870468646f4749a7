"""Logical sets on a real engine: proven, restored by the table, carried to another major version of PostgreSQL."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from flows.backup import run_backup, run_verification
from flows.procedure import watched_by
from flows.restore import TableRestore, run_table_restore
from recoup.errors import RecoveryError
from recoup.places import ledger_path
from recoup.plan import Plan, load_plan
from recoup.progress import Silent
from recoup.records import Check, Outcome, Verdict
from recoup.stacks import Stack, open_stack
from tasks import postgres_backup
from tasks.postgres import database_names
from tasks.postgres_compare import compare
from tasks.postgres_restore import restore_beside
from tasks.postgres_verify import verify_database_backup
from tasks.sandbox import Kind, create, destroy
from tests.database_in_use import DatabaseInUse
from tests.stack_behaviour import eventually

# What major versions print each in its own way, or have more of: NOT NULL has a name in 18, MAINTAIN came with 17.
SCHEMA = """
CREATE TYPE public.mood AS ENUM ('good', 'bad');
CREATE TABLE public.told (id int PRIMARY KEY, mood public.mood NOT NULL, at timestamptz DEFAULT now(), share float8);
INSERT INTO public.told SELECT n, 'good', now(), n / 3.0 FROM generate_series(1, 1000) n;
CREATE VIEW public.good AS SELECT t.id FROM public.told t WHERE t.mood = 'good' AND t.id > -1;
"""


@dataclass(frozen=True)
class Platform(DatabaseInUse):
    plan: Plan
    stack: Stack

    @property
    def major(self) -> int:
        with self.server.connect() as connection:
            return connection.info.server_version // 10000


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    # A socket's path may not be long, and the server's user must come through.
    place = Path(tempfile.mkdtemp(prefix="recoup-"))
    place.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOUP_STATE", str(place))
        # What both can read: one of the two may be built without the faster ones.
        patch.setattr(postgres_backup, "COMPRESSIONS", ("1",))
        yield place
    shutil.rmtree(place)


def platform(kind: Kind) -> Iterator[Platform]:
    made = create(kind)
    try:
        plan = load_plan(made.plan)
        found = Platform(plan, open_stack(plan))
        with found.server.connect() as connection:
            connection.execute(SCHEMA)
        yield found
    finally:
        destroy(made)


@pytest.fixture(scope="module")
def newer(state: Path) -> Iterator[Platform]:
    yield from platform("process")


@pytest.fixture(scope="module")
def older(state: Path, engine: docker.DockerClient, newer: Platform) -> Iterator[Platform]:
    for found in platform("compose"):
        if found.major >= newer.major:
            pytest.skip(f"both are {found.major} here")
        yield found


def carried(source: Platform, target: Platform) -> str:
    taken = run_backup(source.plan, source.stack)
    proof = source.repository.get("database", taken.set_id).verified
    assert proof is not None
    assert proof.passed, taken.tested
    target.repository.root.mkdir(exist_ok=True)
    shutil.copytree(source.repository.root / taken.set_id, target.repository.root / taken.set_id)
    return taken.set_id


def outcomes(checks: tuple[Check, ...]) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in checks}


def test_an_older_set_comes_back_in_a_newer_server_and_is_compared(older: Platform, newer: Platform) -> None:
    carried_id = carried(older, newer)
    restored = restore_beside.fn(newer.server, newer.repository, carried_id, "carried")
    found = outcomes(restored.checks)
    assert set(found.values()) == {Outcome.PASSED}, restored.checks
    assert "row counts and digests match the manifest" in found
    assert any("two versions" in name for name in found)
    tested = verify_database_backup.fn(newer.server, newer.repository, carried_id, newer.plan.platform.scratch)
    assert set(outcomes(tested.checks).values()) == {Outcome.PASSED}, str(tested)
    for change, check in (
        ("UPDATE public.told SET share = 0 WHERE id = 7", "row counts and digests match the manifest"),
        ("ALTER TABLE public.told ALTER share SET DEFAULT 1", "schema matches"),
    ):
        assert check in failed_after(newer, carried_id, change)


def failed_after(platform: Platform, set_id: str, change: str) -> str:
    with platform.server.connect("carried") as connection:
        connection.execute(change)
    checks = compare(platform.server, platform.repository.get("database", set_id), "carried")
    return " ".join(check.name for check in checks if check.outcome is Outcome.FAILED)


def test_a_newer_set_comes_back_in_an_older_server_only_whole(older: Platform, newer: Platform) -> None:
    carried_id = carried(newer, older)
    restored = restore_beside.fn(older.server, older.repository, carried_id, "carried")
    assert set(outcomes(restored.checks).values()) == {Outcome.PASSED}, restored.checks


def test_what_only_the_newer_version_knows_fails_with_both_named(older: Platform, newer: Platform) -> None:
    with newer.server.connect() as connection:
        connection.execute("CREATE TABLE public.latest (id uuid DEFAULT uuidv7())")
    carried_id = carried(newer, older)
    with pytest.raises(RecoveryError, match=rf"PostgreSQL {newer.major}, the server of {older.major}") as refused:
        restore_beside.fn(older.server, older.repository, carried_id, "refused")
    assert "uuidv7() does not exist" in refused.value.what
    assert "old database is untouched" in refused.value.state
    with older.server.connect(older.server.spec.maintenance_database) as connection:
        assert "refused" not in database_names(connection)
    tested = verify_database_backup.fn(older.server, older.repository, carried_id, older.plan.platform.scratch)
    assert [check.name for check in tested.failed] == ["the set restores into an empty server"]


def test_a_table_comes_back_beside_the_original(older: Platform) -> None:
    set_id = run_backup(older.plan, older.stack, verify=False).set_id
    with older.server.connect() as connection:
        connection.execute("DROP TABLE public.told CASCADE")
    request = TableRestore(plan=Path("unused"), table="told", backup=set_id, new_name="told")
    record = run_table_restore(older.plan, request, ledger=ledger_path(older.plan))
    assert record.verdict is Verdict.RECOVERED, record.why
    with older.server.connect() as connection:
        assert connection.execute("SELECT count(*), max(mood)::text FROM public.told").fetchone() == (1000, "good")
    assert list(older.plan.platform.scratch.iterdir()) == []


class _Killer(Silent):
    def note(self, text: str) -> None:
        if text.startswith("comparing"):
            os.kill(os.getpid(), signal.SIGKILL)


class _Looking(Silent):
    def __init__(self, look: Callable[[], list[str]]) -> None:
        self._look = look
        self.seen: list[str] = []

    def note(self, text: str) -> None:
        if text.startswith("comparing"):
            self.seen += self._look()


def _verify_and_die(plan: Plan) -> None:
    with watched_by(_Killer()):
        run_verification(plan, open_stack(plan))


def test_a_killed_proof_leaves_no_container_and_the_next_no_file(older: Platform, engine: docker.DockerClient) -> None:
    run_backup(older.plan, older.stack, verify=False)
    scratch = str(older.plan.platform.scratch)

    def beside() -> list[str]:
        every = engine.containers.list(all=True, ignore_removed=True)
        return [str(one.name) for one in every if scratch in str(one.attrs.get("Mounts"))]

    child = multiprocessing.get_context("spawn").Process(target=_verify_and_die, args=(older.plan,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    eventually("the container of the throwaway server is gone", lambda: beside() == [])
    looking = _Looking(beside)
    with watched_by(looking):
        assert run_verification(older.plan, older.stack).failed == ()
    assert looking.seen, "what was looked for is there while it runs"
    assert beside() == []
    assert list(older.plan.platform.scratch.iterdir()) == []
