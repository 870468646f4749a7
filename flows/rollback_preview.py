"""What a rollback would do now, line by line: it looks, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from flows.rollback import Rollback, stores_to_back_up
from recoup.plan import Plan
from recoup.release import release_of
from recoup.stacks import open_at, open_stack
from tasks.release_choice import choose_version
from tasks.release_git import adding
from tasks.release_migrations import down_command


def preview(plan: Plan, request: Rollback) -> Iterator[str]:
    """Give, line by line, what a rollback would run; raises PreconditionError where none could begin."""
    release = release_of(plan)
    chosen = choose_version.fn(plan, open_stack(plan), request.version)
    target = open_at(plan, chosen.target, there=False)
    yield str(chosen)
    yield f"back up {', '.join(stores_to_back_up(plan))}; keep what {', '.join(chosen.services)} were made from"
    yield adding(release, chosen.target.commit, chosen.target.place).shown()
    building = target.releases.building(chosen.services) if release.build else None
    yield building.shown() if building else "nothing is built"
    if release.migrations and chosen.down:
        command = " ".join(down_command(release.migrations, chosen.stay))
        yield f"in {release.migrations.service}, by {chosen.running}: {command}"
    for service in chosen.services:
        yield target.releases.deploying(service)
    if release.migrations and chosen.pending:
        yield f"in {release.migrations.service}, by {chosen.target}: {' '.join(release.migrations.up)}"
    yield f"make the plan's requests through the gateway; if one fails, return to {chosen.running}"
