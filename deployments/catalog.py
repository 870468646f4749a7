"""Every flow that a server offers: its name, its schedule from the plan, and how many may run at once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Interval, Schedule
from prefect.types.entrypoint import EntrypointType
from pydantic import BaseModel

from flows.backup import DatabaseBackup, back_up_database
from flows.database import DatabaseRecovery, recover_database
from flows.drill import DatabaseDrill, drill_database
from recoup.plan import Plan

# A fixed anchor: counted from each start of the server, a schedule could be put off for ever by restarts.
ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)
# A second start is refused at once: the lease would refuse it later, after a process was made for it.
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


def deployments(path: Path, plan: Plan) -> tuple[RunnerDeployment, ...]:
    """Give the deployments of a plan: database recovery, backup (as often as the RPO needs) and drill."""
    component, postgres = plan.postgres()
    where = path.absolute()
    every = Interval(postgres.backup.interval, anchor_date=ANCHOR, slug=f"rpo-{postgres.store}")
    return (
        _offer(recover_database, DatabaseRecovery(plan=where, component=component)),
        _offer(back_up_database, DatabaseBackup(plan=where, component=component), every),
        _offer(drill_database, DatabaseDrill()),
    )


def _offer(flow: Flow[Any, Any], request: BaseModel, schedule: Schedule | None = None) -> RunnerDeployment:
    made = flow.to_deployment(
        flow.name,
        parameters={"request": request.model_dump(mode="json")},
        description=flow.fn.__doc__,
        schedule=schedule,
        concurrency_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(made, RunnerDeployment), "to_deployment is asynchronous only inside an event loop"
    return made
