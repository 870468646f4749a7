"""Terraform for real: planned, shown, exactly that plan applied; drift, locks, a state that is away, half an apply."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from recoup.errors import PreconditionError, RecoveryError
from recoup.plan import Terraform
from recoup.process import Command, Completed, background, run
from recoup.records import Outcome
from tasks.sandbox_terraform import ROOT
from tasks.terraform import Applied, Planned, apply_infrastructure, plan_infrastructure
from tasks.terraform_look import MARK
from tests.stack_behaviour import eventually
from tests.terraform_state import Backend, state_backend

pytestmark = pytest.mark.usefixtures("terraform")
SOON = timedelta(minutes=1)


@dataclass
class Root:
    """A root of a test's own, with two directories to make."""

    place: Path
    spec: Terraform

    @property
    def homes(self) -> Path:
        return self.place / "homes"

    def write(self, *names: str, sandbox: str = "mine") -> None:
        values: dict[str, object] = {"sandbox": sandbox, "stack": "process", "root": str(self.homes)}
        values |= {"directories": dict.fromkeys(names, "")}
        (self.spec.root / "test.tfvars.json").write_text(json.dumps(values))

    def plan(self, *, allow_destroy: bool = False) -> Planned:
        return plan_infrastructure.fn(self.spec, self.place / "saved" / "x.tfplan", allow_destroy)

    def apply(self, *, allow_destroy: bool = False) -> Applied:
        return apply_infrastructure.fn(self.spec, self.plan(allow_destroy=allow_destroy))

    def by_hand(self, *words: str, check: bool = True) -> Completed:
        return run(Command(("terraform", f"-chdir={self.spec.root}", *words)), timeout=SOON, check=check)

    def state(self) -> set[str]:
        return set(self.by_hand("state", "list").text.split())


def address(name: str) -> str:
    return f'terraform_data.place["directory-{name}"]'


