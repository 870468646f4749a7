"""What a recovery of services would do, said line by line, and nothing of it done."""

from __future__ import annotations

from flows.service import ServiceRecovery, failed_of, left_stopped, procedure_of
from recoup.causes import free_of, waves
from recoup.plan import Plan, ServiceComponent
from recoup.stacks import open_stack
from tasks.images import healthy_image
from tasks.service_look import asked_for, depends_on, identify, running


def preview(plan: Plan, request: ServiceRecovery) -> tuple[str, ...]:
    """Look at the services and give, line by line, what a recovery would do; changes nothing."""
    named = asked_for(plan, request.services)
    found = identify(plan, open_stack(plan), running(plan))
    ill, stopped, rests = failed_of(plan, found, named), left_stopped(found, named), depends_on(plan)
    lines = [str(found)]
    if not ill:
        return (*lines, "nothing would be restarted; the services, the stores and the gateway would be checked")
    lines.append(f"keep the logs of {', '.join(ill)}, secrets masked")
    theirs = {name: procedure for name in ill if (procedure := procedure_of(plan, found.of(name)))}
    for wave in waves(rests, ill):
        if now := free_of(rests, wave, {*theirs, *stopped}):
            lines.append(f"restart {' and '.join(now)}{' at the same time' if len(now) > 1 else ''}, if still not well")
            lines += [_further(plan, name) for name in now if isinstance(plan.component(name), ServiceComponent)]
    lines += [f"leave {name} as it is: it was stopped on purpose" for name in sorted(stopped)]
    lines += [f"then hand over: recoup recover {procedure} ({name})" for name, procedure in theirs.items()][:1]
    return tuple(lines) if theirs else (*lines, "check the services, the stores, and the gateway as a user")


def _further(plan: Plan, name: str) -> str:
    component = plan.component(name)
    line = f"  if that does not help: docker compose up --detach --no-deps --force-recreate {plan.service(name)}"
    if not isinstance(component, ServiceComponent) or not component.roll_back:
        return f"{line}; the plan allows no rollback"
    known = healthy_image(plan, name)
    return f"{line}; then its last healthy image: {known or 'none is known'}"
