"""The steps of a change of version: which to which, kept, built, the database brought to it, deployed, and back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, ValidationError

from recoup.errors import PreconditionError, ProgramError, RecoveryError, first_line
from recoup.plan import ComposeSite, Migrations, Plan, Release, ServiceComponent
from recoup.process import run
from recoup.records import Check, Frozen, Outcome, Subject
from recoup.release import (
    NO_MIGRATION,
    Applied,
    Difference,
    Pin,
    Version,
    at,
    difference,
    migrations_in,
    previous,
    release_of,
    write_pin,
)
from recoup.stacks import Deployment, Held, Stack, open_as_planned
from tasks.platform import start_order
from tasks.release_git import (
    changes_in,
    commit_at,
    commit_of,
    files_in,
    is_ours,
    make_work_tree,
    moment_of,
    place_of,
    require_checkout,
    tags_of,
)
from tasks.release_offer import no_way_down
from tasks.services import wait_for_services
from tasks.step import note, step

READY = timedelta(seconds=60)


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


class Kept(Frozen):
    """What each service was made from."""

    held: tuple[Held, ...]

    def of(self, service: str) -> Held | None:
        return next((one for one in self.held if one.service == service), None)

    def __str__(self) -> str:
        return f"the images of {', '.join(one.service for one in self.held)} are kept"


class Done(Frozen):
    """What a step did, in one line."""

    what: str

    def __str__(self) -> str:
        return self.what


class Suits(Frozen):
    """Whether the database is what the code expects."""

    checks: tuple[Check, ...]

    def __str__(self) -> str:
        return "; ".join(check.seen for check in self.checks) or "the plan names no migrations"


def stack_at(plan: Plan, version: Version) -> Stack:
    """Give the stack as a version defines it."""
    name = version.name if version.tagged else plan.platform.version or version.name
    return open_as_planned(at(plan, name, version.place))


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
    _require_as_it_runs(running)
    chosen = Chosen(running=running, target=target, since=since, services=services)
    if release.migrations is None:
        return chosen
    applied = applied_in(stack_at(plan, running), release.migrations)
    known = _known(release, release.migrations, target.commit)
    names = tuple(one.name for one in applied)
    found = difference(names, known)
    if found is None or (without := _without_way_down(release, release.migrations, running, found)):
        raise no_way_down(plan, release.migrations, target, applied, without if found else (), since)
    return chosen.model_copy(
        update={"applied": names, "down": found.down, "stay": found.stay, "pending": found.pending}
    )


@step(timeout=timedelta(minutes=5), retries=1)
def hold_release(stack: Stack, services: tuple[str, ...]) -> Kept:
    """Keep what runs, so that going back to it needs no build."""
    return Kept(held=tuple(stack.releases.hold(service) for service in services))


@step(timeout=timedelta(hours=2))
def build_release(plan: Plan, chosen: Chosen) -> Done:
    """Have the target's files in a work tree of their own and build what it is made of; what runs is not touched."""
    release, target = release_of(plan), chosen.target
    note(f"making a work tree of {target} in {target.place}")
    make_work_tree(release, target.commit, target.place)
    command = stack_at(plan, target).releases.building(chosen.services) if release.build else None
    if command is None:
        return Done(what=f"{target} is in {target.place}; nothing is built")
    note(f"building {target}")
    try:
        run(command, timeout=release.timeout)
    except ProgramError as error:
        raise RecoveryError(
            f"{target} cannot be built: {error.what[-600:]}",
            state=f"{chosen.running} runs as before; only a backup was taken",
            next_step="read what the build says, correct it, or name another version",
        ) from None
    return Done(what=f"{target} was built from {target.place}")


@step(timeout=timedelta(hours=1))
def migrate_down(plan: Plan, chosen: Chosen, kept: Kept) -> Done:
    """Undo the migrations that the target does not know, by the version that has the way down."""
    migrations = migrations_of(plan)
    note(f"undoing {', '.join(chosen.down)}")
    _once(plan, chosen.running, migrations, down_command(migrations, chosen.stay), kept)
    return Done(what=f"undone: {', '.join(chosen.down)}")


@step(timeout=timedelta(hours=1))
def deploy_release(plan: Plan, chosen: Chosen) -> Done:
    """Make the platform's services anew from the target and wait for them."""
    stack = stack_at(plan, chosen.target)
    for service in chosen.services:
        note(f"making {service} anew from {chosen.target}")
        stack.recreate(service)
    wait_for_services(stack, chosen.services, READY)
    return Done(what=f"{', '.join(chosen.services)} made from {chosen.target}")


@step(timeout=timedelta(hours=1))
def migrate_up(plan: Plan, chosen: Chosen) -> Done:
    """Apply the migrations that the target knows and the database lacks, by the target itself."""
    migrations = migrations_of(plan)
    note(f"applying {', '.join(chosen.pending)}")
    _once(plan, chosen.target, migrations, migrations.up, None)
    return Done(what=f"applied: {', '.join(chosen.pending)}")


@step(timeout=timedelta(minutes=10), retries=1)
def check_schema(plan: Plan, version: Version) -> Suits:
    """Check that the database has exactly the migrations that a version knows."""
    release = release_of(plan)
    if release.migrations is None:
        return Suits(checks=())
    names = tuple(one.name for one in applied_in(stack_at(plan, version), release.migrations))
    known = _known(release, release.migrations, version.commit)
    passed = set(names) == set(known)
    check = Check(
        name=f"the database is what {version} expects",
        subject=Subject.DATA,
        outcome=Outcome.PASSED if passed else Outcome.FAILED,
        expected=f"migrations {', '.join(known) or 'none'}",
        seen=f"migrations {', '.join(names) or 'none'}",
    )
    return Suits(checks=(check,))


