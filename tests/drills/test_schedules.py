"""recoup serve, left alone: what is scheduled runs by its clock, and what will not run is said loudly."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.deployments.runner import RunnerDeployment
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.catalog import deployments
from deployments.schedules import Kept, end_dead_runs, schedules
from recoup.catalog import Repository
from recoup.plan import load_plan
from recoup.process import Command, background, run
from recoup.records import now
from tasks.sandbox import Sandbox, create, destroy
from tasks.sandbox_process import free_ports
from tests.drills.server import Api, own_state, served
from tests.stack_behaviour import eventually

pytestmark = pytest.mark.server
EVERY = "30s"
JOBS = {"back-up-database": "database", "back-up-redis": "redis", "back-up-configuration": "configuration"}
SCHEDULED = [*JOBS, "prune-backups", "validate"]
# The time between two runs, and what a busy machine needs to start one.
SOON = timedelta(minutes=3)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with own_state() as made:
        yield made


@pytest.fixture(scope="module")
def sandbox(home: Path) -> Iterator[Sandbox]:
    made = create("process")
    often, count = re.subn(
        r"(?m)^      interval: .*$", f"      interval: {EVERY}", made.plan.read_text(encoding="utf-8")
    )
    assert count == len(JOBS)
    made.plan.write_text(often, encoding="utf-8")
    yield made
    destroy(made)


@pytest.fixture(scope="module")
def api(home: Path, sandbox: Sandbox) -> Iterator[Api]:
    with served(sandbox.plan, home) as api:
        yield api


@pytest.fixture(scope="module")
def offered(sandbox: Sandbox) -> tuple[RunnerDeployment, ...]:
    return deployments(sandbox.plan, load_plan(sandbox.plan))


@contextmanager
def client_of(api: Api) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: api.url}), get_client(sync_client=True) as client:
        yield client


def looked_at(api: Api, offered: tuple[RunnerDeployment, ...]) -> dict[str, Kept]:
    with client_of(api) as client:
        return {one.name: one for one in schedules(client, [one for one in offered if one.schedules], now(), now())}


@pytest.mark.parametrize(("job", "store"), JOBS.items())
def test_a_job_runs_by_its_schedule_and_its_set_is_there_and_proven(
    api: Api, sandbox: Sandbox, job: str, store: str
) -> None:
    repository = Repository(load_plan(sandbox.plan).platform.repository)
    eventually("there is a set", lambda: bool(repository.sets(store)), SOON)
    eventually("its restore was tried", lambda: repository.sets(store)[-1].verified is not None, SOON)
    verified = repository.sets(store)[-1].verified
    assert verified is not None
    assert verified.passed
    wanted = {"deployments": {"name": {"any_": [job]}}, "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    eventually("its run has ended well", lambda: bool(api.post("/flow_runs/filter", wanted)), SOON)
    assert all(run["auto_scheduled"] for run in api.post("/flow_runs/filter", wanted)), "a hand started it"
    eventually("the terminal says so", lambda: f"{job}: completed in " in api.said)


def test_what_is_scheduled_is_shown_with_its_next_run(api: Api) -> None:
    eventually("it is shown", lambda: "next by schedule:" in api.said, SOON)
    shown = api.said.partition("next by schedule:")[2]
    for job in SCHEDULED:
        assert re.search(rf"  {job}: \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\dZ\n", shown), job
    assert "WILL NOT RUN" not in api.said


def test_a_schedule_that_is_paused_or_gone_is_told_with_what_to_do(
    api: Api, offered: tuple[RunnerDeployment, ...]
) -> None:
    assert set(looked_at(api, offered)) == set(SCHEDULED)
    api.pause("validate")
    try:
        found = looked_at(api, offered)
        assert "its schedule is paused: resume it" in found["validate"].wrong
        assert [one.wrong for name, one in found.items() if name != "validate"] == [""] * 4
    finally:
        api.pause("validate", active=True)
    # A run that a hand has planned is none of the schedule's.
    gone = api.deployment("prune-backups")
    its = gone["schedules"]
    assert isinstance(its, list)
    api.client.delete(f"/deployments/{gone['id']}/schedules/{its[0]['id']}").raise_for_status()
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2099-06-01T00:00:00Z"}}
    api.post(f"/deployments/{gone['id']}/create_flow_run", {"state": later})
    assert "its schedule was deleted" in looked_at(api, offered)["prune-backups"].wrong
    api.client.delete(f"/deployments/{gone['id']}").raise_for_status()
    assert "Start recoup serve again" in looked_at(api, offered)["prune-backups"].wrong


def test_a_run_that_died_and_holds_the_place_of_the_next_is_told_and_can_be_ended(
    api: Api, offered: tuple[RunnerDeployment, ...]
) -> None:
    """As a power cut leaves it: a run that is under way for the server, and that nothing runs."""
    redis = api.deployment("back-up-redis")
    eventually("none is under way", lambda: not api.underway(str(redis["id"])), SOON)
    later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2099-06-01T00:00:00Z"}}
    dead = api.post(f"/deployments/{redis['id']}/create_flow_run", {"state": later})[0]["id"]
    # Forced the second time: it takes its place with the first, and its hour has not come.
    for state, force in (("PENDING", False), ("RUNNING", True)):
        answer = api.client.post(f"/flow_runs/{dead}/set_state", json={"state": {"type": state}, "force": force})
        assert answer.json()["status"] == "ACCEPT", answer.text

    def refused() -> bool:
        return "holds its place: if it is dead, cancel it" in looked_at(api, offered)["back-up-redis"].wrong

    eventually("it is told", refused, SOON)
    eventually("the terminal says so", lambda: "back-up-redis: not begun: " in api.said, SOON)
    told: list[str] = []
    with client_of(api) as client:
        end_dead_runs(client, [one for one in offered if one.name == "back-up-redis"], told.append)
    assert [line.partition(" was cut off when recoup serve ended")[0][:27] for line in told] == [
        "back-up-redis: the run of 2"
    ]
    ended = api.said.count("back-up-redis: completed in ")
    eventually("the next one runs", lambda: api.said.count("back-up-redis: completed in ") > ended, SOON)
    assert looked_at(api, offered)["back-up-redis"].wrong == ""


def test_a_second_one_in_the_same_place_is_refused(api: Api, sandbox: Sandbox, home: Path) -> None:
    argv = (sys.executable, "-m", "deployments.cli", "serve", "--plan", str(sandbox.plan), "--port", "1")
    second = run(Command(argv, cwd=Path(__file__).resolve().parents[2]), timeout=SOON, check=False)
    assert second.returncode == 2
    assert "a recoup serve is running already" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_run_that_failed_as_it_had_to_is_told_without_a_traceback(api: Api) -> None:
    _, state, _ = api.run("restore-table")
    assert state == "FAILED"
    eventually("the terminal says so", lambda: "restore-table: FAILED" in api.said)
    told = api.said.partition("restore-table: FAILED")[2]
    assert "name one table, or a schema" in told
    assert "Next: recoup restore table public.orders" in told


def test_the_terminal_has_lines_of_recoup_alone_and_the_servers_log_no_warning(api: Api, home: Path) -> None:
    line = re.compile(r"(\d\d:\d\d:\d\dZ  | {11})\S.*|\d\d:\d\d:\d\dZ    \S.*")
    assert [one for one in api.said.splitlines() if not line.fullmatch(one)] == []
    log = (home / "prefect" / "server.log").read_text(encoding="utf-8")
    assert re.findall(r".*(?:WARNING|ERROR|CRITICAL|Traceback).*", log) == []


@contextmanager
def server_without_a_scheduler(home: Path) -> Iterator[str]:
    """Run a Prefect server that answers and plans no run, as the one did whose scheduler failed once a minute."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/api"
    env = {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    argv = (sys.executable, "-m", "prefect", "server", "start", "--port", str(port))

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/health", timeout=2).is_success
        except httpx.HTTPError:
            return False

    with background(Command(argv, env), log=home / "server.log"):
        eventually("the server answers", answers, SOON)
        yield url


def test_a_server_that_plans_no_runs_is_told_loudly(sandbox: Sandbox) -> None:
    with (
        own_state() as home,
        server_without_a_scheduler(home) as url,
        served(sandbox.plan, home, {"PREFECT_API_URL": url}) as api,
    ):
        eventually("it is told", lambda: "5 OF 5 SCHEDULED JOBS WILL NOT RUN" in api.said, SOON)
        for job in SCHEDULED:
            assert f"{job}: the server has planned no next run: its scheduler does not work" in api.said
        assert "next by schedule" not in api.said
