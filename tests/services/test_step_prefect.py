"""Steps run as task runs of a flow run, against a real Prefect server: the same behaviour, and seen in its API."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from prefect import Task, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterName
from prefect.client.schemas.sorting import TaskRunSort
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from recoup.errors import RecoveryError
from tasks.step import Watched, perform, step
from tests.stack_behaviour import eventually
from tests.step_behaviour import SHORT, Run, StepBehaviour

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    # The heartbeat's thread would make every flow run last a second.
    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


def in_a_flow_run(task: Task[[], str], watched: Watched) -> str:
    @flow(name="one-step", log_prints=False)
    def one_step() -> str:
        return perform(task, watched)

    return one_step()


class TestThroughPrefect(StepBehaviour):
    @pytest.fixture
    def run(self) -> Run:
        return in_a_flow_run


def test_each_attempt_is_seen_by_the_server() -> None:
    tried: list[int] = []

    @step(timeout=timedelta(seconds=30), retries=2, backoff=SHORT)
    def seen_by_the_server() -> str:
        tried.append(1)
        if len(tried) < 3:
            raise RecoveryError("no answer")
        return "done"

    assert in_a_flow_run(seen_by_the_server, Watched()) == "done"
    wanted = TaskRunFilter(name=TaskRunFilterName(like_="seen-by-the-server"))
    with get_client(sync_client=True) as client:

        def counts() -> list[int]:
            found = client.read_task_runs(task_run_filter=wanted, limit=10, sort=TaskRunSort.END_TIME_DESC)
            return [run.run_count for run in found]

        eventually("the server has recorded three attempts", lambda: counts() == [3])
