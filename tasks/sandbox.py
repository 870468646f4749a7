"""Sandboxes: whole small platforms to drill on, made in seconds and gone without a trace."""

from __future__ import annotations

import base64
import os
import secrets as tokens
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from recoup.errors import PreconditionError, RecoveryError
from recoup.places import state_home
from recoup.plan import ComposeSite, ProcessSite, Release, Terraform, WalPolicy
from recoup.stacks import proctable
from tasks import sandbox_process
from tasks.embedded import require_parts
from tasks.sandbox_certificate import Authority
from tasks.sandbox_plan import CA, write_plan

Kind = Literal["process", "compose"]
_ATTEMPTS = 3
_MAKING = ".making-"
_OWNER_FILE = "sandbox.json"


@dataclass(frozen=True)
class Sandbox:
    """One running sandbox; ``plan`` is its own plan, with its own ports and secret references."""

    id: str
    kind: Kind
    directory: Path
    plan: Path


class _Owner(BaseModel):
    """Whose sandbox it is; it may be cleaned away when that very process is no more."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    kind: Kind
    pid: int
    start: int
    boot: str

    @property
    def identity(self) -> proctable.Identity:
        return proctable.Identity(self.pid, self.start, self.boot)


def create(
    kind: Kind,
    *,
    policy: WalPolicy | None = None,
    standby: bool = False,
    redis_replica: bool = False,
    backup_nodes: bool = False,
    provisioned: bool = False,
    released: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Sandbox:
    """Give a new sandbox, up and answering at its gateway; sandboxes of dead owners are cleaned away first.

    With a ``policy`` its WAL is received as it is written, by a service of its own; with a ``standby``, which needs a
    policy, a second database follows the first; with ``redis_replica`` a second Redis; ``backup_nodes``: each chain
    has two more nodes. ``provisioned``: what it stands on was made by Terraform. ``released``: its services are
    deployed from a checkout with versions.

    Takes seconds; gives up after 60 with RecoveryError naming the service and its last log lines. Whatever goes
    wrong, an interruption too, nothing is left behind.
    """
    if kind == "process":
        require_parts()
    for gone in sweep():
        progress(f"cleaned away the abandoned sandbox {gone}")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _create(kind, policy, standby, redis_replica, backup_nodes, provisioned, released, progress)
        except sandbox_process.PortLost:
            if attempt == _ATTEMPTS:
                raise
            progress("a port was taken by another program; trying others")
    raise AssertionError("unreachable")


def destroy(sandbox: Sandbox) -> None:
    """Leave nothing of the sandbox: processes, containers, files, shared memory. Safe to repeat."""
    _destroy(sandbox.directory, sandbox.id, sandbox.kind)


def sweep() -> tuple[str, ...]:
    """Clean away the sandboxes whose owner is dead, half-made ones too; gives their ids."""
    gone = []
    root = _root()
    for directory in sorted(root.iterdir()) if root.is_dir() else ():
        owner = _owner(directory)
        if owner is None:
            # Only a teardown that was cut short at its very end leaves a directory without an owner.
            if not directory.name.startswith(_MAKING) or not _being_made(directory):
                shutil.rmtree(directory, ignore_errors=True)
        elif not proctable.alive(owner.identity):
            try:
                _destroy(directory, owner.id, owner.kind)
            except PreconditionError:
                # No engine answers now: its containers can only be removed by a sweep while one does.
                continue
            gone.append(owner.id)
    return tuple(gone)


def _create(
    kind: Kind,
    policy: WalPolicy | None,
    standby: bool,
    redis_replica: bool,
    backup_nodes: bool,
    provisioned: bool,
    released: bool,
    progress: Callable[[str], None],
) -> Sandbox:
    state = state_home()
    _enterable(state / "sandboxes")
    identity = tokens.token_hex(4)
    directory = _claim(identity, kind)
    receiver = policy is not None
    site: ComposeSite | ProcessSite
    terraform: Terraform | None = None
    release: Release | None = None
    try:
        if released:
            from tasks.sandbox_release import make_checkout, release_plan

            release = release_plan(make_checkout(directory), kind)
        if provisioned:
            from tasks.sandbox_terraform import provision

            progress("having Terraform make what it stands on")
            terraform = provision(kind, directory, identity)
        if kind == "process":
            _write_secrets(directory / "secrets")
            _write_certificate(directory)
            url = sandbox_process.bring_up(
                directory,
                identity,
                state,
                progress,
                receiver=receiver,
                standby=standby,
                redis_replica=redis_replica,
                backup_nodes=backup_nodes,
                checkout=release.checkout if release else None,
            )
            site = ProcessSite(directory=directory)
        else:
            from tasks import sandbox_compose

            (directory / "secrets").mkdir(mode=0o700)
            site, url = sandbox_compose.bring_up(
                directory,
                identity,
                progress,
                receiver=receiver,
                standby=standby,
                redis_replica=redis_replica,
                backup_nodes=backup_nodes,
                provisioned=provisioned,
                certificate=_write_certificate(directory),
                checkout=release.checkout if release else None,
            )
        plan = write_plan(directory, identity, site, url, policy, standby, redis_replica, terraform, release)
    except BaseException:
        _destroy(directory, identity, kind)
        raise
    return Sandbox(identity, kind, directory, plan)


def _destroy(directory: Path, identity: str, kind: Kind) -> None:
    if kind == "process":
        sandbox_process.tear_down(directory, identity)
    else:
        from tasks import sandbox_compose

        sandbox_compose.tear_down(identity, directory)
    # The owner's file goes last: a teardown cut short is found and finished by the next sweep.
    for entry in directory.iterdir() if directory.is_dir() else ():
        if entry.name != _OWNER_FILE:
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        raise RecoveryError(
            f"the directory of sandbox {identity} cannot be removed whole",
            state=f"its processes are gone, files are left in {directory}",
            next_step=f"see whose files those are, then remove {directory}",
        )


def _claim(identity: str, kind: Kind) -> Path:
    """Make the sandbox's directory so that there is no moment at which it has no owner."""
    me = proctable.myself()
    making = _root() / f"{_MAKING}{identity}-{me.pid}-{me.start}"
    directory = _root() / identity
    making.mkdir()
    making.chmod(0o755)
    owner = _Owner(id=identity, kind=kind, pid=me.pid, start=me.start, boot=me.boot)
    (making / _OWNER_FILE).write_text(owner.model_dump_json(), encoding="utf-8")
    making.rename(directory)
    return directory


