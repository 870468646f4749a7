"""A whole platform: its services made from their definitions, in which order they start, and how each is afterwards."""

from __future__ import annotations

from datetime import timedelta
from graphlib import TopologicalSorter

from recoup.errors import ProgramError, RecoveryError
from recoup.plan import Plan, PostgresComponent, RedisComponent, service_of
from recoup.records import Check, Frozen, Outcome, Subject
from recoup.stacks import Health, ServiceState, Stack
from tasks.step import note, step


class Deployed(Frozen):
    """The services that are there now, none of them started by it; ``version`` is what the plan names."""

    version: str
    services: tuple[str, ...]

    def __str__(self) -> str:
        at = f" at version {self.version}" if self.version else ""
        return f"{len(self.services)} services{at}: {', '.join(self.services)}"


class Seen(Frozen):
    """How each service was found."""

    checks: tuple[Check, ...]

    def __str__(self) -> str:
        wrong = [check.seen for check in self.checks if check.outcome is not Outcome.PASSED]
        return "; ".join(wrong) or f"{len(self.checks)} services run and are healthy"


@step(timeout=timedelta(hours=1), retries=1)
def deploy_platform(plan: Plan, stack: Stack) -> Deployed:
    """Make every service that is not there, its images and volumes too, and start none: their data are still missing.

    Raises RecoveryError when an image cannot be had or a definition is not valid.
    """
    note("making the services")
    try:
        stack.create()
    except ProgramError as error:
        raise RecoveryError(
            f"the platform cannot be deployed: {error.what}",
            state="what was made stays, and nothing was started",
            next_step="see that its images can be had at this version and its files are whole, then run it again",
        ) from None
    return Deployed(version=plan.platform.version or "", services=tuple(one.service for one in stack.services()))


@step(timeout=timedelta(minutes=10), retries=1)
def look_at_services(stack: Stack) -> Seen:
    """Ask the stack how each service is; one that does not run, or calls itself unhealthy, is a failed check."""
    return Seen(checks=tuple(_check(state) for state in stack.services()))


def start_order(plan: Plan, services: tuple[str, ...]) -> tuple[str, ...]:
    """Give services in the order they start: what the plan does not know first, then each after what it depends on.

    Standbys and replicas are not among them: they follow, and are seen to once there is somebody to follow.
    """
    known = {name: service_of(component) for name, component in plan.components.items()}
    sorter = TopologicalSorter({name: component.depends_on for name, component in plan.components.items()})
    ordered = [service for name in sorter.static_order() if (service := known.get(name)) in services and service]
    later = set(ordered) | _followers(plan)
    return (*(one for one in services if one not in later), *dict.fromkeys(ordered))


def _followers(plan: Plan) -> set[str]:
    found = set()
    for one in plan.components.values():
        if isinstance(one, PostgresComponent) and one.standby:
            found.add(one.standby.service)
        if isinstance(one, RedisComponent) and one.replica:
            found.add(one.replica.service)
    return found


def _check(state: ServiceState) -> Check:
    well = state.running and state.health in (Health.HEALTHY, Health.NONE)
    return Check(
        name=f"service: {state.service}",
        subject=Subject.STATUS,
        outcome=Outcome.PASSED if well else Outcome.FAILED,
        expected="it runs and is healthy",
        seen=f"{state.service}: {state.status}, health {state.health}",
    )
