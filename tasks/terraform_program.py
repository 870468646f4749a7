"""The terraform program, driven by python-terraform, whose commands are run where every program is.

As it comes, python-terraform has no time-out, raises on no failure, and reads a state file that may be broken.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr
from python_terraform import IsFlagged
from python_terraform import Terraform as Library

from recoup.plan import Terraform
from recoup.process import Command, run
from recoup.secrets import mask, resolve

# Terraform ends what it has begun and gives its lock back when it is told to stop; killed, it does neither.
GRACE = timedelta(minutes=2)
FLAG = IsFlagged
Option = str | bool | list[str] | type[IsFlagged]


@dataclass(frozen=True)
class Answer:
    """What terraform said, secrets masked; ``code`` is 0, 1 (failed) or, of a plan, 2 (there are changes)."""

    code: int
    out: str
    err: str


class _Runner(Library):  # type: ignore[misc]  # it has no types
    def __init__(self, spec: Terraform) -> None:
        self.secrets = {f"TF_VAR_{name}": resolve(reference) for name, reference in spec.secrets.items()}
        self.patience = spec.timeout
        super().__init__(working_dir=str(spec.root), terraform_bin_path=spec.program)

    def cmd(self, cmd: str, *args: str, **options: Option) -> tuple[int, str, str]:
        argv = tuple(str(word) for word in self.generate_cmd_string(cmd, *args, **options))
        own = {"TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "CHECKPOINT_DISABLE": "1"}
        command = Command(argv, own, self.secrets, Path(self.working_dir))
        done = run(command, timeout=self.patience, check=False, grace=GRACE)
        return done.returncode, mask(done.text, tuple(self.secrets.values())), done.stderr

    def read_state_file(self, file_path: str | None = None) -> None:
        """Read nothing: where the state is, is the back end's affair."""


@dataclass(frozen=True)
class Program:
    """Terraform in the root of a plan."""

    spec: Terraform

    def __call__(self, command: str, *arguments: str, **options: Option) -> Answer:
        """Run one command; raises ProgramError when it cannot be started or its time is up, on no failure."""
        code, out, err = _Runner(self.spec).cmd(command, *arguments, **options)
        return Answer(code, out, err)

    @property
    def secrets(self) -> tuple[SecretStr, ...]:
        return tuple(resolve(reference) for reference in self.spec.secrets.values())

    def by_hand(self, *arguments: str) -> str:
        """Give a command that a person types for this root."""
        return " ".join((self.spec.program, f"-chdir={os.fspath(self.spec.root)}", *arguments))
