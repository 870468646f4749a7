"""The only place that runs a program to its end: argv list, time-out, group kill, secrets masked."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from pydantic import SecretStr

from recoup.errors import ProgramError
from recoup.secrets import mask

GRACE = timedelta(seconds=5)
_STDERR_KEPT = 64 * 1024


@dataclass(frozen=True)
class Command:
    """A program to run: argv, environment, and the secrets that go into its environment only.

    ``inherit`` adds the environment to the caller's own, of which it does not get what is named in ``without``.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, SecretStr] = field(default_factory=dict)
    cwd: Path | None = None
    inherit: bool = True
    without: frozenset[str] = frozenset()

    def environment(self) -> dict[str, str]:
        """Give what the program sees, secrets in clear."""
        base = {name: value for name, value in os.environ.items() if name not in self.without} if self.inherit else {}
        return {**base, **self.env, **{name: secret.get_secret_value() for name, secret in self.secrets.items()}}

    def shown(self) -> str:
        """Give the command line as a person would type it, secrets as asterisks."""
        pairs = [f"{k}={shlex.quote(v)}" for k, v in self.env.items()] + [f"{k}=********" for k in self.secrets]
        return " ".join([*pairs, shlex.join(self.argv)])


@dataclass(frozen=True)
class Completed:
    """How a program ended; ``stdout`` is empty when it was streamed elsewhere."""

    returncode: int
    stdout: bytes
    stderr: str
    took: timedelta

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace").strip()


def run(
    command: Command,
    *,
    timeout: timedelta,
    stdin: BinaryIO | bytes | None = None,
    stdout: BinaryIO | None = None,
    check: bool = True,
    user: str | None = None,
    grace: timedelta = GRACE,
) -> Completed:
    """Run a program to its end and give its answer.

    Runs in a process group of its own; at the time-out, and when the caller is interrupted, the group gets
    SIGTERM, five seconds of ``grace``, then SIGKILL. ``stdin`` bytes are fed, a file is streamed; ``stdout`` given,
    the output goes there. Raises ProgramError on a missing program, a time-out, or (with ``check``) a non-zero code.
    """
    name = command.argv[0]
    began = time.monotonic()
    secrets = tuple(command.secrets.values())
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as output:
        try:
            child = subprocess.Popen(
                command.argv,
                env=command.environment(),
                cwd=command.cwd,
                stdin=subprocess.PIPE if isinstance(stdin, bytes) else (stdin or subprocess.DEVNULL),
                stdout=stdout or output,
                stderr=errors,
                start_new_session=True,
                user=user,
                extra_groups=[] if user else None,
            )
        except OSError as error:
            raise ProgramError(
                f"{name} could not be started: {error.strerror}",
                returncode=None,
                stderr="",
                state="nothing was run",
                next_step=f"see that {name} is installed and on PATH",
            ) from None
        feeder = _feed(child, stdin) if isinstance(stdin, bytes) else None
        try:
            child.wait(timeout.total_seconds())
            timed_out = False
        except subprocess.TimeoutExpired:
            timed_out = True
            end_group(child, grace)
        except BaseException:
            end_group(child, grace)
            raise
        if feeder:
            feeder.join(timeout=1)
        took = timedelta(seconds=time.monotonic() - began)
        stderr = mask(_tail(errors), secrets)
        if timed_out:
            raise ProgramError(
                f"{name} was ended after {timeout.total_seconds():.0f} s without finishing\n{stderr[-2000:]}".rstrip(),
                returncode=None,
                stderr=stderr,
            )
        if check and child.returncode != 0:
            raise ProgramError(
                f"{name} failed with code {child.returncode}: {stderr[-2000:].strip()}",
                returncode=child.returncode,
                stderr=stderr,
            )
        output.seek(0)
        return Completed(child.returncode, b"" if stdout else output.read(), stderr, took)


@dataclass(frozen=True)
class Background:
    """A program that runs until its block is left."""

    child: subprocess.Popen[bytes]

    def alive(self) -> bool:
        return self.child.poll() is None


@contextmanager
def background(command: Command, *, log: Path) -> Iterator[Background]:
    """Run a program while the block runs, both its outputs appended to a log; its group is ended afterwards.

    Raises ProgramError when it cannot be started.
    """
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(
                command.argv,
                env=command.environment(),
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            raise ProgramError(
                f"{command.argv[0]} could not be started: {error.strerror}", returncode=None, stderr=""
            ) from None
    try:
        yield Background(child)
    finally:
        end_group(child)


def end_group(child: subprocess.Popen[bytes], grace: timedelta = GRACE) -> None:
    """End a child and its whole process group: SIGTERM, grace, SIGKILL."""
    for number, wait in ((signal.SIGTERM, grace.total_seconds()), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            return
        try:
            child.wait(wait)
        except subprocess.TimeoutExpired:
            continue
        return


def _feed(child: subprocess.Popen[bytes], data: bytes) -> threading.Thread:
    def write() -> None:
        assert child.stdin is not None
        try:
            child.stdin.write(data)
            child.stdin.close()
        except BrokenPipeError:
            pass

    feeder = threading.Thread(target=write, daemon=True)
    feeder.start()
    return feeder


def _tail(errors: BinaryIO) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _STDERR_KEPT))
    return errors.read().decode("utf-8", "replace")