@pytest.fixture
def root(tmp_path: Path) -> Root:
    where = tmp_path / "root"
    shutil.copytree(ROOT, where, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    made = Root(tmp_path, Terraform(root=where, var_file=where / "test.tfvars.json"))
    made.write("a", "b")
    return made


def test_what_was_shown_is_applied_and_again_nothing_is_left_to_do(root: Root) -> None:
    planned = root.plan()
    assert planned.changes.created == (address("a"), address("b"))
    assert not root.homes.exists()
    assert planned.file.stat().st_mode & 0o077 == 0
    applied = apply_infrastructure.fn(root.spec, planned)
    assert planned.sha256 in str(applied)
    assert [check.outcome for check in applied.checks] == [Outcome.PASSED]
    assert root.state() == {address("a"), address("b")}
    assert {path.name for path in root.homes.iterdir()} == {"a", "b"}
    assert not planned.file.exists(), "it holds every variable in clear"
    (root.homes / "a" / "data").write_text("of a service")
    again = root.plan()
    assert not again.changes.any
    assert (root.homes / "a" / "data").read_text() == "of a service"


def test_what_somebody_removed_is_made_again_and_nothing_else_is_touched(root: Root) -> None:
    root.apply()
    (root.homes / "a" / "data").write_text("of a service")
    shutil.rmtree(root.homes / "b")
    # Terraform by itself sees nothing: that is why recoup looks.
    assert "No changes" in root.by_hand("plan", "-var-file=test.tfvars.json").text
    planned = root.plan()
    assert planned.changes.lines == (f"make again {address('b')}",)
    assert apply_infrastructure.fn(root.spec, planned).checks[0].outcome is Outcome.PASSED
    assert (root.homes / "b" / MARK).read_text().strip() == "mine"
    assert (root.homes / "a" / "data").read_text() == "of a service"


def test_destroy_removes_what_is_this_sandboxs_and_leaves_what_is_not(root: Root) -> None:
    root.apply()
    (root.homes / "b" / MARK).write_text("another\n")
    (root.homes / "b" / "data").write_text("of another")
    refused = root.by_hand("destroy", "-auto-approve", "-var-file=test.tfvars.json", check=False)
    assert refused.returncode == 1
    assert "belongs to another, not to mine: it is left" in refused.text + refused.stderr
    assert not (root.homes / "a").exists()
    assert (root.homes / "b" / "data").read_text() == "of another"
    assert root.state() == {address("b")}
    (root.homes / "b" / MARK).write_text("mine\n")
    root.by_hand("destroy", "-auto-approve", "-var-file=test.tfvars.json")
    assert root.state() == set()
    assert not (root.homes / "b").exists()


def test_nothing_that_is_there_is_destroyed_unless_it_is_allowed(root: Root) -> None:
    root.apply()
    root.write("a")
    with pytest.raises(PreconditionError, match="would destroy") as caught:
        root.plan()
    assert address("b") in caught.value.what
    assert "--allow-destroy" in caught.value.next_step
    assert (root.homes / "b").is_dir()
    assert not list((root.place / "saved").iterdir())
    assert root.apply(allow_destroy=True).changes.destroyed == (address("b"),)
    assert not (root.homes / "b").exists()


def test_an_apply_that_failed_half_way_is_gone_on_with(root: Root) -> None:
    (root.homes / "b").mkdir(parents=True)
    (root.homes / "b" / "data").write_text("of somebody else")
    with pytest.raises(RecoveryError, match="belongs to nobody") as caught:
        root.apply()
    assert address("a") in caught.value.state
    assert "run the same command again" in caught.value.next_step
    assert (root.homes / "b" / "data").read_text() == "of somebody else"
    shutil.rmtree(root.homes / "b")
    (root.homes / "a" / "data").write_text("of a service")
    planned = root.plan()
    # Terraform holds what failed for tainted, and would replace it: it is gone, so nothing is destroyed.
    assert set(planned.changes.lines) == {f"make again {address('b')}"}
    apply_infrastructure.fn(root.spec, planned)
    assert not root.plan().changes.any
    assert (root.homes / "a" / "data").read_text() == "of a service"


def test_a_plan_that_was_changed_since_it_was_shown_is_not_applied(root: Root) -> None:
    planned = root.plan()
    with planned.file.open("ab") as file:
        file.write(b"x")
    with pytest.raises(RecoveryError, match="not the one that was shown"):
        apply_infrastructure.fn(root.spec, planned)
    assert not root.homes.exists()


def test_a_plan_that_is_older_than_the_state_is_not_applied(root: Root) -> None:
    planned = root.plan()
    root.by_hand("apply", "-auto-approve", "-var-file=test.tfvars.json")
    with pytest.raises(RecoveryError, match="stale"):
        apply_infrastructure.fn(root.spec, planned)


def elsewhere(root: Root, server: Backend) -> Root:
    """Have the root keep its state in the server."""
    text = f'terraform {{\n  backend "http" {{\n    address = "{server.url}"\n    lock_address = "{server.url}"\n'
    (root.spec.root / "backend.tf").write_text(f'{text}    unlock_address = "{server.url}"\n  }}\n}}\n')
    return root


def test_a_lock_that_is_held_is_told_and_never_broken(root: Root) -> None:
    with state_backend() as server:
        elsewhere(root, server).apply()
        shutil.rmtree(root.homes / "a")
        left = server.leave_a_lock()
        with pytest.raises(PreconditionError) as caught:
            root.plan()
        assert "Terraform's state is locked by" in caught.value.what
        assert server.lock, "it was unlocked"
        assert not (root.homes / "a").exists()
        _, _, command = caught.value.next_step.partition("any more: ")
        argv = shlex.split(command)
        assert argv[2:] == ["force-unlock", left]
        run(Command((*argv[:3], "-force", *argv[3:])), timeout=SOON)
        root.apply()
        assert (root.homes / "a").is_dir()


def test_who_holds_the_lock_is_told_and_since_when(root: Root, tmp_path: Path) -> None:
    (root.spec.root / "slow.tf").write_text(SLOW)
    root.by_hand("init")
    apply = Command(("terraform", f"-chdir={root.spec.root}", "apply", "-auto-approve", "-var-file=test.tfvars.json"))
    with background(apply, log=tmp_path / "log"):
        eventually("it is locked", (root.spec.root / ".terraform.tfstate.lock.info").exists)
        held = json.loads((root.spec.root / ".terraform.tfstate.lock.info").read_text())
        with pytest.raises(PreconditionError) as caught:
            root.plan()
    assert f"locked by {held['Who']} since {held['Created'][:10]}" in caught.value.what
    assert "(apply)" in caught.value.what
    assert f"force-unlock {held['ID']}" in caught.value.next_step


def test_a_state_that_cannot_be_reached_changes_nothing(root: Root) -> None:
    with state_backend() as server:
        elsewhere(root, server).apply()
    shutil.rmtree(root.homes / "a")
    with pytest.raises(PreconditionError, match="state cannot be reached"):
        root.plan()
    assert not (root.homes / "a").exists()


def test_a_provider_that_cannot_be_had_is_told_as_that(root: Root, tmp_path: Path) -> None:
    (root.spec.root / "needs.tf").write_text('resource "aws_s3_bucket" "one" {}\n')
    (tmp_path / "plugins").mkdir()
    root.spec = root.spec.model_copy(update={"plugins": tmp_path / "plugins"})
    with pytest.raises(PreconditionError, match="a provider cannot be had"):
        root.plan()
    assert not root.homes.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"program": "no-such-terraform"}, "there is no no-such-terraform on this machine"),
        ({"root": Path("/nowhere")}, "no Terraform root in /nowhere"),
        ({"var_file": Path("/nowhere/x.tfvars")}, "/nowhere/x.tfvars is not there"),
        ({"backend": Path("/nowhere/x.hcl")}, "/nowhere/x.hcl is not there"),
        ({"plugins": Path("/nowhere")}, "providers /nowhere is not there"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_made(root: Root, change: dict[str, object], said: str) -> None:
    root.spec = root.spec.model_copy(update=change)
    with pytest.raises(PreconditionError, match=said):
        root.plan()
    assert not root.homes.exists()


def test_a_terraform_that_is_too_old_is_refused(root: Root, tmp_path: Path) -> None:
    old = tmp_path / "old-terraform"
    old.write_text('#!/bin/sh\necho \'{"terraform_version": "1.3.9"}\'\n')
    old.chmod(0o755)
    root.spec = root.spec.model_copy(update={"program": str(old)})
    with pytest.raises(PreconditionError, match=r"is 1\.3, and must be 1\.4 or newer"):
        root.plan()


def test_broken_text_in_a_root_gives_no_traceback(root: Root) -> None:
    (root.spec.root / "terraform.tfstate").write_text("{ not a state")
    with pytest.raises(PreconditionError):
        root.plan()


LEAKY = """
variable "token" { type = string }
resource "terraform_data" "leaky" {
  provisioner "local-exec" {
    command     = "tr '\\\\0' ' ' </proc/$PPID/cmdline; echo; echo the token is $TOKEN; exit 1"
    environment = { TOKEN = var.token }
  }
}
"""


def test_a_secret_is_in_the_environment_alone_and_never_told(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    (root.spec.root / "leaky.tf").write_text(LEAKY)
    monkeypatch.setenv("A_TOKEN", "s3cret-of-a-test")
    root.spec = root.spec.model_copy(update={"secrets": {"token": "env:A_TOKEN"}})
    with pytest.raises(RecoveryError, match="the token is \\*\\*\\*") as caught:
        root.apply()
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in caught.value.what + caught.value.state
    assert "apply" in caught.value.what, "the argument list was not seen"


SLOW = """
resource "terraform_data" "slow" {
  provisioner "local-exec" {
    command = "test -e go || sleep 60"
  }
}
"""


def test_an_apply_that_takes_too_long_is_ended_and_gives_its_lock_back(root: Root) -> None:
    with state_backend() as server:
        elsewhere(root, server)
        (root.spec.root / "slow.tf").write_text(SLOW)
        planned = root.plan()
        short = root.spec.model_copy(update={"timeout": timedelta(seconds=3)})
        with pytest.raises(RecoveryError, match="did not end"):
            apply_infrastructure.fn(short, planned)
        assert not server.lock
        (root.spec.root / "go").touch()
        root.apply()
        assert "terraform_data.slow" in root.state()


@pytest.mark.skipif("RECOUP_TF_PLUGINS" not in os.environ, reason="RECOUP_TF_PLUGINS names no directory of providers")
def test_the_root_for_aws_is_valid(tmp_path: Path) -> None:
    for file in (ROOT.parent / "aws").glob("*.tf"):
        shutil.copy(file, tmp_path)
    terraform = ("terraform", f"-chdir={tmp_path}")
    plugins = f"-plugin-dir={os.environ['RECOUP_TF_PLUGINS']}"
    run(Command((*terraform, "init", "-backend=false", plugins)), timeout=SOON)
    run(Command((*terraform, "validate")), timeout=SOON)


def test_the_roots_are_formatted_as_terraform_formats_them() -> None:
    for where in (ROOT, ROOT.parent / "aws"):
        if where.is_dir():
            checked = run(Command(("terraform", "fmt", "-check", "-diff", str(where))), timeout=SOON, check=False)
            assert checked.returncode == 0, checked.text + os.linesep + checked.stderr
