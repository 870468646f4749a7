"""A rebuild with a Prefect server: stores come back in threads, and each of their steps is a task run of it still."""

from __future__ import annotations

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort, TaskRunSort
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from flows.drill_platform import PlatformDrill, drill_platform
from recoup.records import Verdict
from tests.stack_behaviour import eventually

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.usefixtures("terraform")]


def test_the_steps_of_parts_at_the_same_time_are_task_runs_of_one_flow_run() -> None:
    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        record = drill_platform(PlatformDrill())
        assert record.verdict is Verdict.RECOVERED, record.why
        with get_client(sync_client=True) as client:
            (flow_run,) = client.read_flow_runs(sort=FlowRunSort.START_TIME_ASC, limit=10)

            def seen() -> bool:
                runs = {
                    run.name.rpartition("-")[0]: run
                    for run in client.read_task_runs(sort=TaskRunSort.ID_DESC, limit=200)
                }
                stores = [runs[name] for name in ("restore-beside", "restore-redis") if name in runs]
                return len(stores) == 2 and {run.flow_run_id for run in stores} == {flow_run.id}

            eventually("both stores' steps are task runs of it", seen)
