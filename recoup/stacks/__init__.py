"""Stack: the thing that runs the services. One protocol, two implementations (compose.py, process.py)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from pydantic import SecretStr

from recoup.process import Command, Completed
from recoup.records import Frozen
from recoup.release import Version, at, read_pin

if TYPE_CHECKING:
    from recoup.plan import Plan


class Health(StrEnum):
    """What the stack itself says of a service's health; ``NONE`` when it has no health check."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    STARTING = "starting"
    NONE = "none"


@dataclass(frozen=True)
class ServiceState:
    """One service as the stack sees it; ``started`` is aware UTC, None when it never ran.

    ``looping``: the stack is about to start it once more, after it has ended by itself ``restarts`` times. ``stopped``:
    it was ended in good order, by somebody's hand, and nothing brings it back.
    """

    service: str
    running: bool
    health: Health
    status: str
    exit_code: int | None = None
    started: datetime | None = None
    restarts: int = 0
    looping: bool = False
    stopped: bool = False


@dataclass(frozen=True)
class Deployment:
    """What a service runs from: the directory its definition is in, and when it was made, aware UTC."""

    directory: Path
    at: datetime


class Held(Frozen):
    """The image of a service, by id, and the name by which its definition means it; "" where there is none."""

    service: str
    image: str
    name: str = ""


class Releases(Protocol):
    """What a stack can do with whole versions of its services; the stack's definition is that of one version."""

    def deployment(self, service: str) -> Deployment | None:
        """Give what the service runs from, read from the service itself; None when it was never made."""
        ...

    def hold(self, service: str) -> Held:
        """Keep what the service was made from, whatever a build gives its name to."""
        ...

    def give_back(self, held: Held) -> None:
        """Give the definition's name back to the image that had it."""
        ...

    def building(self, services: tuple[str, ...]) -> Command | None:
        """Give the command that builds what this version is made of; None where nothing is built."""
        ...

    def deploying(self, service: str) -> str:
        """Say how the service is made anew from this version."""
        ...

    def once(self, service: str, argv: tuple[str, ...], *, timeout: timedelta, held: Held | None = None) -> Completed:
        """Run a program once, in a new instance of the service as this version defines it, from its image or ``held``.

        Works while the service itself is down. Raises ProgramError when it fails or the time-out passes.
        """
        ...


