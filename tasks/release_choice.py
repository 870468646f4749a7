"""Which version runs, which one is to, and what the database needs for it: looked at, and nothing changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime

from recoup.errors import PreconditionError
from recoup.plan import ComposeSite, Migrations, Plan, Release, ServiceComponent
from recoup.records import Frozen
from recoup.release import Difference, Version, difference, previous, release_of
from recoup.stacks import Deployment, Stack, open_at
from tasks.platform import start_order
from tasks.release_git import (
    changes_in,
    commit_at,
    commit_of,
    is_ours,
    moment_of,
    place_of,
    require_checkout,
    tags_of,
)
from tasks.release_migrations import applied_in, known_in
from tasks.release_offer import no_way_down
from tasks.step import step


class Chosen(Frozen):
    """What runs, what is to run, and what the database needs for it; ``since``: when what runs was deployed."""

    running: Version
    target: Version
    since: AwareDatetime
    services: tuple[str, ...]
    applied: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    stay: str = ""
    pending: tuple[str, ...] = ()

    def __str__(self) -> str:
        undone = f"; to be undone in the database: {', '.join(self.down)}" if self.down else ""
        lacking = f"; to be applied: {', '.join(self.pending)}" if self.pending else ""
        return f"{self.running} runs, {self.target} is to{undone}{lacking}"


@step(timeout=timedelta(minutes=10))
def choose_version(plan: Plan, stack: Stack, asked: str) -> Chosen:
    """Give what runs and what is to take its place: the version asked for, or the one tagged before; changes nothing.

    Raises PreconditionError where a rollback cannot begin: what runs is not known or is in no commit, there is no such
    version, it runs already, or the database cannot be brought back to it.
    """
    release = release_of(plan)
    require_checkout(release)
    services = services_in(plan)
    running, since = _running(plan, release, stack, services)
    target = _target(release, running, asked)
    _require_as_it_runs(release, running)
    chosen = Chosen(running=running, target=target, since=since, services=services)
    if release.migrations is None:
        return chosen
    applied = applied_in(open_at(plan, running), release.migrations)
    known = known_in(release, target.commit, release.migrations.file)
    names = tuple(one.name for one in applied)
    found = difference(names, known)
    if found is None or (without := _without_way_down(release, release.migrations, running, found)):
        raise no_way_down(plan, release.migrations, target, applied, without if found else (), since)
    return chosen.model_copy(
        update={"applied": names, "down": found.down, "stay": found.stay, "pending": found.pending}
    )


def services_in(plan: Plan) -> tuple[str, ...]:
    """Give the services that a version of the platform is made of, in the order they start."""
    ours = {one.service for one in plan.components.values() if isinstance(one, ServiceComponent)}
    return tuple(one for one in start_order(plan, tuple(sorted(ours))) if one in ours)


def _without_way_down(release: Release, migrations: Migrations, running: Version, found: Difference) -> tuple[str, ...]:
    ways = known_in(release, running.commit, migrations.down_file)
    return tuple(name for name in found.down if name not in ways)


def _running(plan: Plan, release: Release, stack: Stack, services: Sequence[str]) -> tuple[Version, datetime]:
    """Give the version that runs, read from the services themselves, and when the first of them was made."""
    made, tags = {service: stack.releases.deployment(service) for service in services}, tags_of(release)
    found: dict[str, Version] = {}
    for service, deployment in made.items():
        if deployment is None:
            raise PreconditionError(
                f"{service} was never deployed, so there is no version to go back from",
                next_step="deploy the platform first: recoup recover platform",
            )
        place = _root(plan, release, service, deployment)
        commit = commit_at(place, deployment.at)
        tag = next((one.version for one in tags if one.commit == commit), "")
        found[service] = Version(name=tag or commit[:12], commit=commit, place=place, tagged=bool(tag))
    if len(set(found.values())) != 1:
        told = ", ".join(f"{service}: {one} in {one.place}" for service, one in found.items())
        raise PreconditionError(
            f"the services run different versions: {told}",
            next_step="deploy one version of all of them, then try again",
        )
    (running,) = set(found.values())
    return running, min(one.at for one in made.values() if one)


def _require_as_it_runs(release: Release, running: Version) -> None:
    """Raise PreconditionError where the files of what runs are not as it runs: it could not be brought back."""
    if (stands := commit_of(running.place)) != running.commit:
        raise PreconditionError(
            f"{running.place} stands at {stands[:12]}; what runs was deployed from {running} ({running.commit[:12]})",
            next_step=f"git -C {running.place} checkout {running.commit[:12]}, or deploy what it stands at",
        )
    if changed := changes_in(release, running.place):
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise PreconditionError(
            f"{running.place} holds changes that are in no commit: {', '.join(changed[:3])}{more}",
            next_step="commit or stash them: without them what runs now could not be brought back",
        )


def _root(plan: Plan, release: Release, service: str, deployment: Deployment) -> Path:
    site = plan.platform.stack
    place = deployment.directory
    if isinstance(site, ComposeSite):
        below = site.file.parent.relative_to(release.checkout) if site.file.is_relative_to(release.checkout) else Path()
        place = place.parents[len(below.parts) - 1] if below.parts else place
    if not is_ours(release, place) or not place.is_dir():
        raise PreconditionError(
            f"{service} was deployed from {place}, which is neither {release.checkout} nor a version beside it",
            next_step="correct platform.release.checkout in the plan, or deploy from there",
        )
    return place


def _target(release: Release, running: Version, asked: str) -> Version:
    tags = tags_of(release)
    known = ", ".join(one.version for one in tags) or "none"
    if not asked:
        found = previous(tags, running.commit, moment_of(release.checkout, running.commit))
        if found is None:
            raise PreconditionError(
                f"{release.checkout} has no version before {running} (tags: {known})",
                next_step="fetch the tags, or name a version: recoup rollback VERSION",
            )
    else:
        found = next((one for one in tags if asked in (one.version, one.tag)), None)
        if found is None:
            raise PreconditionError(
                f"{release.checkout} has no version {asked}", next_step=f"name one of: {known}; or fetch the tags"
            )
    if found.commit == running.commit:
        raise PreconditionError(f"{found.version} is what runs now", next_step=f"name another of: {known}")
    return Version(name=found.version, commit=found.commit, place=place_of(release, found.version))
