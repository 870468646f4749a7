"""The migrations of a platform's database, by the plan's commands: which it has, those a version knows, up and down."""

from __future__ import annotations

from pydantic import ValidationError

from recoup.errors import PreconditionError, ProgramError, RecoveryError, first_line
from recoup.plan import Migrations, Plan, Release
from recoup.release import Applied, Version, migrations_in, release_of
from recoup.stacks import Held, Stack, open_at
from tasks.release_git import files_in


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


def migrate(plan: Plan, version: Version, argv: tuple[str, ...], held: Held | None = None) -> None:
    """Run a command of the plan's migrations by a version; RecoveryError when it fails."""
    migrations = migrations_of(plan)
    try:
        open_at(plan, version).releases.once(migrations.service, argv, timeout=migrations.timeout, held=held)
    except ProgramError as error:
        raise RecoveryError(
            f"the migrations of {version} failed: {error.what[-600:]}",
            state="the database may be between two versions",
            next_step="see what the command says; the set taken first has the database as it was",
        ) from None


def known_in(release: Release, commit: str, pattern: str) -> tuple[str, ...]:
    """Give the migrations of which a commit has a file named like this; none where the plan names no migrations."""
    if release.migrations is None:
        return ()
    return migrations_in(files_in(release, commit, release.migrations.directory), pattern)
