"""A stack run by Docker Compose: the docker SDK for containers, the Compose CLI for what concerns the project.

Containers are found by Compose's own labels, so an existing compose file works unmodified.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from docker.models.containers import Container
from pydantic import SecretStr

from recoup.errors import PreconditionError, ProgramError, RecoveryError
from recoup.process import Completed, run
from recoup.stacks import Health, ServiceState
from recoup.stacks.compose_aside import MOVE, Mount, Move, data_mounts, move_directory, move_volume
from recoup.stacks.compose_image import environment, keep, otherwise, secrets_of
from recoup.stacks.compose_project import (
    ASK,
    SANDBOX_LABEL,
    Project,
    asking,
    connect,
    interactive,
    out_of_time,
)
from recoup.stacks.compose_release import ComposeReleases

if TYPE_CHECKING:
    from recoup.plan import ComposeSite

START = timedelta(seconds=120)
CREATE = timedelta(minutes=30)
STOP = timedelta(seconds=30)
COPY = timedelta(minutes=30)
ASIDE_LABEL = "io.recoup.aside"
# Ended as it was told to (SIGTERM). A restart policy would have brought back what ended so by itself.
_IN_ORDER = (0, 143)
_HEALTH = {health.value: health for health in Health}

# Ends every program that carries the mark in its environment; programs started meanwhile are met in the next round.
_END_MARKED = """
for round in 1 2 3 4 5 6 7 8 9 10; do
  left=
  for p in /proc/[0-9]*; do
    if tr '\\0' '\\n' <$p/environ 2>/dev/null | grep -qxF "RECOUP_EXEC=$MARK"; then
      kill -9 "${p#/proc/}" 2>/dev/null && left=1
    fi
  done
  [ -n "$left" ] || exit 0
