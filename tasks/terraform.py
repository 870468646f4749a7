"""Infrastructure by Terraform: looked at first, planned, the plan saved and shown, and exactly that plan applied."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from recoup.catalog import sha256
from recoup.errors import PreconditionError, ProgramError, RecoveryError
from recoup.plan import Plan, Terraform
from recoup.records import Check, Frozen, Outcome, Subject
from tasks.step import note, step
from tasks.terraform_look import gone, places_of
from tasks.terraform_program import FLAG, Answer, Option, Program
from tasks.terraform_words import Changes, read_plan, refused

# terraform_data, and the reason a plan gives for each change, are there from 1.4 on.
OLDEST = (1, 4)
INSTALL = "https://developer.hashicorp.com/terraform/install"
_VERSION = re.compile(r'"terraform_version": *"(\d+)\.(\d+)')
_QUIET: dict[str, Option] = {"input": False, "no_color": FLAG}


class Planned(Frozen):
    """A saved plan: where it is, its sha256, and what it would do."""

    file: Path
    sha256: str
    changes: Changes

    def __str__(self) -> str:
        return f"{self.changes}; saved plan sha256 {self.sha256[:12]}…"


class Applied(Frozen):
    """What an apply did, by which saved plan, and whether all of it was found to be there."""

    changes: Changes
    sha256: str
    checks: tuple[Check, ...]

    def __str__(self) -> str:
        return f"applied the plan with sha256 {self.sha256}: {self.changes}"


def terraform_of(plan: Plan) -> Terraform | None:
    """Give the plan's Terraform root with its files made absolute; None where it has none."""
    spec = plan.platform.terraform
    if spec is None:
        return None
    files = {name: spec.root / path for name in ("var_file", "backend") if (path := getattr(spec, name))}
    return spec.model_copy(update=files)


@step(timeout=timedelta(minutes=30))
def plan_infrastructure(spec: Terraform, saved: Path, allow_destroy: bool) -> Planned:
    """Look before anything is made, then plan: save the plan, and say what it would create, change and destroy.

    Raises PreconditionError when terraform, its files, providers or state are not there, when somebody holds its lock,
    and, unless allowed, when the plan would destroy anything that is there.
    """
    program = Program(spec)
    _require_program(program)
    _require_files(spec)
    note("terraform init: providers and state")
    options: dict[str, Option] = {}
    if spec.backend:
        options["backend_config"] = [str(spec.backend)]
    if spec.plugins:
        options["plugin_dir"] = str(spec.plugins)
    _ask(program, "init", **_QUIET, **options)
    lost = gone(places_of(_ask(program, "output", json=FLAG, no_color=FLAG).out))
    for address in lost:
        note(f"{address} is gone, whatever Terraform's state says: it is made again")
    return _plan(program, saved, lost, allow_destroy)


@step(timeout=timedelta(hours=6))
def apply_infrastructure(spec: Terraform, planned: Planned) -> Applied:
    """Apply exactly the saved plan, then see that what it made is there; never retried by itself.

    Raises RecoveryError when it fails half-way: what was made stays, and is known to Terraform's state.
    """
    program = Program(spec)
    _require_same(planned)
    note(f"terraform apply: {planned.changes}")
    try:
        answer = program("apply", str(planned.file), **_QUIET, lock_timeout="0s")
    except ProgramError as error:
        raise RecoveryError(
            f"terraform apply did not end: {error.what}", state=_left(program), next_step=_AGAIN
        ) from None
    if answer.code != 0:
        raise refused(program, "terraform apply", answer.err, begun=True, state=_left(program))
    # A saved plan holds every variable in clear, and cannot be applied twice.
    planned.file.unlink(missing_ok=True)
    lost = gone(places_of(_ask(program, "output", json=FLAG, no_color=FLAG).out))
    return Applied(changes=planned.changes, sha256=planned.sha256, checks=(_found(lost),))


_AGAIN = "see whether its lock is still held, then run the same command again: it plans anew and carries on"