@step(timeout=timedelta(minutes=1), retries=1)
def remember_version(plan: Plan, version: Version, services: tuple[str, ...]) -> Done:
    """Have whatever makes the services anew from now on take this version, until they are deployed otherwise."""
    ours = version.place != release_of(plan).checkout
    write_pin(plan, Pin(version=version.name, place=version.place, services=services) if ours else None)
    return Done(what=f"services are made anew from {version.place}")


@step(timeout=timedelta(minutes=1))
def turn_back(why: str) -> Done:
    """Note that the target is given up, and why, so that a killed run goes on going back."""
    return Done(what=why)


@step(timeout=timedelta(hours=1), retries=1)
def migrate_back(plan: Plan, chosen: Chosen, kept: Kept) -> Done:
    """Bring the database to the migrations that it had, whichever of the two versions knows the way."""
    if (migrations := release_of(plan).migrations) is None:
        return Done(what="the plan names no migrations")
    names = _names(plan, chosen.running, migrations, kept)
    if set(names) - set(chosen.applied):
        last = chosen.applied[-1] if chosen.applied else NO_MIGRATION
        _once(plan, chosen.target, migrations, down_command(migrations, last), None)
        names = _names(plan, chosen.running, migrations, kept)
    if set(chosen.applied) - set(names):
        note(f"applying {', '.join(name for name in chosen.applied if name not in names)} again")
        _once(plan, chosen.running, migrations, migrations.up, kept)
        names = _names(plan, chosen.running, migrations, kept)
    if set(names) != set(chosen.applied):
        raise RecoveryError(
            f"the database has {', '.join(names) or 'no migrations'}, not {', '.join(chosen.applied)} as before",
            state=f"neither {chosen.target} nor {chosen.running} can be relied on",
            next_step="bring the database back by the set that was taken first: recoup backup list",
        )
    return Done(what=f"the database has {', '.join(names) or 'no migrations'}, as before")


@step(timeout=timedelta(hours=1), retries=1)
def deploy_back(plan: Plan, chosen: Chosen, kept: Kept) -> Done:
    """Make the services anew from what ran before, by the images that were kept, and wait for them."""
    stack = stack_at(plan, chosen.running)
    for held in kept.held:
        stack.releases.give_back(held)
        note(f"making {held.service} anew from {chosen.running}")
        stack.recreate(held.service, image="" if held.name else held.image)
        if stack.image(held.service) != held.image:
            # Its definition means another image by now; the one that ran is what is wanted.
            stack.recreate(held.service, image=held.image)
    wait_for_services(stack, chosen.services, READY)
    return Done(what=f"{', '.join(chosen.services)} made from {chosen.running} again")


def services_in(plan: Plan) -> tuple[str, ...]:
    """Give the services that a version of the platform is made of, in the order they start."""
    ours = {one.service for one in plan.components.values() if isinstance(one, ServiceComponent)}
    return tuple(one for one in start_order(plan, tuple(sorted(ours))) if one in ours)


def migrations_of(plan: Plan) -> Migrations:
    found = release_of(plan).migrations
    assert found is not None, "only a plan that has them leads here"
    return found


def down_command(migrations: Migrations, target: str) -> tuple[str, ...]:
    """Give the command that undoes all that came after a migration."""
    return tuple(part.replace("{target}", target) for part in migrations.down)


def applied_in(stack: Stack, migrations: Migrations, held: Held | None = None) -> tuple[Applied, ...]:
    """Give the migrations that the database has, the oldest first; PreconditionError when they cannot be told."""
    try:
        done = stack.releases.once(migrations.service, migrations.status, timeout=migrations.timeout, held=held)
        return tuple(_applied(line) for line in done.text.splitlines() if line.strip())
    except (ProgramError, ValidationError) as error:
        raise PreconditionError(
            f"which migrations the database has cannot be told: {first_line(error)}",
            next_step="see that the database answers, and that migrations.status in the plan is the right command",
        ) from None


def _applied(line: str) -> Applied:
    name, _, moment = line.strip().partition("\t")
    return Applied.model_validate({"name": name.strip(), "at": moment.strip() or None})


def _names(plan: Plan, version: Version, migrations: Migrations, kept: Kept) -> tuple[str, ...]:
    found = applied_in(stack_at(plan, version), migrations, kept.of(migrations.service))
    return tuple(one.name for one in found)


def _once(plan: Plan, version: Version, migrations: Migrations, argv: tuple[str, ...], kept: Kept | None) -> None:
    held = kept.of(migrations.service) if kept else None
    try:
        stack_at(plan, version).releases.once(migrations.service, argv, timeout=migrations.timeout, held=held)
    except ProgramError as error:
        raise RecoveryError(
            f"the migrations of {version} failed: {error.what[-600:]}",
            state="the database may be between two versions",
            next_step="see what the command says; the set taken first has the database as it was",
        ) from None


def _known(release: Release, migrations: Migrations, commit: str) -> tuple[str, ...]:
    return migrations_in(files_in(release, commit, migrations.directory), migrations.file)


def _without_way_down(release: Release, migrations: Migrations, running: Version, found: Difference) -> tuple[str, ...]:
    ways = migrations_in(files_in(release, running.commit, migrations.directory), migrations.down_file)
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


def _require_as_it_runs(running: Version) -> None:
    """Raise PreconditionError where the files of what runs are not as it runs: it could not be brought back."""
    if (stands := commit_of(running.place)) != running.commit:
        raise PreconditionError(
            f"{running.place} stands at {stands[:12]}; what runs was deployed from {running} ({running.commit[:12]})",
            next_step=f"git -C {running.place} checkout {running.commit[:12]}, or deploy what it stands at",
        )
    if changed := changes_in(running.place):
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
