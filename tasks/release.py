"""The steps of a change of version: what runs is kept, the other one built, the database brought to it; or all back."""

from __future__ import annotations

from datetime import timedelta

from recoup.errors import ProgramError, RecoveryError
from recoup.plan import Migrations, Plan
from recoup.process import run
from recoup.records import Check, Frozen, Outcome, Subject
from recoup.release import NO_MIGRATION, Pin, Version, release_of, write_pin
from recoup.stacks import Held, Stack, open_at
from tasks.release_choice import Chosen
from tasks.release_git import make_work_tree
from tasks.release_migrations import applied_in, down_command, known_in, migrate, migrations_of
from tasks.services import wait_for_services
from tasks.step import note, step

READY = timedelta(seconds=60)


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
    command = open_at(plan, target).releases.building(chosen.services) if release.build else None
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
    migrate(plan, chosen.running, down_command(migrations, chosen.stay), kept.of(migrations.service))
    return Done(what=f"undone: {', '.join(chosen.down)}")


@step(timeout=timedelta(hours=1))
def deploy_release(plan: Plan, chosen: Chosen) -> Done:
    """Make the platform's services anew from the target and wait for them."""
    stack = open_at(plan, chosen.target)
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
    migrate(plan, chosen.target, migrations.up)
    return Done(what=f"applied: {', '.join(chosen.pending)}")


@step(timeout=timedelta(minutes=10), retries=1)
def check_schema(plan: Plan, version: Version) -> Suits:
    """Check that the database has exactly the migrations that a version knows."""
    release = release_of(plan)
    if release.migrations is None:
        return Suits(checks=())
    names = tuple(one.name for one in applied_in(open_at(plan, version), release.migrations))
    known = known_in(release, version.commit, release.migrations.file)
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
        migrate(plan, chosen.target, down_command(migrations, last))
        names = _names(plan, chosen.running, migrations, kept)
    if set(chosen.applied) - set(names):
        note(f"applying {', '.join(name for name in chosen.applied if name not in names)} again")
        migrate(plan, chosen.running, migrations.up, kept.of(migrations.service))
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
    stack = open_at(plan, chosen.running)
    for held in kept.held:
        stack.releases.give_back(held)
        note(f"making {held.service} anew from {chosen.running}")
        stack.recreate(held.service, image="" if held.name else held.image)
        if stack.image(held.service) != held.image:
            # Its definition means another image by now; the one that ran is what is wanted.
            stack.recreate(held.service, image=held.image)
    wait_for_services(stack, chosen.services, READY)
    return Done(what=f"{', '.join(chosen.services)} made from {chosen.running} again")


def _names(plan: Plan, version: Version, migrations: Migrations, kept: Kept) -> tuple[str, ...]:
    found = applied_in(open_at(plan, version), migrations, kept.of(migrations.service))
    return tuple(one.name for one in found)
