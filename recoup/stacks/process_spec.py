"""What a stack of plain child processes consists of, as written in its ``stack.json``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

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
    user by itself, as the entry point of a container does. ``bin`` goes in front of PATH.
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

    @field_validator("stop_signal")
    @classmethod
    def _is_signal(cls, value: str) -> str:
        if value not in signal.Signals.__members__:
            raise ValueError(f"{value} is not a signal")
        return value


class StackSpec(_Spec):
    """A whole stack; ``sandbox`` is the sandbox's id, None when it is none."""

    name: str
    sandbox: str | None = None
    services: tuple[ServiceSpec, ...]
