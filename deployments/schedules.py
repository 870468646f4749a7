"""The schedules at a Prefect server: when each deployment runs next, and what keeps it from running."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.states import Crashed

# A run begins seconds after its time; on a machine that is busy starting others, within a minute.
LATE = timedelta(minutes=2)
_MOST = 20
_UNDERWAY = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
_DONE = (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED)
# What the server says of a run that it refuses because another one of the deployment is under way.
_REFUSED = "concurrency limit"


@dataclass(frozen=True)
class Kept:
    """The schedule of one deployment: when it runs next, and what keeps it from running, if anything."""

    name: str
    next: datetime | None = None
    wrong: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.wrong or f'{self.next:%Y-%m-%d %H:%M:%SZ}'}"


@dataclass(frozen=True)
class Registered:
    """A deployment as the server knows it; ``plan`` is the path in its request."""

    id: UUID
    scheduled: bool
    paused: bool
    plan: str


def end_dead_runs(client: SyncPrefectClient, offered: Sequence[RunnerDeployment], tell: Callable[[str], None]) -> None:
    """Set the runs that an earlier recoup serve left unfinished to crashed: they hold the place of the next ones.

    To be called where no other recoup serve can be running them.
    """
    names = {one.id: name for name, one in registered_as(client, [one.name for one in offered]).items()}
    if not names:
        return
    left = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=list(names)), state=in_state(*_UNDERWAY))
    for run in client.read_flow_runs(flow_run_filter=left):
        state: State[None] = Crashed(message="recoup serve ended while it ran")
        client.set_flow_run_state(run.id, state, force=True)
        name = names.get(run.deployment_id, run.name) if run.deployment_id else run.name
        tell(f"{name}: the run of {_moment(run)} was cut off when recoup serve ended; it counts as crashed")


def schedules(
    client: SyncPrefectClient, offered: Sequence[RunnerDeployment], at: datetime, since: datetime
) -> tuple[Kept, ...]:
    """Return the state of each deployment's schedule at a server, in the order of their next runs.

    ``since`` is when this recoup serve began: what has been under way since before is nobody's.
    """
    registered = registered_as(client, [one.name for one in offered])
    found = [_kept(client, one, registered.get(one.name), at, since) for one in offered]
    return tuple(sorted(found, key=lambda one: (one.next or datetime.max.replace(tzinfo=UTC), one.name)))


def _kept(
    client: SyncPrefectClient, one: RunnerDeployment, registered: Registered | None, at: datetime, since: datetime
) -> Kept:
    name = one.name
    if registered is None:
        return Kept(name, wrong="the server does not know it: was it deleted? Start recoup serve again")
    if registered.plan != _plan(one.parameters):
        return Kept(
            name, wrong=f"another recoup serve has registered it for {registered.plan}: a server serves one plan"
        )
    if not registered.scheduled:
        return Kept(name, wrong="its schedule was deleted: start recoup serve again")
    if registered.paused:
        return Kept(name, wrong="its schedule is paused: resume it in the server's pages, under Deployments")
    first = _first_run(client, registered.id)
    if first is None:
        return Kept(name, wrong="the server has planned no next run: its scheduler does not work; read its log")
    if first < at - LATE:
        return Kept(name, first, f"it was due at {first:%Y-%m-%d %H:%M:%SZ}, and nothing has begun it")
    return Kept(name, first, _refused(client, registered.id, since))


def _first_run(client: SyncPrefectClient, deployment: UUID) -> datetime | None:
    """Return when the first run is due that its schedule has planned; None where there is none."""
    found = _runs(client, deployment, FlowRunSort.EXPECTED_START_TIME_ASC, StateType.SCHEDULED)
    # A hand can plan runs, too: they say nothing of the schedule.
    return next((run.expected_start_time for run in found if run.auto_scheduled), None)


def _refused(client: SyncPrefectClient, deployment: UUID, since: datetime) -> str:
    """Return why the newest run was refused, where nothing that lives holds its place; empty where all is well."""
    ended = _runs(client, deployment, FlowRunSort.END_TIME_DESC, StateType.CANCELLED, *_DONE)
    newest = next(iter(ended), None)
    if newest is None or newest.state is None or _REFUSED not in (newest.state.message or ""):
        return ""
    underway = _runs(client, deployment, FlowRunSort.EXPECTED_START_TIME_ASC, *_UNDERWAY)
    dead = [run for run in underway if (run.start_time or run.expected_start_time or since) < since]
    if underway and not dead:
        return ""
    if dead:
        holder = f"the run of {_moment(dead[0])}, begun before this recoup serve, holds its place"
        return f"each run is refused, for {holder}: if it is dead, cancel it in the server's pages, under Runs"
    return "each run is refused, though no other is under way: start recoup serve again"


def _moment(run: FlowRun) -> str:
    when = run.start_time or run.expected_start_time
    return f"{when:%Y-%m-%d %H:%M:%SZ}" if when else "an unknown time"


def _runs(client: SyncPrefectClient, deployment: UUID, sort: FlowRunSort, *states: StateType) -> list[FlowRun]:
    wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]), state=in_state(*states))
    return client.read_flow_runs(flow_run_filter=wanted, sort=sort, limit=_MOST)


def in_state(*states: StateType) -> FlowRunFilterState:
    """Return the filter of runs that are in one of these states."""
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))


def _plan(parameters: Mapping[str, Any] | None) -> str:
    request = (parameters or {}).get("request")
    return str(request.get("plan")) if isinstance(request, dict) else ""


def registered_as(client: SyncPrefectClient, names: Sequence[str]) -> dict[str, Registered]:
    """Return what a server knows of the named deployments."""
    wanted = DeploymentFilter(name=DeploymentFilterName(any_=list(names)))
    return {
        one.name: Registered(
            one.id,
            bool(one.schedules),
            one.paused or not all(schedule.active for schedule in one.schedules),
            _plan(one.parameters),
        )
        for one in client.read_deployments(deployment_filter=wanted)
    }