def _owner(directory: Path) -> _Owner | None:
    try:
        return _Owner.model_validate_json((directory / _OWNER_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def _being_made(directory: Path) -> bool:
    _, pid, start = directory.name.removeprefix(_MAKING).split("-")
    return proctable.alive(proctable.Identity(int(pid), int(start), proctable.boot()))


def _write_secrets(place: Path) -> None:
    place.mkdir(mode=0o700)
    values = {name: tokens.token_hex(16) for name in ("db_password", "redis_password", "jwt_secret", "smoke_password")}
    for name, value in {**values, "smoke_user": "smoke"}.items():
        _write_private(place / name, value)


def _write_certificate(directory: Path) -> Path:
    """Write the sandbox's CA, which its plan trusts, and the gateway's certificate with its key, base64 of PEM."""
    authority = Authority.make(f"recoup sandbox {directory.name}")
    (directory / CA).write_bytes(authority.pem)
    issued = authority.issue("127.0.0.1", "localhost")
    place = directory / "secrets" / "tls_pem"
    _write_private(place, base64.b64encode(issued.certificate + issued.key).decode("ascii"))
    return place


def _write_private(place: Path, value: str) -> None:
    with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(value)


def _enterable(directory: Path) -> None:
    """Make the directory and what lacks above it, enterable by the user the database runs as."""
    for place in reversed((directory, *directory.parents)):
        if not place.exists():
            place.mkdir(exist_ok=True)
            place.chmod(0o755)


def _root() -> Path:
    return state_home() / "sandboxes"
