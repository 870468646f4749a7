"""What a program of a service that is a plain process sees, and whom it runs as."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from recoup.process import Command
from recoup.stacks.process_spec import ServiceSpec


def command_of(
    spec: ServiceSpec,
    argv: tuple[str, ...],
    env: Mapping[str, str],
    secrets: Mapping[str, SecretStr],
    cwd: Path,
) -> Command:
    """Give a command that sees what a container would: a PGSERVICE of the caller's would name another server."""
    return Command(argv, {**environment_of(spec), **env}, secrets, cwd, inherit=False)


def environment_of(spec: ServiceSpec) -> dict[str, str]:
    path = os.pathsep.join([*(str(place) for place in spec.bin), os.environ.get("PATH", os.defpath)])
    return {"PATH": path, "HOME": str(spec.home), "LANG": "C.UTF-8", "TZ": "UTC", **spec.env}


def drop_to(spec: ServiceSpec) -> str | None:
    """Give whom the service's programs run as; None: whoever calls."""
    return spec.user if os.geteuid() == 0 else None


def owner_of(spec: ServiceSpec) -> tuple[int, int] | None:
    """Give user and group id of whom the service's files belong to; None: whoever calls."""
    user = drop_to(spec)
    if user is None:
        return None
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid
