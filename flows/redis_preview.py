"""What a recovery of Redis would do, said line by line, and nothing of it done."""

from __future__ import annotations

import shlex

from flows.database import When
from flows.redis_store import AS_IT_WAS, RedisRecovery, RedisSource
from recoup.catalog import Repository
from recoup.errors import RecoveryError
from recoup.plan import Plan
from recoup.stacks import open_stack
from tasks.copies_fetch import would_fetch
from tasks.redis_replica import Replica, state_of
from tasks.redis_restore import find_redis_backup
from tasks.redis_server import Condition, RedisServer
from tasks.redis_state import look, require_saving
from tasks.services import services_of


def preview(plan: Plan, request: RedisRecovery) -> tuple[str, ...]:
    """Look at Redis and give, line by line, what a recovery would do; changes nothing."""
    stack = open_stack(plan)
    server = RedisServer.of(plan, stack, request.component or None)
    repository = Repository(plan.platform.repository)
    dependents = services_of(plan, plan.dependents(server.component))
    found = look(server, repository)
    lines = [f"{server.component} is {found}"]
    require_saving(found)
    replica = Replica.of(plan, server)
    if replica:
        lines.append(f"its replica {state_of(replica)}")
    if request.restore is When.IF_NEEDED and found.condition in AS_IT_WAS:
        return (*lines, "nothing would be restored; the data and the gateway would be checked")
    if replica:
        lines.append(f"have {replica.service} follow nobody (REPLICAOF NO ONE), so that it keeps what it has")
    if found.condition in (Condition.DOWN, Condition.LOADING, Condition.REFUSING):
        whole = "its data, and has all that the replica has" if replica else "its data"
        lines.append(f"restart {server.spec.service}; if it loads {whole}, nothing is restored. Otherwise:")
    if replica and request.source is not RedisSource.BACKUP and found.condition not in AS_IT_WAS:
        lines.append(f"back up {replica.service} and restore that set, if its data are good and the freshest; or else")
    lines.extend(_plan_of_restore(plan, server, repository, request, dependents))
    return (*lines, f"have {replica.service} follow {server.spec.service} again") if replica else tuple(lines)


def _plan_of_restore(
    plan: Plan, server: RedisServer, repository: Repository, request: RedisRecovery, dependents: tuple[str, ...]
) -> tuple[str, ...]:
    try:
        chosen = find_redis_backup(server, repository, request.backup)
    except RecoveryError as error:
        return would_fetch(plan, error)
    service = shlex.quote(server.spec.service)
    return (
        f"use backup set {chosen}",
        f"stop {', '.join(dependents)}",
        f"stop {service}, put its data aside whole, start it empty and ask how it keeps its data, stop it",
        "lay the copy down as what it reads: dump.rdb, the append-only file, or its first part and the manifest",
        f"start {service}; compare number of keys, when they expire, every key and value with the manifest",
        f"start {', '.join(reversed(dependents))}",
        "make the plan's requests through the gateway",
    )
