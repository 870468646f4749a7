"""The backup commands and recoup ready on a running sandbox, with a copy of its backups elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deployments.cli import build
from recoup.catalog import Repository, problems
from recoup.errors import PreconditionError
from recoup.plan import DirectoryCopy, load_plan
from tasks.sandbox import Sandbox

Run = Callable[..., Result]


@pytest.fixture
def plan(sandbox: Sandbox, tmp_path: Path) -> Path:
    """Give the sandbox's own plan with a repository of this test's own and a copy of it."""
    known = load_plan(sandbox.plan)
    (tmp_path / "disk").mkdir()
    copy = DirectoryCopy(name="disk", path=tmp_path / "disk", offsite=True)
    platform = known.platform.model_copy(update={"repository": tmp_path / "backups", "copies": (copy,)})
    path = tmp_path / "plan.yaml"
    path.write_text(known.model_copy(update={"platform": platform}).dump_yaml())
    return path


@pytest.fixture
def run(plan: Path) -> Run:
    def command(*arguments: str) -> Result:
        return CliRunner().invoke(build(arguments), [*arguments, "--plan", str(plan)], catch_exceptions=False)

    return command


def test_one_command_backs_every_store_up_and_copies_it_and_an_empty_host_gets_it_back(
    run: Run, plan: Path, tmp_path: Path
) -> None:
    taken = run("backup", "now")
    assert taken.exit_code == 0, taken.output
    repository = Repository(tmp_path / "backups")
    for series in ("database", "redis"):
        (one,) = repository.sets(series)
        assert problems(one) == ""
        assert one.set_id in run("backup", "list").output
        assert one.set_id in run("backup", "list", "--at", "disk").output
        assert one.set_id in run("backup", "list", "--at", "disk", "--store", series).output
    assert repository.sets("redis")[0].set_id not in run("backup", "list", "--store", "database").output
    (database,) = repository.sets("database")
    looked = run("backup", "verify", "--at", "disk")
    assert looked.exit_code == 0, looked.output

    shutil.rmtree(repository.root)
    assert "no backup set" in run("backup", "list").output
    fetched = run("backup", "fetch", "disk", database.set_id)
    assert fetched.exit_code == 0, fetched.output
    assert problems(repository.get("database", database.set_id)) == ""

    (tmp_path / "disk" / database.set_id / "globals.sql").write_text("damaged")
    looked = run("backup", "verify", "--at", "disk", "--store", "database")
    assert looked.exit_code == 1
    assert "globals.sql" in looked.output


def test_what_would_be_pruned_is_told_with_the_reason_and_stays(run: Run, tmp_path: Path) -> None:
    run("backup", "now", "--store", "redis")
    told = run("backup", "prune", "--dry-run")
    assert told.exit_code == 0
    (one,) = Repository(tmp_path / "backups").sets("redis")
    assert f"{one.set_id} stays: one of the newest" in told.output
    assert str(tmp_path / "disk") in told.output


def test_a_copy_that_cannot_be_made_is_told_and_the_set_is_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "disk").rmdir()
    taken = run("backup", "now", "--store", "redis")
    assert taken.exit_code == 1
    assert "disk" in taken.output
    assert "Traceback" not in taken.output
    assert problems(Repository(tmp_path / "backups").sets("redis")[0]) == ""
    assert run("backup", "now", "--store", "redis", "--no-copy").exit_code == 0


def test_asking_for_what_the_plan_does_not_back_up_is_refused(run: Run) -> None:
    with pytest.raises(PreconditionError, match="no component named nothing"):
        run("backup", "now", "--component", "nothing")
    with pytest.raises(PreconditionError, match="not a component that is backed up"):
        run("backup", "now", "--store", "redis", "--component", "postgres")


def test_ready_tells_what_is_missing_and_the_exit_code_says_whether(run: Run, tmp_path: Path) -> None:
    nothing = run("ready")
    assert nothing.exit_code == 1
    assert "take one: recoup backup now" in " ".join(nothing.output.replace("│", " ").split())
    run("backup", "now", "--store", "database", "--no-verify")
    unproven = run("ready", "--json").output
    assert '"store": "database", "asked": "proven", "met": false' in unproven
    proven = run("backup", "verify", "--restore", "latest")
    assert proven.exit_code == 0, proven.output
    assert "no" not in run("backup", "list", "--store", "database").output.split()
    some = run("ready", "--json")
    assert some.exit_code == 1
    assert '"store": "database", "asked": "proven", "met": true' in some.output
    assert '"store": "database", "asked": "3 copies", "met": true' in some.output
    assert '"store": "database", "asked": "1 elsewhere", "met": true' in some.output
    assert '"store": "redis", "asked": "RPO", "met": false' in some.output
