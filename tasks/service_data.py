"""That an outage of services has lost no data: looked at in the stores themselves, not assumed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import psycopg

from recoup.catalog import Repository
from recoup.clock import store_loss
from recoup.errors import RecoupError, first_line
from recoup.plan import Plan, PostgresComponent, RedisComponent
from recoup.records import Check, Frozen, Outcome, StoreLoss, Subject
from recoup.stacks import Stack
from tasks.postgres import Server, crash_safe
from tasks.redis_scratch import snapshot_of
from tasks.redis_server import RedisServer
from tasks.redis_state import kept_until
from tasks.service_look import look_at
from tasks.step import step

# Two clocks are compared: the server's and this machine's.
MARGIN = timedelta(seconds=2)


class StoresSeen(Frozen):
    """What was looked at in the stores, and what each of them can have lost."""

    checks: tuple[Check, ...]
    losses: tuple[StoreLoss, ...]

    def __str__(self) -> str:
        return "; ".join(f"{check.name}: {check.outcome}, {check.seen}" for check in self.checks)


@step(timeout=timedelta(minutes=15), retries=1)
def check_stores(plan: Plan, stack: Stack, began: datetime | None) -> StoresSeen:
    """Check that every database and Redis of the plan answers and holds what it held before the outage.

    Passed: no table or key of the newest backup set is gone, or the server has run since before the outage ``began``
    and so has lost nothing. Neither known: unproven.
    """
    checks, losses = [], []
    for name, component in plan.components.items():
        if not isinstance(component, PostgresComponent | RedisComponent):
            continue
        seen = look_at(plan, stack, name)
        point, basis, known = None, seen.seen, False
        if not seen.ill:
            if isinstance(component, PostgresComponent):
                point, basis, known = _database(Server.of(plan, stack, name), plan, began)
            else:
                point, basis, known = _redis(RedisServer.of(plan, stack, name), plan, began)
        outcome = Outcome.FAILED if seen.ill else Outcome.PASSED if known else Outcome.UNPROVEN
        said = seen.seen if known or seen.ill else f"{seen.seen}; neither a backup set nor a long life tells of before"
        checks.append(
            Check(
                name=f"{name}: it holds what it held",
                subject=Subject.DATA,
                outcome=outcome,
                expected="nothing is gone",
                seen=said,
            )
        )
        losses.append(store_loss(component.store, plan.rpo(component.store), began, point, basis))
    return StoresSeen(checks=tuple(checks), losses=tuple(losses))


def _database(server: Server, plan: Plan, began: datetime | None) -> tuple[datetime | None, str, bool]:
    """Give the moment up to which nothing is lost, why, and whether its data are known to be those of before."""
    compared = any(one.dump for one in Repository(plan.platform.repository).sets(server.spec.store))
    try:
        with server.connect() as connection:
            row = connection.execute("SELECT pg_postmaster_start_time()").fetchone()
        assert row is not None and isinstance(row[0], datetime)
        if began and row[0].astimezone(UTC) + MARGIN < began:
            return began, "it kept running, and nothing was restored", True
        safe, basis = crash_safe(server)
    except psycopg.Error as error:
        return None, first_line(error), False
    return began if safe else None, basis, compared


def _redis(server: RedisServer, plan: Plan, began: datetime | None) -> tuple[datetime | None, str, bool]:
    compared = any(snapshot_of(one) for one in Repository(plan.platform.repository).sets(server.spec.store))
    if began is None:
        return None, "when the outage began is not known", compared
    try:
        point, basis = kept_until(server, began)
    except RecoupError as error:
        return None, error.what, False
    return point, basis, compared or point == began