class Stack(Protocol):
    """What every stack can do. A service name is the name in the Compose file or the process specification.

    Every call raises PreconditionError for an unknown service and RecoveryError when the stack refuses or
    the time-out passes; each is safe to repeat.
    """

    name: str

    @property
    def fingerprint(self) -> str:
        """A text that names this very stack (kind, host, project), kept in each record."""
        ...

    @property
    def sandbox(self) -> str | None:
        """The sandbox's id, read from the running stack itself; None: it is none, and no fault may touch it."""
        ...

    @property
    def releases(self) -> Releases:
        """What it can do with whole versions."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Every service that the definition has, or that is there without it; nothing is asked how it is."""
        ...

    @property
    def env_file(self) -> Path | None:
        """The environment file that the definition takes its variables from; None where it has none."""
        ...

    def services(self) -> tuple[ServiceState, ...]: ...

    def state(self, service: str) -> ServiceState: ...

    def create(self, *, timeout: timedelta = ...) -> None:
        """Make every service that is not there from its definition, without starting any; what is there stays."""
        ...

    def start(self, service: str, *, timeout: timedelta = ...) -> None:
        """Start a service that exists; does not wait for its health."""
        ...

    def stop(self, service: str, *, timeout: timedelta = ...) -> None:
        """Stop a service in an orderly way, then by force at the time-out; a stopped one stays stopped."""
        ...

    def kill(self, service: str) -> None:
        """SIGKILL the service; it stays down until started."""
        ...

    def freeze(self, service: str) -> None:
        """SIGSTOP the service: connections are still taken and never answered. For drills."""
        ...

    def restart(self, service: str, *, timeout: timedelta = ...) -> None:
        """End the service and start it as it was made; ended by force at the time-out."""
        ...

    def recreate(
        self, service: str, *, timeout: timedelta = ..., image: str = "", env: Mapping[str, str] = ...
    ) -> None:
        """Make the service anew from its definition (Compose: up -d --force-recreate --no-deps), data kept.

        ``image``, as ``keep_image`` gave it, and ``env`` are taken instead of what the definition says, until it is
        made anew the next time.
        """
        ...

    def environments(self, service: str) -> tuple[Mapping[str, str], ...]:
        """Give the variables that each instance of the service was made with, passwords perhaps among them."""
        ...

    def image(self, service: str) -> str:
        """Give what the service was made from, by an id that nothing else has; empty when it was never made."""
        ...

    def keep_image(self, service: str) -> str:
        """See that what the service was made from stays there for ``recreate``; gives its id."""
        ...

    def secrets(self, service: str) -> tuple[SecretStr, ...]:
        """Give the secrets that the service was given, as far as they can be told: its log may hold them."""
        ...

    def logs(self, service: str, *, tail: int = 100, since: datetime | None = None) -> str: ...

    def execute(
        self,
        service: str,
        argv: tuple[str, ...],
        *,
        timeout: timedelta,
        env: Mapping[str, str] = ...,
        secrets: Mapping[str, SecretStr] = ...,
        stdin: BinaryIO | bytes | None = None,
        stdout: BinaryIO | None = None,
        check: bool = True,
    ) -> Completed:
        """Run a program inside the running service, standard input and output streamed."""
        ...

    def beside(
        self,
        service: str,
        argv: tuple[str, ...],
        *,
        timeout: timedelta,
        mounts: Iterable[Path] = ...,
        env: Mapping[str, str] = ...,
        secrets: Mapping[str, SecretStr] = ...,
        stdin: BinaryIO | bytes | None = None,
        stdout: BinaryIO | None = None,
        check: bool = True,
    ) -> Completed:
        """Run a program in a one-shot sidecar of the service's own image, in its network and with its volumes.

        Each of ``mounts`` is a directory of this machine, seen by the program at the same absolute path, so the
        argv is the same on every stack. Works while the service is running; the service's own port is reached at
        the address ``inside`` gives.
        """
        ...

    def inside(self, service: str, port: int) -> tuple[str, int]:
        """Where ``port`` of the service is reached from ``beside`` and ``execute``."""
        ...

    def endpoint(self, service: str, port: int) -> tuple[str, int]:
        """Where ``port`` (as the service itself knows it) is reached from this machine, now."""
        ...

    def copy_in(self, service: str, source: Path, destination: str) -> None:
        """Copy a file of this machine into the service, ``destination`` being the file's full path there."""
        ...

    def copy_out(self, service: str, source: str, destination: Path) -> None: ...

    def put_aside(self, service: str, *, label: str) -> str:
        """Move the data of a *stopped* service aside, whole and unchanged, leaving an empty place for new data.

        Gives where the old data is now, in words a person can follow. Repeating it with the same label after
        it was done moves nothing more.
        """
        ...


def open_stack(plan: Plan) -> Stack:
    """Give the stack that the plan names; raises PreconditionError when it cannot be reached.

    After a rollback its services are defined by the version that was proven, until somebody deploys them otherwise.
    """
    pin = read_pin(plan) if plan.platform.release else None
    if pin is None:
        return open_as_planned(plan)
    stack = open_as_planned(at(plan, pin.version, pin.place))
    found = [one.directory for name in pin.services if (one := stack.releases.deployment(name))]
    if not found or any(place.is_relative_to(pin.place) for place in found):
        return stack
    return open_as_planned(plan)


def open_as_planned(plan: Plan, *, there: bool = True) -> Stack:
    """Give the stack as the plan itself defines it, whatever version was proven.

    Not ``there``: its files are still to be made, and only what would be run is asked for.
    """
    from recoup.stacks.compose import ComposeStack
    from recoup.stacks.process import ProcessStack

    stack = plan.platform.stack
    if stack.kind == "compose":
        return ComposeStack.open(stack, plan.platform.version, there=there)
    return ProcessStack.open(stack.directory, stack.code)


def open_at(plan: Plan, version: Version, *, there: bool = True) -> Stack:
    """Give the stack as a version defines it; one without a tag has what the plan calls the version."""
    name = version.name if version.tagged else plan.platform.version or version.name
    return open_as_planned(at(plan, name, version.place), there=there)
