"""The services that depend on a component: stopped outermost first, started in the reverse order."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from recoup.errors import RecoveryError
from recoup.plan import Plan
from recoup.records import Frozen
from recoup.stacks import Health, Stack
from tasks.step import note, step

READY = timedelta(seconds=60)


class Acted(Frozen):
    """Services that were acted on, in order."""

    services: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(self.services) or "nothing to do"


def services_of(plan: Plan, names: tuple[str, ...]) -> tuple[str, ...]:
    """Give the stack's service names of components, order kept."""
    return tuple(plan.service(name) for name in names)


@step(timeout=timedelta(minutes=10), retries=2)
def stop_services(stack: Stack, services: tuple[str, ...]) -> Acted:
    """Stop services in the order given, those that are down already too."""
    for service in services:
        # Not asked for its state first: without its database, a service is slow to say how it is.
        note(f"stopping {service}")
        stack.stop(service)
    return Acted(services=services)


@step(timeout=timedelta(minutes=10), retries=2)
def start_services(stack: Stack, services: tuple[str, ...]) -> Acted:
    """Start those services that are not running, in the order given; gives those that were started.

    Raises RecoveryError when one of them is not running (or not healthy, by its own health check) within 60 s.
    """
    acted = []
    for service in services:
        if not stack.state(service).running:
            note(f"starting {service}")
            stack.start(service)
            acted.append(service)
    wait_for_services(stack, services)
    return Acted(services=tuple(acted))


@step(timeout=timedelta(minutes=10), retries=1)
def restart_services(stack: Stack, services: tuple[str, ...]) -> Acted:
    """Restart services in the order given and wait for them."""
    for service in services:
        note(f"restarting {service}")
        stack.restart(service)
    wait_for_services(stack, services)
    return Acted(services=services)


def wait_for_services(stack: Stack, services: tuple[str, ...], deadline: timedelta = READY) -> None:
    """Wait until each service runs and, where it has a health check, does not call itself starting."""
    end = time.monotonic() + deadline.total_seconds()
    with ThreadPoolExecutor(max_workers=4) as pool:
        while True:
            states = list(pool.map(stack.state, services))
            waiting = [s for s in states if not s.running or s.health is Health.STARTING]
            if not waiting:
                return
            if time.monotonic() > end:
                last = stack.logs(waiting[0].service, tail=5).strip()
                raise RecoveryError(
                    f"not ready within {deadline.total_seconds():.0f} s: "
                    + ", ".join(f"{s.service} ({s.status})" for s in waiting),
                    state=f"last lines of {waiting[0].service}: {last}",
                    next_step="read that log; the database itself is not the cause if its own checks passed",
                )
            time.sleep(0.2)
