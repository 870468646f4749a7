"""What a stack of plain child processes consists of, as written in its ``stack.json``."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from recoup import env_file
from recoup.errors import PreconditionError
from recoup.secrets import SecretRef


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Probe(_Spec):
    """How a service's health is asked; times in seconds. ``grace`` is how long a fresh service counts as starting."""

    kind: Literal["tcp", "http", "program"]
    path: str = "/"
    argv: tuple[str, ...] = ()
    interval: float = 0.1
    timeout: float = 2.0
    grace: float = 30.0


class ServiceSpec(_Spec):
    """One service.

    ``home`` is its own directory, where it works: whatever runs in there belongs to the service. ``port`` is the port
    as everybody knows it (5432), ``listens`` the port of this machine it is really on. ``user`` is whom programs run as
    and whom data belongs to, when the caller is root; with ``drops`` the program starts as root and becomes that
    user by itself, as the entry point of a container does. ``bin`` goes in front of PATH. ``code`` is the checkout its
    program is in, of which another version may take the place.
    """

    name: str
    argv: tuple[str, ...] = Field(min_length=1)
    home: Path
    env: dict[str, str] = {}
    secrets: dict[str, SecretRef] = {}
    bin: tuple[Path, ...] = ()
    user: str | None = None
    drops: bool = False
    stop_signal: str = "SIGTERM"
    port: int | None = None
    listens: int | None = None
    data: Path | None = None
    depends_on: tuple[str, ...] = ()
    health: Probe | None = None
    code: Path | None = None

    @field_validator("stop_signal")
    @classmethod
    def _is_signal(cls, value: str) -> str:
        if value not in signal.Signals.__members__:
            raise ValueError(f"{value} is not a signal")
        return value


class StackSpec(_Spec):
    """A whole stack; ``sandbox`` is the sandbox's id, None when it is none.

    What the ``env_file`` says of a variable that a service has counts, when the service is made, for more than its
    ``env``.
    """

    name: str
    sandbox: str | None = None
    env_file: Path | None = None
    services: tuple[ServiceSpec, ...]


def read_spec(directory: Path, code: Path | None = None) -> StackSpec:
    """Read ``directory/stack.json``, programs taken from ``code`` where it is named; PreconditionError on any fault."""
    path = directory / "stack.json"
    try:
        spec = StackSpec.model_validate_json(path.read_bytes())
    except OSError as error:
        raise PreconditionError(
            f"the stack description {path} cannot be read: {error.strerror}",
            next_step="start a sandbox, or correct platform.stack.directory in the plan",
        ) from None
    except ValidationError as error:
        raise PreconditionError(f"the stack description {path} is not valid: {error}") from None
    said = env_file.values(env_file.read(spec.env_file)) if spec.env_file else {}
    services = (one if code is None else from_code(one, code) for one in spec.services)
    return spec.model_copy(update={"services": tuple(_with_variables(one, said) for one in services)})


def _with_variables(spec: ServiceSpec, said: Mapping[str, str]) -> ServiceSpec:
    return spec.model_copy(update={"env": {name: said.get(name, value) for name, value in spec.env.items()}})


def from_code(spec: ServiceSpec, code: Path) -> ServiceSpec:
    """Give the service with its program taken from another directory; one that has no ``code`` as it is."""
    if spec.code is None:
        return spec
    was = re.compile(re.escape(str(spec.code)) + r"(?=[/:]|$)")

    def there(text: str) -> str:
        return was.sub(lambda _: str(code), text)

    env = {name: there(value) for name, value in spec.env.items()}
    return spec.model_copy(update={"argv": tuple(map(there, spec.argv)), "env": env, "code": code})
