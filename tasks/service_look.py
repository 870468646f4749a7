"""How the platform's services are: what the stack says, what each answers in time, and what their stores hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta

import httpx

from recoup.catalog import Repository
from recoup.causes import Ailment, Answer, Seen, ailment, waves
from recoup.errors import PreconditionError, RecoveryError, first_line
from recoup.plan import Component, Plan, PostgresComponent, RedisComponent, ServiceComponent, service_of
from recoup.records import Check, Frozen, Outcome, Subject, now
from recoup.stacks import Health, Stack
from tasks import postgres_diagnosis, redis_state
from tasks.postgres import Condition as DatabaseCondition
from tasks.postgres import Server
from tasks.redis_server import Condition as RedisCondition
from tasks.redis_server import RedisServer
from tasks.step import note, step

# Longer than a service may wait for a database that does not answer before it says that it is not well.
ANSWER = timedelta(seconds=5)
CONNECT = timedelta(seconds=2)
YOUNG = timedelta(seconds=30)
STARTING = timedelta(seconds=60)
RECOVERING = timedelta(seconds=15)
# Looks in a row at one that ended by itself, a second and more apart in all, before it is given up.
ENDED = 5
_DATABASE = {
    DatabaseCondition.HEALTHY: Ailment.WELL,
    DatabaseCondition.DOWN: Ailment.DOWN,
    DatabaseCondition.REFUSING: Ailment.REFUSING,
    DatabaseCondition.EXHAUSTED: Ailment.REFUSING,
    DatabaseCondition.DAMAGED: Ailment.BROKEN,
}
_REDIS = {
    RedisCondition.HEALTHY: Ailment.WELL,
    RedisCondition.CHANGED: Ailment.WELL,
    RedisCondition.DOWN: Ailment.DOWN,
    RedisCondition.LOADING: Ailment.STARTING,
    RedisCondition.REFUSING: Ailment.REFUSING,
    RedisCondition.EMPTY: Ailment.BROKEN,
}


class Identified(Frozen):
    """What was seen of each component that runs as a service, and which of the ill ones are the cause."""

    seen: tuple[Seen, ...]
    causes: tuple[str, ...] = ()

    def of(self, component: str) -> Seen:
        return next(one for one in self.seen if one.component == component)

    @property
    def ill(self) -> tuple[str, ...]:
        return tuple(one.component for one in self.seen if one.ill)

    @property
    def stopped(self) -> tuple[str, ...]:
        return tuple(one.component for one in self.seen if one.ailment is Ailment.STOPPED)

    def __str__(self) -> str:
        stopped = [str(self.of(name)) for name in self.stopped]
        if not self.ill:
            return "; ".join(("nothing has failed", *stopped))
        effects = [str(self.of(name)) for name in self.ill if name not in self.causes]
        parts = [f"the cause is {', '.join(str(self.of(name)) for name in self.causes)}"]
        return "; ".join([*parts, *([f"which takes with it {', '.join(effects)}"] if effects else []), *stopped])


class ServicesSeen(Frozen):
    """What was looked at in the services afterwards."""

    checks: tuple[Check, ...]

    def __str__(self) -> str:
        wrong = [check for check in self.checks if check.outcome is not Outcome.PASSED]
        return "; ".join(f"{c.name}: {c.seen}" for c in wrong) or f"{len(self.checks)} services are well"


def asked_for(plan: Plan, names: tuple[str, ...]) -> tuple[str, ...]:
    """Give the components of services named by component or service; PreconditionError with the known ones."""
    known = {
        name: service
        for name, component in plan.components.items()
        if (service := service_of(component)) and not isinstance(component, PostgresComponent)
    }
    by_service = {service: name for name, service in known.items()}
    for name in names:
        if name not in known and name not in by_service:
            raise PreconditionError(
                f"the plan has no service named {name}",
                next_step=f"name one of: {', '.join(known)}; a database: recoup recover database",
            )
    return tuple(dict.fromkeys(name if name in known else by_service[name] for name in names))


def depends_on(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Give what each component of the plan depends on."""
    return {name: component.depends_on for name, component in plan.components.items()}


def running(plan: Plan) -> tuple[str, ...]:
    """Give the components of the plan that run as services of the stack, stores among them."""
    return tuple(name for name, component in plan.components.items() if service_of(component))


def is_store(plan: Plan, name: str) -> bool:
    return isinstance(plan.component(name), PostgresComponent | RedisComponent)


