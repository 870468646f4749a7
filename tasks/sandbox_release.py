"""A sandbox whose services are deployed from a git checkout with versions, good and bad ones, and migrations."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from recoup.plan import Migrations, Plan, Release
from recoup.process import run
from recoup.records import now
from recoup.stacks import open_as_planned
from tasks.configuration_git import git_command
from tasks.release_choice import services_in
from tasks.release_migrations import migrations_of
from tasks.services import wait_for_services

FIRST = "1.0.0"
_SANDBOX = Path(__file__).resolve().parent.parent / "infra" / "sandbox"
_FILES = ("compose.yaml", "schema.sql", "release/compose.release.yaml", "release/release.Dockerfile")
_BASELINE, _NEWER = "0001_audit_by_record", "0002_record_note"
_AS = ("-c", "user.name=sandbox", "-c", "user.email=sandbox@localhost", "-c", "commit.gpgsign=false")
_SOON = timedelta(minutes=1)
# A version that starts, is healthy, and has lost what users need.
_DEFECT = """

_whole = build


def build(settings: Settings) -> Starlette:
    made = _whole(settings)
    made.router.routes[:] = [one for one in made.router.routes if getattr(one, "path", "") != "/records/{id:path}"]
    return made
"""
Ways = Literal["both", "up"]


def make_checkout(directory: Path) -> Path:
    """Make ``directory/checkout`` with the sandbox's own application as its first version."""
    root = directory / "checkout"
    shutil.copytree(_SANDBOX / "app", root / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for name in _FILES:
        shutil.copy(_SANDBOX / name, root)
    (root / "app" / "migrations").mkdir()
    (root / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
    _migration(root, _BASELINE, "both")
    _git(root, now(), "init", "--quiet", "--initial-branch=main")
    _commit(root, FIRST, now() - timedelta(days=30))
    return root


def release_plan(root: Path, kind: Literal["process", "compose"]) -> Release:
    """Give what the plan of a sandbox says of its versions."""
    python = sys.executable if kind == "process" else "python3"
    migrate = (python, "-m", "app.migrate")
    migrations = Migrations(
        service="records-service",
        directory="app/migrations",
        status=(*migrate, "status"),
        up=(*migrate, "up"),
        down=(*migrate, "down", "{target}"),
    )
    return Release(checkout=root, tag="v{version}", settle=timedelta(seconds=3), migrations=migrations)


def commit_version(root: Path, version: str, *, good: bool, days_ago: int, migration: Ways | None = None) -> None:
    """Commit a version and tag it, dated back; one that is not good starts, and has lost what users need."""
    records = root / "app" / "records.py"
    whole = (_SANDBOX / "app" / "records.py").read_text(encoding="utf-8")
    # Said in the file, so that no two versions are the same.
    records.write_text(f"{whole}{'' if good else _DEFECT}\n\nVERSION = {version!r}\n", encoding="utf-8")
    if migration:
        _migration(root, _NEWER, migration)
    _commit(root, version, now() - timedelta(days=days_ago))


def deploy(plan: Plan, version: str) -> datetime:
    """Deploy a version as people do, its migrations too, and give the moment its services were made."""
    release = plan.platform.release
    assert release is not None
    stack, services = open_as_planned(plan), services_in(plan)
    _git(release.checkout, now(), "checkout", "--quiet", f"v{version}")
    if command := stack.releases.building(services):
        run(command, timeout=release.timeout)
    at = now()
    for service in services:
        stack.recreate(service)
    wait_for_services(stack, services)
    migrate(plan)
    return at


def migrate(plan: Plan) -> None:
    """Apply what migrations the version that is deployed has."""
    migrations = migrations_of(plan)
    open_as_planned(plan).releases.once(migrations.service, migrations.up, timeout=migrations.timeout)


def _migration(root: Path, name: str, ways: Ways) -> None:
    for way in ("up", "down") if ways == "both" else ("up",):
        shutil.copy(_SANDBOX / "release" / "migrations" / f"{name}.{way}.sql", root / "app" / "migrations")


def _commit(root: Path, version: str, at: datetime) -> None:
    _git(root, at, "add", "--all")
    _git(root, at, *_AS, "commit", "--quiet", "--message", f"version {version}")
    _git(root, at, "tag", f"v{version}")


def _git(root: Path, at: datetime, *arguments: str) -> None:
    command = git_command(root, *arguments)
    when = at.isoformat(timespec="seconds")
    run(replace(command, env={**command.env, "GIT_COMMITTER_DATE": when, "GIT_AUTHOR_DATE": when}), timeout=_SOON)
