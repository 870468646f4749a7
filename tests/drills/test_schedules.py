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
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.served import Kept, schedules
from recoup.catalog import Repository
from recoup.plan import load_plan
from recoup.process import Command, background
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


def looked_at(url: str) -> dict[str, Kept]:
    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        return {one.name: one for one in schedules(client, SCHEDULED, now())}


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


def test_a_schedule_that_is_paused_or_gone_is_told_with_what_to_do(api: Api) -> None:
    api.pause("validate")
    try:
        found = looked_at(api.url)
        assert "its schedule is paused: resume it" in found["validate"].wrong
        assert [one.wrong for name, one in found.items() if name != "validate"] == [""] * 4
    finally:
        api.pause("validate", active=True)
    api.client.delete(f"/deployments/{api.deployment('prune-backups')['id']}").raise_for_status()
    assert "Start recoup serve again" in looked_at(api.url)["prune-backups"].wrong


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
