"""That a chain is really reached by the endpoint it is meant to be: seen in the services, and through the gateway."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta

import httpx

from recoup.addresses import shown
from recoup.chains import ChainSeen, EndpointSeen
from recoup.errors import RecoupError, first_line
from recoup.plan import ChainComponent, Plan
from recoup.records import Check, Frozen, Outcome, Subject
from recoup.stacks import Stack
from tasks.chain import look_at_chains
from tasks.chain_switch import chains_of, is_job, named_in_file
from tasks.health import told
from tasks.smoke import Door
from tasks.smoke_requests import json_object
from tasks.step import note, step

_PAUSE = 0.25
# For how long no height at all is waited for.
SAID_NOTHING = timedelta(seconds=15)


class ChainsChecked(Frozen):
    """What was looked at afterwards, and the chains that are not reached as they should be."""

    checks: tuple[Check, ...]
    wrong: tuple[str, ...] = ()

    def __str__(self) -> str:
        bad = [check for check in self.checks if check.outcome is not Outcome.PASSED]
        return "; ".join(f"{c.name}: {c.seen}" for c in bad) or "; ".join(c.seen for c in self.checks)


@step(timeout=timedelta(minutes=30))
def check_chains(plan: Plan, stack: Stack, wanted: Mapping[str, str]) -> ChainsChecked:
    """Check, for each chain and the endpoint it is ``wanted`` to use, that it is used, healthy, and moves for users."""
    chains = chains_of(plan)
    with ThreadPoolExecutor(max_workers=max(len(wanted), 1)) as pool:
        asked = {
            name: pool.submit(copy_context().run, _check, plan, stack, name, chains[name], url)
            for name, url in wanted.items()
        }
    found = {name: one.result() for name, one in asked.items()}
    wrong = (name for name, checks in found.items() if any(one.outcome is Outcome.FAILED for one in checks))
    return ChainsChecked(checks=tuple(check for checks in found.values() for check in checks), wrong=tuple(wrong))


def _check(plan: Plan, stack: Stack, name: str, chain: ChainComponent, url: str) -> tuple[Check, ...]:
    seen = look_at_chains({name: (chain, url)})[0]
    return (
        _check_of(f"{name}: its endpoint is healthy", Subject.STATUS, _endpoint(seen)),
        _check_of(f"{name}: the services use it", Subject.STATUS, _used(plan, stack, chain, url)),
        _check_of(f"{name}: users see it move", Subject.USER, _moves(plan, stack, name, chain, seen.current)),
    )


def _check_of(name: str, subject: Subject, found: tuple[Outcome, str]) -> Check:
    return Check(name=name, subject=subject, outcome=found[0], seen=found[1])


def _endpoint(seen: ChainSeen) -> tuple[Outcome, str]:
    return (Outcome.PASSED if seen.well else Outcome.FAILED), str(seen.current)


def _used(plan: Plan, stack: Stack, chain: ChainComponent, url: str) -> tuple[Outcome, str]:
    """Read from the services as they run, and from the file that they are made from the next time."""
    has = [(one, each.get(chain.variable, url if url in each.values() else None)) for one, each in _made(stack)]
    users = [(one, value) for one, value in has if value is not None and (value == url or not is_job(plan, stack, one))]
    other = [f"{service} has {shown(value)}" for service, value in users if value != url]
    if (named := named_in_file(stack, chain)) and named != url:
        other.append(f"{stack.env_file} has {shown(named)}")
    if other:
        return Outcome.FAILED, f"{'; '.join(other)}, and not {shown(url)}"
    if not users:
        return Outcome.UNPROVEN, f"no service has {chain.variable}"
    return Outcome.PASSED, f"{', '.join(dict(users))}: {shown(url)}"


def _made(stack: Stack) -> Iterator[tuple[str, Mapping[str, str]]]:
    return ((service, has) for service in stack.names for has in stack.environments(service))


def _moves(
    plan: Plan, stack: Stack, name: str, chain: ChainComponent, endpoint: EndpointSeen | None
) -> tuple[Outcome, str]:
    """Ask for the height as a user until it has risen; between two blocks there may be as long as a head may be old."""
    if chain.gateway is None:
        return Outcome.UNPROVEN, "the plan does not say where the gateway tells the height (gateway of the chain)"
    where = chain.gateway
    try:
        with Door.of(plan, stack).client() as client:
            return _risen(lambda: _height(client, where.path, where.field), name, chain, endpoint)
    except RecoupError as error:
        return Outcome.FAILED, first_line(error)


def _risen(
    ask: Callable[[], int | str], name: str, chain: ChainComponent, endpoint: EndpointSeen | None
) -> tuple[Outcome, str]:
    until = time.monotonic() + chain.max_age.total_seconds()
    silent = time.monotonic() + SAID_NOTHING.total_seconds()
    first: int | None = None
    while True:
        height = ask()
        if isinstance(height, int):
            first = height if first is None else first
            known = endpoint.height if endpoint else None
            if known is not None and first < known - chain.max_lag_blocks:
                return Outcome.FAILED, f"users are told {first}, and the endpoint is at {known}"
            if known is not None and first > known + chain.max_lag_blocks + chain.max_age.total_seconds():
                return Outcome.FAILED, f"users are told {first}, and the endpoint is only at {known}"
            if height > first:
                return Outcome.PASSED, f"users were told {first}, then {height}"
        elif time.monotonic() > silent:
            return Outcome.FAILED, height
        if time.monotonic() > until:
            last = f"it stayed at {height}" if isinstance(height, int) else height
            return Outcome.FAILED, f"no new block within {chain.max_age.total_seconds():.0f} s: {last}"
        note(f"{name}: {f'at {height}, waiting for a new block' if isinstance(height, int) else height}")
        time.sleep(_PAUSE)


def _height(client: httpx.Client, path: str, field: str) -> int | str:
    """Give the height that users are told, or what is wrong."""
    try:
        answer = client.get(path)
        answer.raise_for_status()
        found = json_object(answer).get(field)
    except httpx.HTTPStatusError as error:
        return f"the gateway answers {path} with status {error.response.status_code}"
    except httpx.HTTPError as error:
        kind, detail = told(error)
        return f"the gateway: {kind} {detail}".strip()
    return found if isinstance(found, int) and not isinstance(found, bool) else f"{path} tells no height"
