"""What is offered where a database cannot be brought back to an older version: its state from before the release."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from recoup.catalog import Repository
from recoup.errors import PreconditionError
from recoup.plan import Migrations, Plan
from recoup.release import Applied, Version


def no_way_down(
    plan: Plan,
    migrations: Migrations,
    target: Version,
    applied: Sequence[Applied],
    without: Sequence[str],
    since: datetime,
) -> PreconditionError:
    """Give the error that says so, and the command that restores the database to before the release."""
    first = next((one for one in applied if one.name in without), None)
    what = f"{', '.join(without)} cannot be undone: there is no way down"
    if first is None:
        what = f"its migrations were not applied in the order in which {target} would have them undone"
    before = first.at if first and first.at else since
    return PreconditionError(
        f"the database is newer than {target} allows: {what}",
        next_step=offer(plan, migrations, before, target),
    )


def offer(plan: Plan, migrations: Migrations, before: datetime, target: Version) -> str:
    """Give the commands that restore the database to a moment before the release, then go back to the version."""
    name, component = plan.postgres(migrations.database)
    several = sum(one.kind == "postgres" for one in plan.components.values()) > 1
    named = f" --component {name}" if several else ""
    rollback = f"then: recoup rollback {target}"
    if component.continuous:
        moment = before - timedelta(seconds=1)
        command = f"recoup recover database{named} --restore always --to {moment:%Y-%m-%dT%H:%M:%SZ}"
        return f"give up what was written since the release, and restore to just before it: {command}; {rollback}"
    sets = Repository(plan.platform.repository).sets(component.store)
    older = [one for one in sets if one.recovery_point and one.recovery_point < before]
    if not older:
        return f"no backup set is older than the release ({before:%Y-%m-%d %H:%M:%S} UTC): write the way down by hand"
    newest = max(older, key=lambda one: one.recovery_point or before)
    command = f"recoup recover database{named} --restore always --backup {newest.set_id}"
    lost = f"all that was written since {newest.recovery_point:%Y-%m-%d %H:%M:%S} UTC"
    return f"give up {lost}, and restore the set from before the release: {command}; {rollback}"
