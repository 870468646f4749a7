"""Faults for drills: ways to break services for real. They act on a sandbox alone."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from enum import StrEnum

from recoup.errors import PreconditionError
from recoup.plan import ComposeSite, Plan, ProcessSite
from recoup.records import now
from recoup.stacks import Stack
from tasks.sandbox_compose import release_bad_image

SERVICE, NEIGHBOUR, DATABASE = "records-service", "accounts-service", "postgres"
SOON = timedelta(seconds=30)


class ServiceFault(StrEnum):
    """How to break services."""

    KILL = "kill"
    CRASH_LOOP = "crash-loop"
    HANG = "hang"
    BAD_IMAGE = "bad-image"
    DEPENDENCY_DOWN = "dependency-down"


def inject(plan: Plan, stack: Stack, fault: ServiceFault, sandbox: str) -> datetime:
    """Break services of a sandbox and give the moment just before; PreconditionError on anything else."""
    if not sandbox or stack.sandbox != sandbox:
        raise PreconditionError(
            f"{stack.fingerprint} is not the sandbox {sandbox or '(none)'}: a fault is never injected there",
            next_step="run the drill on a sandbox: recoup drill service",
        )
    at = now()
    match fault:
        case ServiceFault.KILL:
            # Two that do not rest on each other.
            stack.kill(SERVICE)
            stack.kill(NEIGHBOUR)
        case ServiceFault.CRASH_LOOP:
            # What runs was made with bad configuration; its definition is good.
            stack.recreate(SERVICE, env={"PORT": "eight thousand"})
        case ServiceFault.HANG:
            stack.freeze(SERVICE)
        case ServiceFault.BAD_IMAGE:
            _bad_image(plan, stack, sandbox)
        case ServiceFault.DEPENDENCY_DOWN:
            stack.kill(DATABASE)
    return at


def _bad_image(plan: Plan, stack: Stack, sandbox: str) -> None:
    """Have the definition name something that does not start, as a bad release does, and deploy it."""
    site = plan.platform.stack
    if isinstance(site, ComposeSite):
        release_bad_image(sandbox)
    else:
        _bad_program(site)
    stack.recreate(SERVICE)


def _bad_program(site: ProcessSite) -> None:
    path = site.directory / "stack.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    for service in described["services"]:
        if service["name"] == SERVICE:
            service["argv"] = ["false"]
    path.write_text(json.dumps(described), encoding="utf-8")