done
exit 1
"""


class ComposeStack:
    """The services of one Compose project on one engine (DOCKER_HOST, or the default socket; no docker contexts)."""

    def __init__(self, project: Project) -> None:
        self.name = project.name
        self._project = project

    @classmethod
    def open(cls, site: ComposeSite, version: str | None = None, *, there: bool = True) -> ComposeStack:
        """Give the stack of a Compose file; raises PreconditionError when the engine or the file is not there.

        ``version`` is what the file reads as PLATFORM_VERSION; not ``there``: the files are still to be made.
        """
        for path in (site.file, *site.overrides, *((site.env_file,) if site.env_file else ())):
            if there and not path.is_file():
                raise PreconditionError(f"the file {path} is not there", next_step="correct platform.stack in the plan")
        client, engine = connect()
        return cls(Project(site, client, engine, version))

    @cached_property
    def fingerprint(self) -> str:
        with asking("the engine's identity"):
            return f"compose:{str(self._project.client.info()['ID'])[:12]}:{self.name}"

    @property
    def sandbox(self) -> str | None:
        marks = {container.labels.get(SANDBOX_LABEL, "") for container in self._project.containers()}
        return marks.pop() or None if len(marks) == 1 else None

    @property
    def releases(self) -> ComposeReleases:
        return ComposeReleases(self._project)

    @property
    def names(self) -> tuple[str, ...]:
        existing = {one.labels["com.docker.compose.service"] for one in self._project.containers()}
        return tuple(sorted(existing | self._project.defined))

    @property
    def env_file(self) -> Path | None:
        return self._project.env_file

    # -- seeing --------------------------------------------------------------------------------------------

    def services(self) -> tuple[ServiceState, ...]:
        existing: dict[str, list[Container]] = {}
        for container in self._project.containers():
            existing.setdefault(container.labels["com.docker.compose.service"], []).append(container)
        return tuple(_state(name, existing.get(name, [])) for name in sorted({*existing, *self._project.defined}))

    def state(self, service: str) -> ServiceState:
        return _state(service, self._project.of(service))

    def logs(self, service: str, *, tail: int = 100, since: datetime | None = None) -> str:
        with asking(f"the log of {service}"):
            parts = [
                container.logs(tail=tail, since=since.timestamp() if since else None)
                for container in self._project.of(service)
            ]
        return b"".join(parts).decode("utf-8", "replace")

    def inside(self, service: str, port: int) -> tuple[str, int]:
        self._project.of(service)
        return "127.0.0.1", port

    def endpoint(self, service: str, port: int) -> tuple[str, int]:
        container = self._project.running(service, "reach")
        settings = container.attrs["NetworkSettings"]
        for published in (settings.get("Ports") or {}).get(f"{port}/tcp") or ():
            address = published["HostIp"]
            local = urlsplit(self._project.engine).hostname or "127.0.0.1"
            return local if address in ("", "0.0.0.0", "::") else address, int(published["HostPort"])
        if container.attrs["HostConfig"]["NetworkMode"] == "host":
            return "127.0.0.1", port
        for network in settings["Networks"].values():
            if network["IPAddress"]:
                return network["IPAddress"], port
        raise RecoveryError(f"{service} has no address: it is in no network", state="nothing was changed")

    # -- starting and stopping ------------------------------------------------------------------------------

    def create(self, *, timeout: timedelta = CREATE) -> None:
        # Never recreated: what survived may hold what no backup has.
        self._project.compose("create", "--no-build", "--no-recreate", timeout=timeout)

    def start(self, service: str, *, timeout: timedelta = START) -> None:
        containers = self._project.of(service)
        if not containers:
            self._project.compose("up", "--detach", "--no-deps", "--no-recreate", service, timeout=timeout)
            return
        with asking(f"start {service}", state=f"{service} may be down"):
            for container in containers:
                container.start()

    def stop(self, service: str, *, timeout: timedelta = STOP) -> None:
        with asking(f"stop {service}", state=f"{service} may still be running"):
            for container in self._project.of(service):
                container.stop(timeout=int(timeout.total_seconds()))

    def kill(self, service: str) -> None:
        with asking(f"kill {service}", state=f"{service} may still be running"):
            for container in self._project.of(service):
                # To the engine a killed container is one stopped by hand: no restart policy brings it back.
                # One that waits between two restarts has nothing to kill, and a stop ends the waiting.
                if container.status in ("running", "paused"):
                    container.kill()
                    container.wait(timeout=ASK.total_seconds())
                elif container.status == "restarting":
                    container.stop(timeout=0)

    def freeze(self, service: str) -> None:
        with asking(f"freeze {service}", state=f"{service} may stand still"):
            for container in self._project.of(service):
                container.kill(signal="SIGSTOP")

    def restart(self, service: str, *, timeout: timedelta = STOP) -> None:
        containers = self._project.of(service)
        if not containers:
            self.start(service)
        with asking(f"restart {service}", state=f"{service} may be down"):
            for container in containers:
                container.restart(timeout=int(timeout.total_seconds()))

    def recreate(
        self, service: str, *, timeout: timedelta = START, image: str = "", env: Mapping[str, str] = {}
    ) -> None:
        replicas = len(self._project.of(service))
        # What was scaled by hand is scaled back otherwise.
        scale = ("--scale", f"{service}={replicas}") if replicas > 1 else ()
        argv = ("up", "--detach", "--no-deps", "--force-recreate", *scale, service)
        with otherwise(self._project, service, image, env) as also:
            self._project.compose(*argv, timeout=timeout, also=also)

    def environments(self, service: str) -> tuple[Mapping[str, str], ...]:
        return tuple(environment(one) for one in self._project.of(service))

    def image(self, service: str) -> str:
        found = self._project.of(service)
        return str(found[0].attrs["Image"]) if found else ""

    def keep_image(self, service: str) -> str:
        return keep(self._project, service, self._project.existing(service))

    def secrets(self, service: str) -> tuple[SecretStr, ...]:
        return tuple(secret for container in self._project.of(service) for secret in secrets_of(container))

    # -- running programs -----------------------------------------------------------------------------------

    def execute(
        self,
        service: str,
        argv: tuple[str, ...],
        *,
        timeout: timedelta,
        env: Mapping[str, str] = {},
        secrets: Mapping[str, SecretStr] = {},
        stdin: BinaryIO | bytes | None = None,
        stdout: BinaryIO | None = None,
        check: bool = True,
    ) -> Completed:
        container = self._project.running(service, f"run {argv[0]} in")
        mark = uuid.uuid4().hex
        flags = (*interactive(stdin), "--env", f"RECOUP_EXEC={mark}", *_environment(env, secrets))
        command = self._project.command("exec", *flags, str(container.id), *argv, secrets=secrets)
        try:
            done = run(command, timeout=timeout, stdin=stdin, stdout=stdout, check=False)
        except ProgramError as error:
            raise out_of_time(argv, service, error, ended=self._end_marked(container, mark)) from None
        except BaseException:
            self._end_marked(container, mark)
            raise
        return _judged(done, argv, service, check)

    def beside(
        self,
        service: str,
        argv: tuple[str, ...],
        *,
        timeout: timedelta,
        mounts: Iterable[Path] = (),
        env: Mapping[str, str] = {},
        secrets: Mapping[str, SecretStr] = {},
        stdin: BinaryIO | bytes | None = None,
        stdout: BinaryIO | None = None,
        check: bool = True,
    ) -> Completed:
        container = self._project.existing(service)
        binds: list[str] = []
        for place in mounts:
            if not place.is_dir():
                raise PreconditionError(f"the directory {place} is not there", next_step="make it first")
            if not self._project.engine.startswith("unix:"):
                raise PreconditionError(
                    f"the engine {self._project.engine} is on another machine, where {place} is not",
                    next_step="run recoup on the machine of the engine",
                )
            where = place.resolve()
            binds += ["--mount", f'type=bind,"source={where}","target={place.absolute()}"']
        network = f"container:{container.id}" if container.status == "running" else "none"
        # Where the data are: the Compose file may say it otherwise than the image.
        said = [one for one in container.attrs["Config"]["Env"] or () if one.startswith("PGDATA=")]
        own = [part for one in said for part in ("--env", one)]
        flags = ("--network", network, "--volumes-from", str(container.id), *binds, *own, *_environment(env, secrets))
        done = self._project.sidecar(container, flags, argv, service, timeout, secrets, stdin, stdout)
        return _judged(done, argv, f"a sidecar of {service}", check)

    # -- files and data -------------------------------------------------------------------------------------

    def copy_in(self, service: str, source: Path, destination: str) -> None:
        """Copy a file in; inside it belongs to root and keeps its mode."""
        container = self._project.existing(service)
        run(self._project.command("cp", str(source.absolute()), f"{container.id}:{destination}"), timeout=COPY)

    def copy_out(self, service: str, source: str, destination: Path) -> None:
        container = self._project.existing(service)
        run(self._project.command("cp", f"{container.id}:{source}", str(destination.absolute())), timeout=COPY)

    def put_aside(self, service: str, *, label: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", label):
            raise PreconditionError(f"{label!r} cannot be part of a volume's name")
        container = self._project.existing(service)
        if container.status not in ("exited", "created", "dead"):
            raise PreconditionError(
                f"{service} is {container.status}; its data stays where it is", next_step=f"stop {service} first"
            )
        with asking(f"look at the mounts of {service}"):
            variables = environment(container)
            declared = tuple(
                self._project.client.images.get(container.attrs["Image"]).attrs["Config"].get("Volumes") or ()
            )
            mounts = [
                Mount(mount["Type"], mount.get("Name", ""), mount["Source"], mount["Destination"], mount["RW"])
                for mount in container.attrs["Mounts"]
            ]
            moves = [
                self._aside_of(mount, container, label) for mount in data_mounts(mounts, variables, declared, service)
            ]
        for move in moves:
            # Without a user namespace and a security label, as the daemon itself sees its directories.
            flags = ("--network", "none", "--userns", "host", "--security-opt", "label=disable")
            bind = ("--mount", f'type=bind,"source={move.parent}","target={move.parent}"')
            argv = ("sh", "-c", MOVE, "sh", move.source, move.target, move.sign)
            done = self._project.sidecar(container, (*flags, *bind), argv, service, ASK, {}, None, None)
            if done.returncode != 0:
                raise RecoveryError(
                    f"the data of {service} in {move.source} could not be put aside: {done.stderr.strip()[-1000:]}",
                    state=f"the data is whole, in {move.source} or in {move.target}",
                    next_step="try again, or rename it by hand and leave an empty directory there",
                )
        return ", ".join(move.words for move in moves)

    # -- the parts ------------------------------------------------------------------------------------------

    def _aside_of(self, mount: Mount, container: Container, label: str) -> Move:
        if mount.kind == "bind":
            return move_directory(mount.source, label)
        volume = self._project.client.volumes.get(mount.volume).attrs
        options = volume.get("Options") or {}
        if "bind" in options.get("o", "").split(",") and options.get("device"):
            return move_directory(options["device"], label)
        if volume["Driver"] != "local" or options:
            raise PreconditionError(
                f"the volume {mount.volume} is not a plain local one (driver {volume['Driver']}, options {options}), "
                "so it cannot be put aside by renaming",
                next_step="put it aside with the means of its driver, or restore into another volume",
            )
        # The volume's own name begins with the project already, as Compose names it.
        aside = f"{mount.volume.removeprefix(self.name + '_')}_aside_{label}"
        labels = {
            ASIDE_LABEL: label,
            "io.recoup.project": self.name,
            "io.recoup.volume": mount.volume,
            SANDBOX_LABEL: container.labels.get(SANDBOX_LABEL, ""),
        }
        made = self._project.client.volumes.create(name=f"{self.name}_{aside}", driver="local", labels=labels)
        return move_volume(volume["Mountpoint"], mount.volume, str(made.name))

    def _end_marked(self, container: Container, mark: str) -> bool:
        # The mark must not be in the environment of the one that looks for it under the same name.
        command = self._project.command("exec", "--env", f"MARK={mark}", str(container.id), "sh", "-c", _END_MARKED)
        try:
            return run(command, timeout=STOP, check=False).returncode == 0
        except ProgramError:
            return False


def _state(service: str, containers: list[Container]) -> ServiceState:
    """Give the state of the least well of a service's containers."""
    if not containers:
        return ServiceState(service, False, Health.NONE, "never created")
    container = min(containers, key=lambda one: one.status == "running")
    state = container.attrs["State"]
    health = state.get("Health", {}).get("Status", "none")
    running = container.status == "running"
    started = None if state["StartedAt"].startswith("0001-") else _moment(state["StartedAt"])
    return ServiceState(
        service,
        running,
        _HEALTH.get(health, Health.NONE) if running else Health.NONE,
        container.status if running else f"{container.status} (code {state['ExitCode']})",
        None if running else int(state["ExitCode"]),
        started,
        restarts=int(container.attrs.get("RestartCount", 0)),
        looping=container.status == "restarting",
        stopped=container.status == "exited" and int(state["ExitCode"]) in _IN_ORDER and not state["OOMKilled"],
    )


def _moment(text: str) -> datetime:
    # The engine gives nanoseconds, of which Python reads six digits at most.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))


def _environment(env: Mapping[str, str], secrets: Mapping[str, SecretStr]) -> tuple[str, ...]:
    # A secret is given by name only: the client takes its value from its own environment, and no argv shows it.
    plain = [part for name, value in env.items() for part in ("--env", f"{name}={value}")]
    return (*plain, *(part for name in secrets for part in ("--env", name)))


def _judged(done: Completed, argv: tuple[str, ...], where: str, check: bool) -> Completed:
    if check and done.returncode != 0:
        raise ProgramError(
            f"{argv[0]} in {where} failed with code {done.returncode}: {done.stderr[-2000:].strip()}",
            returncode=done.returncode,
            stderr=done.stderr,
        )
    return done
