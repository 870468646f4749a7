"""The plan's checklist, gone through: every item looked at, all at the same time, each within one deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta

from pydantic import AwareDatetime

from recoup.errors import RecoupError, first_line
from recoup.plan import ChecklistItem, Plan
from recoup.records import Frozen, ItemResult, Outcome, now
from recoup.report import checklist_counts
from recoup.stacks import Stack
from tasks.checklist_access import authentication_works, certificates_are_valid, endpoints_answer
from tasks.checklist_chain import chains_answer, contracts_respond
from tasks.checklist_enclave import enclaves_attested
from tasks.checklist_found import Found, unproven
from tasks.checklist_monitoring import monitoring_is_active
from tasks.checklist_services import health_checks, logs_flow, services_running
from tasks.checklist_stores import backups_run, database_connects, redis_connects

DEADLINE = timedelta(seconds=30)
Look = Callable[[Plan, Stack], Found]

LOOKS: dict[str, Look] = {
    "services-running": services_running,
    "health-checks": health_checks,
    "database-connectivity": database_connects,
    "redis-connectivity": redis_connects,
    "chain-rpc": chains_answer,
    "contracts-responding": contracts_respond,
    "authentication": authentication_works,
    "api-endpoints": endpoints_answer,
    "monitoring": monitoring_is_active,
    "logs": logs_flow,
    "backups": backups_run,
    "certificates": certificates_are_valid,
    "enclaves-attested": enclaves_attested,
}


class Checklist(Frozen):
    """Every item of the plan's checklist as it was found, ``at`` aware UTC."""

    platform: str
    at: AwareDatetime
    items: tuple[ItemResult, ...]

    def of(self, outcome: Outcome) -> tuple[ItemResult, ...]:
        return tuple(item for item in self.items if item.outcome is outcome)

    @property
    def passed(self) -> bool:
        """Whether every item passed; no item is not passed."""
        return bool(self.items) and len(self.of(Outcome.PASSED)) == len(self.items)

    def __str__(self) -> str:
        return checklist_counts(self.items)


def go_through(plan: Plan, stack: Stack, deadline: timedelta = DEADLINE) -> Checklist:
    """Look at every item and give what was found; what was not found out within the deadline is unproven.

    Raises nothing of what looking raises: an item that could not be looked at says why.
    """
    at, began = now(), time.monotonic()
    pool = ThreadPoolExecutor(max_workers=max(len(plan.checklist), 1), thread_name_prefix="checklist")
    looks = [pool.submit(_look, item, plan, stack) for item in plan.checklist]
    wait(looks, timeout=deadline.total_seconds())
    # Every look ends by its own time-outs; whoever waits for the list does not wait for those.
    pool.shutdown(wait=False, cancel_futures=True)
    took = timedelta(seconds=time.monotonic() - began)
    items = tuple(_result(item, look, deadline, took) for item, look in zip(plan.checklist, looks, strict=True))
    return Checklist(platform=plan.platform.name, at=at, items=items)


def _look(item: ChecklistItem, plan: Plan, stack: Stack) -> tuple[Found, timedelta]:
    began = time.monotonic()
    look = LOOKS.get(item.check)
    try:
        found = look(plan, stack) if look else unproven(f"there is no check named {item.check}")
    except RecoupError as error:
        found = unproven(f"could not be looked at: {first_line(error)}")
    return found, timedelta(seconds=time.monotonic() - began)


def _result(
    item: ChecklistItem, look: Future[tuple[Found, timedelta]], deadline: timedelta, took: timedelta
) -> ItemResult:
    if not look.done() or look.cancelled():
        found = unproven(f"not found out within {deadline.total_seconds():g} s")
    elif error := look.exception():
        found = unproven(f"could not be looked at: {type(error).__name__}: {first_line(error)}")
    else:
        found, took = look.result()
    seen = " ".join(found.seen.split())
    return ItemResult(item=item.item, check=item.check, outcome=found.outcome, seen=seen, took=took)