def look_at(plan: Plan, stack: Stack, name: str) -> Seen:
    """Say how one component is that runs as a service; changes nothing. Of a pair of databases, the one in charge."""
    component = plan.component(name)
    repository = Repository(plan.platform.repository)
    service = plan.service(name)
    if isinstance(component, PostgresComponent):
        database = postgres_diagnosis.look(Server.of(plan, stack, name), repository, read_all=False)
        found = _DATABASE.get(database.condition, Ailment.UNHEALTHY)
        return Seen(component=name, service=service, ailment=found, seen=database.seen)
    if isinstance(component, RedisComponent):
        cache = redis_state.look(RedisServer.of(plan, stack, name), repository)
        found = _REDIS.get(cache.condition, Ailment.UNHEALTHY)
        return Seen(component=name, service=service, ailment=found, seen=cache.seen)
    return _look(stack, name, service, component)


def settled(plan: Plan, stack: Stack, name: str, recovering: timedelta = RECOVERING) -> Seen:
    """Look until the component is well or nothing more is to be expected: it ended, or its time is up."""
    began = time.monotonic()
    ended = 0
    while True:
        seen = look_at(plan, stack, name)
        if not seen.ill:
            return seen
        ended = ended + 1 if seen.ailment in (Ailment.DOWN, Ailment.LOOPING) else 0
        patience = STARTING if seen.ailment is Ailment.STARTING else recovering
        if ended >= ENDED or time.monotonic() - began > patience.total_seconds():
            return seen
        note(f"not yet: {seen}")
        time.sleep(0.25)


@step(timeout=timedelta(minutes=10))
def diagnose_services(plan: Plan, stack: Stack, names: tuple[str, ...]) -> Identified:
    """Say how those components are, all at the same time; those that are just starting are waited for.

    Changes nothing. Raises PreconditionError when a store turns the plan's password away.
    """
    return identify(plan, stack, names)


def identify(plan: Plan, stack: Stack, names: tuple[str, ...]) -> Identified:
    """See diagnose_services."""

    def look(name: str) -> Seen:
        seen = look_at(plan, stack, name)
        return settled(plan, stack, name) if seen.ailment is Ailment.STARTING else seen

    found = Identified(seen=_all(look, names))
    order = waves(depends_on(plan), found.ill)
    return found.model_copy(update={"causes": order[0] if order else ()})


@step(timeout=timedelta(minutes=10), retries=1)
def check_services(plan: Plan, stack: Stack, names: tuple[str, ...]) -> ServicesSeen:
    """Check that each of those components is well by its own health, all at the same time."""
    seen = _all(lambda name: settled(plan, stack, name), names)
    return ServicesSeen(
        checks=tuple(
            Check(
                name=f"service: {one.component} is well",
                subject=Subject.STATUS,
                outcome=Outcome.PASSED if one.ailment is Ailment.WELL else Outcome.FAILED,
                seen=str(one),
            )
            for one in seen
        )
    )


def _all(look: Callable[[str], Seen], names: tuple[str, ...]) -> tuple[Seen, ...]:
    with ThreadPoolExecutor(max_workers=8) as pool:
        started = [pool.submit(copy_context().run, look, name) for name in names]
    return tuple(one.result() for one in started)


def _look(stack: Stack, name: str, service: str, component: Component) -> Seen:
    state = stack.state(service)
    answer, said = Answer.NOT_ASKED, ""
    if state.running and isinstance(component, ServiceComponent) and component.port and component.health:
        answer, said = _ask(stack, service, component.port, component.health)
        if answer is Answer.SILENT and state.health in (Health.HEALTHY, Health.NONE):
            # Once may be a machine that is busy; it has to be silent twice, where its stack has not seen it so itself.
            answer, said = _ask(stack, service, component.port, component.health)
    young = state.started is not None and now() - state.started < YOUNG
    found = ailment(state, answer, young=young)
    return Seen(component=name, service=service, ailment=found, seen="; ".join(filter(None, (state.status, said))))


def _ask(stack: Stack, service: str, port: int, path: str) -> tuple[Answer, str]:
    try:
        host, number = stack.endpoint(service, port)
    except RecoveryError as error:
        # It ended between being looked at and being asked.
        return Answer.REFUSED, error.what
    return asyncio.run(_get(f"http://{host}:{number}{path}"))


async def _get(url: str) -> tuple[Answer, str]:
    try:
        # All of it, headers and body, has to come in time: httpx counts each read by itself.
        patience = httpx.Timeout(None, connect=CONNECT.total_seconds())
        async with (
            asyncio.timeout(ANSWER.total_seconds()),
            httpx.AsyncClient(timeout=patience, trust_env=False) as client,
        ):
            got = await client.get(url)
    except TimeoutError:
        return Answer.SILENT, f"no answer within {ANSWER.total_seconds():.0f} s"
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        # The address of a container that has just ended takes a connection no more than it refuses it.
        return Answer.REFUSED, first_line(error)
    except httpx.HTTPError as error:
        return Answer.UNWELL, f"{type(error).__name__}: {first_line(error)}"
    if got.status_code == 200:
        return Answer.WELL, ""
    return Answer.UNWELL, f"status {got.status_code}: {' '.join(got.text.split())[:200]}"
