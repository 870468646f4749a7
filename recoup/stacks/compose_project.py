"""One Compose project on one Docker engine: finding its containers, and running the docker client on it."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import docker
from docker.errors import DockerException, NotFound
from docker.models.containers import Container
from pydantic import SecretStr

from recoup import env_file
from recoup.errors import PreconditionError, ProgramError, RecoveryError
from recoup.process import Command, Completed, run

if TYPE_CHECKING:
    from recoup.plan import ComposeSite

ASK = timedelta(seconds=60)
SANDBOX_LABEL = "io.recoup.sandbox"
SIDECAR_LABEL = "io.recoup.sidecar"
# What the docker client itself runs by; a platform's env file may have such names for its containers.
_OF_THE_CLIENT = frozenset(("PATH", "HOME", "USER", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "SSH_AUTH_SOCK"))
_DEFAULT_ENGINE = "unix:///var/run/docker.sock"


def connect() -> tuple[docker.DockerClient, str]:
    """Give a client of the engine and its address: DOCKER_HOST or the default socket; docker contexts are not read.

    Raises PreconditionError when it does not answer.
    """
    address = os.environ.get("DOCKER_HOST") or _DEFAULT_ENGINE
    try:
        return docker.DockerClient(base_url=address, version="auto", timeout=int(ASK.total_seconds())), address
    except (DockerException, OSError) as error:
        raise PreconditionError(
            f"the Docker engine at {address} does not answer: {_first_line(error)}",
            next_step="see that the engine runs and that you may use it: docker info",
        ) from None


@contextlib.contextmanager
def asking(what: str, *, state: str = "nothing was changed") -> Iterator[None]:
    """Turn the engine's refusals inside the block into a RecoveryError that says what was asked."""
    try:
        yield
    except (DockerException, OSError) as error:
        raise RecoveryError(
            f"the Docker engine refused ({what}): {_first_line(error)}", state=state, next_step="see: docker info"
        ) from None


