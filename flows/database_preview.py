"""What a recovery of the database would do now, line by line: it looks, and changes nothing."""

from __future__ import annotations

import shlex

from flows.database import DatabaseRecovery, Source, When
from recoup.catalog import Repository
from recoup.errors import RecoveryError
from recoup.plan import Plan
from recoup.stacks import open_stack
from recoup.target import parse_target
from tasks.copies_fetch import would_fetch
from tasks.postgres import Condition, Server
from tasks.postgres_choice import find_base
from tasks.postgres_diagnosis import look
from tasks.postgres_load import legacy_command, restore_command
from tasks.postgres_restore import find_backup
from tasks.postgres_standby import find_standby
from tasks.services import services_of


def preview(plan: Plan, request: DatabaseRecovery) -> tuple[str, ...]:
    """Look at the database and give, line by line, what a recovery would do; changes nothing."""
    stack = open_stack(plan)
    server = Server.of(plan, stack, request.component or None)
    repository = Repository(plan.platform.repository)
    dependents = services_of(plan, plan.dependents(server.component))
    found = look(server, repository)
    if found.condition is Condition.HEALTHY and request.restore is When.IF_NEEDED:
        return (
            f"{server.component} is {found}",
            "nothing would be restored; the data and the gateway would be checked",
        )
    lines = [f"{server.component} is {found}"]
    if found.condition not in (Condition.HEALTHY, Condition.DAMAGED) and found.startable:
        lines.append(
            f"restart {server.spec.service}; if it answers and its data are whole, nothing is restored. Otherwise:"
        )
    if server.spec.standby and request.source in (Source.BEST, Source.STANDBY) and request.to == "latest":
        standby, asked = find_standby(server, repository), request.source is Source.STANDBY
        if standby.service and not found.missing and (asked or found.condition is not Condition.HEALTHY):
            return (
                *lines,
                f"{standby}",
                f"stop {server.service} and fence it; bring {standby.service} to all that was received, and promote it",
                "receive its WAL; read every table; make the plan's requests through the gateway",
                f"take a new base backup; move the data of {server.service} aside, and have it follow as a new copy",
            )
        lines.append(f"the standby would not take over: {standby.why if not standby.service else found}")
    if server.spec.continuous and request.source is not Source.DUMP and request.backup == "latest":
        try:
            base = find_base(server, repository, parse_target(request.to))
        except RecoveryError as error:
            lines.append(f"no replay of WAL: {error.what}")
        else:
            return (
                *lines,
                f"replay the WAL on base backup {base} to {parse_target(base.to)}",
                f"stop {', '.join(dependents)} and {server.spec.service}; move its data aside, whole",
                "unpack, pg_verifybackup, replay, see that all that was received and the last heartbeat are there",
                f"start {server.spec.service}, receive its WAL again, start {', '.join(reversed(dependents))}",
                "read every table; make the plan's requests through the gateway; take a new base backup",
            )
    try:
        chosen = find_backup(server, repository, request.backup)
    except RecoveryError as error:
        return (*lines, *would_fetch(plan, error))
    one = repository.get(server.spec.store, chosen.set_id)
    target = f"{server.spec.database}_restore_<run>"
    return (
        *lines,
        f"use backup set {chosen}",
        f"stop {', '.join(dependents)}",
        shlex.join(legacy_command(target) if chosen.legacy else restore_command(server, one, target)),
        "compare schema, row counts and digests with the manifest",
        f"rename {server.spec.database} to {server.spec.database}_before_<run>, and {target} to {server.spec.database}",
        f"start {', '.join(reversed(dependents))}",
        "read every table; make the plan's requests through the gateway",
    )