def _plan(program: Program, saved: Path, lost: tuple[str, ...], allow_destroy: bool) -> Planned:
    saved.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    options: dict[str, Option] = {"out": str(saved), "replace": list(lost), "lock_timeout": "0s"}
    if program.spec.var_file:
        options["var_file"] = str(program.spec.var_file)
    note("terraform plan")
    _ask(program, "plan", **_QUIET, **options, detailed_exitcode=FLAG)
    os.chmod(saved, 0o600)
    changes = read_plan(_ask(program, "show", str(saved), json=FLAG, no_color=FLAG).out, lost)
    for line in changes.lines:
        note(line)
    if changes.destroyed and not allow_destroy:
        saved.unlink()
        raise PreconditionError(
            f"Terraform would destroy what is there: {', '.join(changes.destroyed)}",
            next_step="see why (a changed variable?); if that is wanted, run it again with --allow-destroy",
        )
    planned = Planned(file=saved, sha256=sha256(saved), changes=changes)
    if not changes.any:
        saved.unlink()
    return planned


def _ask(program: Program, command: str, *arguments: str, **options: Option) -> Answer:
    try:
        answer = program(command, *arguments, **options)
    except ProgramError as error:
        raise PreconditionError(f"terraform {command}: {error.what}", next_step=error.next_step) from None
    if answer.code not in (0, 2):
        raise refused(program, f"terraform {command}", answer.err)
    return answer


def _require_program(program: Program) -> None:
    if not program.spec.root.is_dir() or not any(program.spec.root.glob("*.tf")):
        raise PreconditionError(
            f"there is no Terraform root in {program.spec.root}",
            next_step="correct platform.terraform.root in the plan",
        )
    if shutil.which(program.spec.program) is None:
        raise PreconditionError(
            f"there is no {program.spec.program} on this machine, which provisions the infrastructure",
            next_step=f"install Terraform {OLDEST[0]}.{OLDEST[1]} or newer ({INSTALL}), "
            "or name its path in platform.terraform.program",
        )
    found = _VERSION.search(_ask(program, "version", json=FLAG).out)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        seen = f"{found[1]}.{found[2]}" if found else "of an unknown version"
        raise PreconditionError(
            f"{program.spec.program} is {seen}, and must be {OLDEST[0]}.{OLDEST[1]} or newer",
            next_step="install a newer Terraform, or name it in platform.terraform.program",
        )


def _require_files(spec: Terraform) -> None:
    for name, path in (("var_file", spec.var_file), ("backend", spec.backend)):
        if path and not path.is_file():
            raise PreconditionError(
                f"the file {path} is not there", next_step=f"correct platform.terraform.{name} in the plan"
            )
    if spec.plugins and not spec.plugins.is_dir():
        raise PreconditionError(f"the directory of providers {spec.plugins} is not there")
    if not os.access(spec.root, os.W_OK):
        raise PreconditionError(
            f"{spec.root} cannot be written, and Terraform keeps its working files there",
            next_step="give this user the right, or copy the root to where it has it",
        )


def _require_same(planned: Planned) -> None:
    with suppress(OSError):
        if sha256(planned.file) == planned.sha256:
            return
    raise RecoveryError(
        f"the saved plan {planned.file} is not the one that was shown",
        state="nothing was applied",
        next_step="run the same command again: it plans anew",
    )


def _left(program: Program) -> str:
    """Give, in words, what an apply that failed has left."""
    with suppress(ProgramError):
        answer = program("state list")
        if answer.code == 0:
            made = answer.out.split()
            return f"{len(made)} resources are in Terraform's state and stay: {', '.join(made)}"
    return "what it made stays; its state cannot be read now"


def _found(lost: tuple[str, ...]) -> Check:
    return Check(
        name="infrastructure: what Terraform made is there",
        subject=Subject.STATUS,
        outcome=Outcome.FAILED if lost else Outcome.PASSED,
        expected="all of it",
        seen=f"gone: {', '.join(lost)}" if lost else "all of it",
    )