class Project:
    """One Compose project. ``engine`` is the engine's address, given to the docker client on each call."""

    def __init__(self, site: ComposeSite, client: docker.DockerClient, engine: str, version: str | None = None) -> None:
        self.name = site.project
        self.client = client
        self.engine = engine
        self.env_file = site.env_file
        self._site = site
        self._version = {"PLATFORM_VERSION": version} if version else {}

    def command(self, *argv: str, secrets: Mapping[str, SecretStr] = {}) -> Command:
        # Named here so that a docker context can never send the CLI to another engine than the SDK's.
        return Command(("docker", *argv), {"DOCKER_HOST": self.engine, **self._version}, secrets)

    def compose(self, *argv: str, timeout: timedelta, also: tuple[Path, ...] = ()) -> Completed:
        """Run a Compose command on the project's own files; ``also``: files laid over them this once."""
        return run(self.compose_command(*argv, also=also), timeout=timeout)

    def compose_command(self, *argv: str, also: tuple[Path, ...] = ()) -> Command:
        """Give a Compose command on the project's own files; ``also``: files laid over them this once."""
        paths = (self._site.file, *self._site.overrides, *also)
        files = [part for path in paths for part in ("--file", str(path))]
        env = ["--env-file", str(self._site.env_file)] if self._site.env_file else []
        command = self.command("compose", "--ansi", "never", "--project-name", self.name, *files, *env, *argv)
        # To Compose a variable that somebody exported at night outdoes the file that is the platform's.
        return replace(command, without=self._in_env_file())

    def _in_env_file(self) -> frozenset[str]:
        path = self._site.env_file
        names = env_file.values(env_file.read(path)) if path and path.exists() else ()
        return frozenset(name for name in names if name not in _OF_THE_CLIENT and not name.startswith("DOCKER_"))

    @cached_property
    def defined(self) -> frozenset[str]:
        """The services that the Compose file defines, whether they have a container or not."""
        try:
            return frozenset(self.compose("config", "--services", timeout=ASK).text.split())
        except ProgramError as error:
            raise PreconditionError(
                f"the Compose file {self._site.file} cannot be read by docker compose: {error.stderr.strip()[-1000:]}",
                next_step="see: docker compose config (env file, required variables, Compose v2 plugin)",
            ) from None

    def containers(self, service: str | None = None) -> list[Container]:
        """Give the containers of the project or of one service, the first replica first."""
        labels = [f"com.docker.compose.project={self.name}", "com.docker.compose.oneoff=False"]
        if service is not None:
            labels.append(f"com.docker.compose.service={service}")
        with asking(f"the containers of {self.name}"):
            # A container may be removed between being listed and being looked at.
            found = self.client.containers.list(all=True, filters={"label": labels}, ignore_removed=True)
        return sorted(found, key=lambda one: int(one.labels.get("com.docker.compose.container-number", "1")))

    def of(self, service: str) -> list[Container]:
        """Give a service's containers, none when it was never created; PreconditionError for an unknown service."""
        found = self.containers(service)
        if not found and service not in self.defined:
            raise PreconditionError(
                f"the project {self.name} has no service {service}",
                next_step=f"it has: {', '.join(sorted(self.defined))}",
            )
        return found

    def existing(self, service: str) -> Container:
        found = self.of(service)
        if not found:
            raise RecoveryError(
                f"{service} has no container", state="nothing was changed", next_step=f"start {service} first"
            )
        return found[0]

    def running(self, service: str, purpose: str) -> Container:
        found = self.of(service)
        for container in found:
            if container.status == "running":
                return container
        raise RecoveryError(
            f"cannot {purpose} {service}: it is {found[0].status if found else 'never created'}",
            state="nothing was changed",
            next_step=f"start {service} first",
        )

    def sidecar(
        self,
        container: Container,
        flags: tuple[str, ...],
        argv: tuple[str, ...],
        service: str,
        timeout: timedelta,
        secrets: Mapping[str, SecretStr],
        stdin: BinaryIO | bytes | None,
        stdout: BinaryIO | None,
    ) -> Completed:
        """Run a program in a container of its own, of the same image, as root; it is gone afterwards, come what may."""
        name = f"recoup-beside-{uuid.uuid4().hex[:12]}"
        # No log driver: what a program streams out must not be written to the engine's disk a second time.
        own = ("--rm", "--name", name, "--pull", "never", "--user", "0", "--log-driver", "none", *interactive(stdin))
        mark = container.labels.get(SANDBOX_LABEL, "")
        labels = ("--label", f"{SIDECAR_LABEL}={self.name}", "--label", f"{SANDBOX_LABEL}={mark}")
        image = str(container.attrs["Image"])
        command = self.command("run", *own, *labels, *flags, "--entrypoint", argv[0], image, *argv[1:], secrets=secrets)
        try:
            return run(command, timeout=timeout, stdin=stdin, stdout=stdout, check=False)
        except ProgramError as error:
            raise out_of_time(argv, f"a sidecar of {service}", error, ended=self.remove(name)) from None
        except BaseException:
            self.remove(name)
            raise

    def remove(self, name: str) -> bool:
        """Remove a container by its name, by force; says whether it is gone."""
        # The engine may still be making what the ended client had asked for, so not being there is looked at twice.
        for wait in (0.0, 1.0):
            time.sleep(wait)
            try:
                self.client.containers.get(name).remove(force=True)
            except NotFound:
                continue
            except (DockerException, OSError):
                return False
        return True


def interactive(stdin: BinaryIO | bytes | None) -> tuple[str, ...]:
    return () if stdin is None else ("--interactive",)


def out_of_time(argv: tuple[str, ...], where: str, error: ProgramError, *, ended: bool) -> ProgramError:
    state = "the program was ended" if ended else f"the program may still be running in {where}"
    return ProgramError(f"{argv[0]} in {where}: {error.what}", returncode=None, stderr=error.stderr, state=state)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:500]
