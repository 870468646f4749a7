"""A sandbox has a small real checkout of its own, from the command line too."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from deployments.backup_commands import backup_now
from deployments.configuration_commands import recover_configuration_command
from recoup.catalog import Repository
from recoup.errors import PreconditionError
from recoup.plan import ConfigurationComponent, Plan, load_plan
from recoup.secrets import resolve
from tasks.sandbox_configuration import make_configuration
from tests.configuration_checkout import PLAN, git, tree

COMMANDS = typer.Typer()
COMMANDS.command("recover")(recover_configuration_command)
COMMANDS.command("backup")(backup_now)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = load_plan(PLAN)
    component = plan.components["configuration"]
    assert isinstance(component, ConfigurationComponent)
    made = make_configuration(component, tmp_path)
    platform = plan.platform.model_copy(update={"repository": tmp_path / "sets", "state": tmp_path / "state"})
    whole = plan.model_copy(update={"platform": platform, "components": {**plan.components, "configuration": made}})
    (tmp_path / "plan.yaml").write_text(whole.dump_yaml())
    # Read back, so that it is a plan that holds to every rule.
    return load_plan(tmp_path / "plan.yaml")


def test_the_commands_back_up_show_and_bring_back(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "")
    root = tmp_path / "configuration"
    good = tree(root)
    option = ["--plan", str(tmp_path / "plan.yaml")]
    run = CliRunner().invoke
    assert "published" in run(COMMANDS, ["backup", "--store", "configuration", *option], catch_exceptions=False).output
    assert "unchanged" in run(COMMANDS, ["backup", "--store", "configuration", *option], catch_exceptions=False).output
    (one,) = Repository(plan.platform.repository).sets("configuration")
    assert one.verified is not None
    assert one.verified.passed
    (root / "nginx/nginx.conf").write_text("broken\n")
    broken = tree(root)
    shown = run(COMMANDS, ["recover", *option, "--dry-run"], catch_exceptions=False).output
    assert "-broken" in shown
    with pytest.raises(PreconditionError, match="must be confirmed"):
        run(COMMANDS, ["recover", *option], catch_exceptions=False)
    assert tree(root) == broken
    done = run(COMMANDS, ["recover", *option, "--yes"], catch_exceptions=False)
    # There is no platform here that could be asked whether users are served.
    assert done.exit_code == 1
    assert "UNPROVEN" in done.output
    assert {name: tree(root)[name] for name in good} == good


def test_its_identity_is_private_and_its_secrets_are_in_no_commit(plan: Plan, tmp_path: Path) -> None:
    _, component = plan.configuration()
    assert component.identity is not None
    assert resolve(component.identity).get_secret_value().startswith("AGE-SECRET-KEY-1")
    assert (tmp_path / "secrets/configuration_identity").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "configuration/.env.production").stat().st_mode & 0o777 == 0o600
    assert ".env.production" not in git(tmp_path / "configuration", "ls-files").split()


def test_where_git_is_not_installed_it_is_a_plain_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert shutil.which("git") is None
    component = load_plan(PLAN).components["configuration"]
    assert isinstance(component, ConfigurationComponent)
    made = make_configuration(component, tmp_path)
    assert not (made.checkout / ".git").exists()
    assert os.listdir(made.checkout / "nginx") == ["nginx.conf"]
