"""recoup serve, seen from outside: a run that is started through the Prefect API is the same run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from recoup.ledger import Ledger
from recoup.plan import load_plan
from recoup.records import Verdict
from recoup.stacks import open_stack
from tasks.postgres import Server
from tasks.postgres_fault import Fault, inject
from tasks.sandbox import Sandbox, create, destroy
from tests.drills.server import Api, own_state, served

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with own_state() as made:
        yield made


@pytest.fixture(scope="module")
def sandbox(home: Path) -> Iterator[Sandbox]:
    made = create("process")
    yield made
    destroy(made)


@pytest.fixture(scope="module")
def api(home: Path, sandbox: Sandbox) -> Iterator[Api]:
    with served(sandbox.plan, home) as api:
        api.backup = api.deployment("back-up-database")
        api.pause_everything()
        yield api


def test_the_backup_is_scheduled_as_often_as_the_plan_needs(api: Api, sandbox: Sandbox) -> None:
    deployment = api.backup
    schedules = deployment["schedules"]
    assert isinstance(schedules, list)
    (schedule,) = schedules
    _, postgres = load_plan(sandbox.plan).postgres()
    assert timedelta(seconds=schedule["schedule"]["interval"]) == postgres.backup.interval
    assert schedule["active"]
    assert deployment["entrypoint"] == "flows.backup.back_up_database"


def test_what_people_need_is_offered_and_retention_is_applied_by_schedule(api: Api) -> None:
    offered = {str(one["name"]): one for one in api.post("/deployments/filter", {})}
    by_clock = {"back-up-database", "back-up-redis", "back-up-configuration", "prune-backups", "validate"}
    recovered = ("database", "redis", "service", "platform", "configuration", "blockchain")
    drilled = ("database", "redis", "service", "platform", "rollback", "blockchain")
    by_hand = {f"recover-{one}" for one in recovered} | {f"drill-{one}" for one in drilled}
    by_hand |= {"restore-table", "verify-database-backup"}
    assert set(offered) == by_hand | by_clock
    for name, deployment in offered.items():
        assert bool(deployment["schedules"]) == (name in by_clock), name
        assert deployment["description"], name


def test_chains_are_looked_after_through_the_api(api: Api, home: Path) -> None:
    for name in ("back-up-database", "back-up-redis"):
        _, state, message = api.run(name)
        assert state == "COMPLETED", message
    run, state, message = api.run("recover-blockchain", reason="started through the API")
    assert state == "COMPLETED", message
    record = next(one for one in Ledger(home / "ledger.jsonl").records() if one.run_id == run)
    assert (record.procedure, record.verdict) == ("blockchain", Verdict.RECOVERED)


def test_configuration_is_brought_back_and_a_table_restored_through_the_api(
    api: Api, sandbox: Sandbox, home: Path
) -> None:
    for name in ("back-up-configuration", "back-up-database"):
        _, state, message = api.run(name)
        assert state == "COMPLETED", message
    deployed = sandbox.directory / "configuration" / "nginx" / "nginx.conf"
    good = deployed.read_text()
    deployed.write_text("half of a line")
    run, state, message = api.run("recover-configuration", reason="started through the API")
    assert state == "COMPLETED", message
    assert deployed.read_text() == good
    _, state, message = api.run("restore-table")
    assert (state, "name one table" in message) == ("FAILED", True)
    beside, state, message = api.run("restore-table", table="public.users")
    assert state == "COMPLETED", message
    records = {one.run_id: one for one in Ledger(home / "ledger.jsonl").records()}
    assert (records[run].procedure, records[run].verdict) == ("configuration", Verdict.RECOVERED)
    assert (records[beside].beside, records[beside].verdict) == (True, Verdict.RECOVERED)
    for name in ("verify-database-backup", "prune-backups"):
        _, state, message = api.run(name)
        assert state == "COMPLETED", message


def test_the_checklist_is_a_table_and_what_failed_is_a_failed_run(api: Api, sandbox: Sandbox) -> None:
    for name in ("back-up-configuration", "back-up-database", "back-up-redis"):
        _, state, message = api.run(name)
        assert state == "COMPLETED", message
    run, state, message = api.run("validate")
    assert state == "COMPLETED", message
    assert {one["outcome"] for one in checklist_of(api, run)} == {"passed", "unproven"}
    sets = sandbox.directory / "backups"
    sets.rename(sandbox.directory / "moved")
    try:
        run, state, message = api.run("validate")
    finally:
        shutil.rmtree(sets, ignore_errors=True)
        (sandbox.directory / "moved").rename(sets)
    assert (state, "Backups running" in message) == ("FAILED", True)
    assert [one["item"] for one in checklist_of(api, run) if one["outcome"] == "failed"] == ["Backups running"]


def checklist_of(api: Api, run: str) -> list[dict[str, str]]:
    # The error of a failed run is an artifact too, without a key.
    which = {"flow_run_id": {"any_": [run]}, "key": {"any_": ["checklist"]}}
    (artifact,) = api.post("/artifacts/filter", {"artifacts": which})
    assert artifact["type"] == "table"
    rows: list[dict[str, str]] = json.loads(str(artifact["data"]))
    assert len(rows) == 13
    return rows


def test_a_recovery_through_the_api_is_the_same_run(api: Api, sandbox: Sandbox, home: Path) -> None:
    _, state, message = api.run("back-up-database")
    assert state == "COMPLETED", message
    plan = load_plan(sandbox.plan)
    broken = inject(Server.of(plan, open_stack(plan), None), Fault.WIPE, sandbox.id)

    run, state, message = api.run("recover-database", began=broken.at.isoformat(), reason="started through the API")

    assert state == "COMPLETED", message
    record = Ledger(home / "ledger.jsonl").last()
    assert record is not None
    assert (record.run_id, record.verdict, record.reason) == (run, Verdict.RECOVERED, "started through the API")
    assert record.clock.began == broken.at
    tasks = api.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    # The run's number comes behind each task's name.
    assert {str(t["name"]).rsplit("-", 1)[0] for t in tasks} == {step.name for step in record.steps}
    policies = {str(t["name"]).rsplit("-", 1)[0]: t["empirical_policy"] for t in tasks}
    swap = policies["swap-databases"]
    assert isinstance(swap, dict)
    assert swap["retries"] == 2
    (artifact,) = api.post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
    assert artifact["key"] == "recovery-record"
    assert str(artifact["data"]).startswith("# RECOVERED")


def test_independent_services_are_restarted_at_the_same_time_there_too(api: Api, sandbox: Sandbox, home: Path) -> None:
    stack = open_stack(load_plan(sandbox.plan))
    killed = ("records-service", "accounts-service")
    for service in killed:
        stack.kill(service)
    run, state, message = api.run("recover-service")
    record = next(one for one in Ledger(home / "ledger.jsonl").records() if one.run_id == run)
    assert (record.procedure, state) == ("service", "COMPLETED"), message
    steps = {step.name: step for step in record.steps}
    one, other = (steps[f"restart-service-{service}"] for service in killed)
    assert one.ended is not None
    assert other.ended is not None
    assert (one.started < other.ended, other.started < one.ended) == (True, True)
    tasks = api.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    # One task run for each service, and one for the gateway, which rests on them.
    assert [str(t["name"]).rsplit("-", 1)[0] for t in tasks].count("restart-service") == 3


def test_a_run_that_did_not_recover_is_a_failed_run(api: Api, sandbox: Sandbox, home: Path) -> None:
    run, state, message = api.run("recover-database", restore="always", backup="20000101T000000Z-database")

    assert state == "FAILED"
    assert "no backup set 20000101T000000Z-database" in message
    record = Ledger(home / "ledger.jsonl").last()
    assert record is not None
    assert (record.run_id, record.verdict) == (run, Verdict.NOT_RECOVERED)
