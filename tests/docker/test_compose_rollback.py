"""Versions in containers: built from work trees, images kept and given their names back, migrations run once each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from flows.drill import StackKind
from flows.drill_rollback import RollbackDrill, drill_rollback
from flows.rollback import Rollback, run_rollback
from flows.rollback_preview import preview
from recoup.errors import PreconditionError
from recoup.places import ledger_path
from recoup.plan import Plan, load_plan
from recoup.records import Outcome, RecoveryRecord, Verdict, now
from recoup.release import release_of, releases_directory
from recoup.stacks import open_stack
from tasks.release_migrations import applied_in, migrations_of
from tasks.sandbox import Sandbox, create, destroy
from tasks.sandbox_release import commit_version, deploy, migrate
from tasks.smoke import Door, round_of_requests

SERVICES = ("records-service", "accounts-service", "api-gateway")
FIRST, NEWER = "0001_audit_by_record", "0002_record_note"


@pytest.fixture(scope="module")
def made(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOUP_STATE", str(tmp_path_factory.mktemp("state")))
        sandbox = create("compose", released=True)
        try:
            plan = load_plan(sandbox.plan)
            migrate(plan)
            root = release_of(plan).checkout
            commit_version(root, "1.5.0", good=False, days_ago=2)
            commit_version(root, "2.0.0", good=True, days_ago=1, migration="both")
            deploy(plan, "2.0.0")
            yield sandbox
        finally:
            destroy(sandbox)
        left = {str(one.name) for one in engine.containers.list(all=True, ignore_removed=True)}
        left |= {name for image in engine.images.list(all=True) for name in image.tags}
        assert not {name for name in left if sandbox.id in name}
        assert not [name for name in left if name.startswith("recoup-once-")]
        assert not engine.images.list(all=True, filters={"label": f"io.recoup.sandbox={sandbox.id}"})


@pytest.fixture
def plan(made: Sandbox) -> Plan:
    return load_plan(made.plan)


def roll_back(plan: Plan, made: Sandbox, version: str = "") -> RecoveryRecord:
    return run_rollback(plan, Rollback(plan=made.plan, version=version, began=now()), ledger=ledger_path(plan))


def images(engine: docker.DockerClient, made: Sandbox) -> set[str]:
    return {str(engine.containers.get(f"{made.id}-neo-{name}").attrs["Image"]) for name in SERVICES}


def code(engine: docker.DockerClient, made: Sandbox) -> str:
    """Give the end of the code that is in the running container."""
    done = engine.containers.get(f"{made.id}-neo-records-service").exec_run(["tail", "-n", "1", "app/records.py"])
    assert isinstance(done.output, bytes)
    return done.output.decode().strip()


def migrations(plan: Plan) -> list[str]:
    return [one.name for one in applied_in(open_stack(plan), migrations_of(plan))]


def serves(plan: Plan) -> bool:
    return all(one.outcome is Outcome.PASSED for one in round_of_requests(Door.of(plan, open_stack(plan))))


def test_a_version_that_fails_its_smoke_tests_gives_way_to_the_very_image_that_ran(
    engine: docker.DockerClient, made: Sandbox, plan: Plan
) -> None:
    before = images(engine, made)
    name = str(engine.containers.get(f"{made.id}-neo-records-service").attrs["Config"]["Image"])
    said = "\n".join(preview(plan, Rollback(plan=made.plan)))
    for command in ("worktree add", "PLATFORM_VERSION=1.5.0 docker compose", " build ", "up --detach --no-deps"):
        assert command in said
    assert not releases_directory(release_of(plan)).exists()
    record = roll_back(plan, made)
    assert record.verdict is Verdict.NOT_RECOVERED
    assert "1.5.0 failed its smoke tests" in record.why
    assert "users are served" in record.state_left
    assert images(engine, made) == before
    # The name that the definition has means it again, so nobody gets the bad one by making the service anew.
    assert str(engine.images.get(name).id) in before
    assert migrations(plan) == [FIRST, NEWER]
    assert serves(plan)


def test_it_goes_back_to_a_named_version_and_forward_again_though_a_service_is_down(
    engine: docker.DockerClient, made: Sandbox, plan: Plan
) -> None:
    database = engine.containers.get(f"{made.id}-neo-postgres").id
    record = roll_back(plan, made, "1.0.0")
    assert record.verdict is Verdict.RECOVERED, record.why
    assert "VERSION" not in code(engine, made)
    assert migrations(plan) == [FIRST]
    # The database is no part of a version: its container is the one it was.
    assert engine.containers.get(f"{made.id}-neo-postgres").id == database
    open_stack(plan).recreate("records-service")
    assert "VERSION" not in code(engine, made)
    with pytest.raises(PreconditionError, match="is what runs now"):
        roll_back(plan, made, "v1.0.0")
    # Migrations are told, and made, in a container of their own.
    engine.containers.get(f"{made.id}-neo-records-service").stop(timeout=1)
    record = roll_back(plan, made, "2.0.0")
    assert record.verdict is Verdict.RECOVERED, record.why
    assert code(engine, made) == "VERSION = '2.0.0'"
    assert migrations(plan) == [FIRST, NEWER]
    assert serves(plan)


def test_a_migration_that_cannot_be_undone_stops_it_before_any_change(
    engine: docker.DockerClient, made: Sandbox, plan: Plan
) -> None:
    root = release_of(plan).checkout
    (root / "app" / "migrations" / f"{NEWER}.down.sql").unlink()
    commit_version(root, "2.1.0", good=True, days_ago=0)
    deploy(plan, "2.1.0")
    before = (
        images(engine, made),
        {one.id for one in engine.containers.list(all=True, ignore_removed=True) if made.id in str(one.name)},
    )
    with pytest.raises(PreconditionError, match=f"{NEWER} cannot be undone") as refused:
        roll_back(plan, made, "1.0.0")
    assert "recoup recover database --restore always --backup" in refused.value.next_step
    assert refused.value.next_step.endswith("then: recoup rollback 1.0.0")
    after = (
        images(engine, made),
        {one.id for one in engine.containers.list(all=True, ignore_removed=True) if made.id in str(one.name)},
    )
    assert after == before
    assert migrations(plan) == [FIRST, NEWER]


def test_the_drill_recovers_and_leaves_nothing_behind(
    engine: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOUP_STATE", str(tmp_path))
    record = drill_rollback.fn(RollbackDrill(stack=StackKind.COMPOSE))
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.rto_met
    assert record.stores[0].acknowledged_writes_lost == 0
    sandbox = record.stack.rpartition("-")[2]
    left = {str(one.name) for one in engine.containers.list(all=True, ignore_removed=True)} | {
        str(v.name) for v in engine.volumes.list()
    }
    assert not {name for name in left if sandbox in name}
