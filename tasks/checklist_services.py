"""Checklist: whether the services run, call themselves healthy, and whether what they log arrives."""

from __future__ import annotations

import time
from collections.abc import Iterator
from uuid import uuid4

import httpx

from recoup.plan import Plan, PostgresComponent, RedisComponent, ServiceComponent, service_of
from recoup.records import now
from recoup.stacks import Health, ServiceState, Stack
from tasks.checklist_found import PATIENCE, Found, failed, passed, together, unproven
from tasks.health import probe, told
from tasks.smoke import Door


def services_running(plan: Plan, stack: Stack) -> Found:
    """Every service of the plan runs, and every other one of the stack that has not ended well."""
    states = {state.service: state for state in stack.services()}
    named = set(_named(plan))
    absent = [f"{name} is not there" for name in sorted(named - states.keys())]
    down = [
        f"{state.service} ({state.status})"
        for state in states.values()
        # What ended with 0 and is not in the plan was a job, and is done.
        if not state.running and (state.service in named or state.exit_code != 0)
    ]
    if absent or down:
        return failed(f"not running: {', '.join((*absent, *down))}")
    return (
        passed(f"{sum(state.running for state in states.values())} services run") if states else unproven("no service")
    )


def health_checks(plan: Plan, stack: Stack) -> Found:
    """Nothing that runs calls itself unhealthy, and the gateway's own health path answers well."""
    states = _settled(stack)
    running = [state for state in states if state.running]
    ill = [
        f"{state.service} is {state.health} ({state.status})" for state in running if state.health is Health.UNHEALTHY
    ]
    starting = [state.service for state in running if state.health is Health.STARTING]
    asked = [state for state in running if state.health is Health.HEALTHY]
    door = Door.of(plan, stack)
    seen = probe(f"{door.url}{door.gateway.health}", patience=PATIENCE, trust=door.trust())
    parts = [passed(f"{len(asked)} services are healthy; {seen}") if seen.well else failed(str(seen))]
    parts += [failed(one) for one in ill]
    parts += [unproven(f"{name} is still starting") for name in starting]
    unasked = {state.service for state in running if state.health is Health.NONE}
    parts += [_asked(stack, one) for one in plan.components.values() if _can_be_asked(one, unasked)]
    return together(parts, "nothing has a health check")


def logs_flow(plan: Plan, stack: Stack) -> Found:
    """A request for a path nobody else asks for stands in the gateway's log soon after."""
    door, service = Door.of(plan, stack), plan.service(plan.platform.gateway.component)
    marker, began = f"recoup-marker-{uuid4().hex[:12]}", now()
    try:
        with door.client() as client:
            client.get(f"/{marker}")
    except httpx.HTTPError as error:
        answer, detail = told(error)
        return unproven(f"no line could be had of the gateway: {answer} {detail}".strip())
    end = time.monotonic() + PATIENCE.total_seconds()
    while marker not in stack.logs(service, tail=500, since=began):
        if time.monotonic() > end:
            return failed(f"{service} answered a request, and no line of it is in its log after {PATIENCE.seconds} s")
        time.sleep(0.1)
    return passed(f"a request to {service} is in its log")


def _named(plan: Plan) -> Iterator[str]:
    for component in plan.components.values():
        if service := service_of(component):
            yield service
        if isinstance(component, PostgresComponent):
            yield from (component.standby.service,) if component.standby else ()
            yield from (component.continuous.receiver,) if component.continuous else ()
        if isinstance(component, RedisComponent) and component.replica:
            yield component.replica.service


def _settled(stack: Stack) -> tuple[ServiceState, ...]:
    """Give the states once nothing is starting any more, or as they are after a while."""
    end = time.monotonic() + PATIENCE.total_seconds()
    while True:
        states = stack.services()
        if time.monotonic() > end or not any(state.running and state.health is Health.STARTING for state in states):
            return states
        time.sleep(0.2)


def _can_be_asked(component: object, services: set[str]) -> bool:
    return (
        isinstance(component, ServiceComponent)
        and component.service in services
        and component.port is not None
        and component.health is not None
    )


def _asked(stack: Stack, component: object) -> Found:
    assert isinstance(component, ServiceComponent) and component.port is not None
    host, port = stack.endpoint(component.service, component.port)
    seen = probe(f"http://{host}:{port}{component.health}", patience=PATIENCE)
    return passed(f"{component.service} answers") if seen.well else failed(f"{component.service}: {seen}")
