"""The sandbox platform under Docker Compose: brought up whole, and taken away without a trace."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import docker
from docker.errors import DockerException, NotFound
from pydantic import SecretStr

from recoup.errors import PreconditionError, ProgramError, RecoveryError
from recoup.plan import ComposeSite
from recoup.process import Command, run
from recoup.secrets import resolve
from recoup.stacks import Health
from recoup.stacks.compose import ComposeStack
from recoup.stacks.compose_image import kept_name
from recoup.stacks.compose_project import SANDBOX_LABEL, connect
from tasks.sandbox_process import free_ports, wal_directory

SANDBOX = Path(__file__).resolve().parent.parent / "infra" / "sandbox"
CONTINUOUS = SANDBOX.parent / "postgres" / "compose.continuous.yaml"
STANDBY = CONTINUOUS.with_name("compose.standby.yaml")
REDIS_REPLICA = SANDBOX.parent / "redis" / "compose.replica.yaml"
BACKUP_NODES = SANDBOX / "compose.nodes.yaml"
PROVISIONED = SANDBOX / "compose.provisioned.yaml"
MONITORING = SANDBOX.parent / "monitoring"
BUILD, UP = timedelta(minutes=30), timedelta(minutes=5)
_ROUNDS = 5
_CURRENT = "current"


def bring_up(
    directory: Path,
    sandbox_id: str,
    progress: Callable[[str], None],
    *,
    receiver: bool = False,
    standby: bool = False,
    redis_replica: bool = False,
    backup_nodes: bool = False,
    provisioned: bool = False,
    certificate: Path | None = None,
    checkout: Path | None = None,
) -> tuple[ComposeSite, str]:
    """Start a sandbox and give its site and the gateway's URL, which has TLS where there is a certificate.

    With a ``checkout`` it is that one's files which define it, and its services' images are built from there.

    Writes into ``directory`` the env file (``compose.env``) and the secret files ``secrets/db_password``,
    ``secrets/smoke_user``, ``secrets/smoke_password``, all for the owner alone. What a failure or an interruption left
    on the engine is taken away again.
    """
    client, engine = connect()
    progress("looking for the sandbox's images, building them where they are missing")
    images = _images(engine)
    base = images["RECOUP_APP_IMAGE"]
    # A name of this sandbox's own, which a drill may give to another image as a release does.
    client.images.get(images["RECOUP_APP_IMAGE"]).tag(_release(sandbox_id), tag=_CURRENT)
    images["RECOUP_APP_IMAGE"] = f"{_release(sandbox_id)}:{_CURRENT}"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Of our own choosing they stay the same when a container is stopped and started; those the engine picks do not.
    port, tls_port, n3, x, backups, prometheus = free_ports(6)
    public = {
        "RECOUP_SANDBOX_ID": sandbox_id,
        "RECOUP_PREFIX": f"{sandbox_id}-",
        "RECOUP_PROJECT": f"recoup-{sandbox_id}",
        **images,
        "RECOUP_APP_BASE": base,
        "GATEWAY_PORT": str(port),
        "GATEWAY_TLS_PORT": str(tls_port),
        "NEO_N3_PORT": str(n3),
        "NEO_X_PORT": str(x),
        "NEO_BACKUP_PORT": str(backups),
        "NEO_N3_RPC_URL": "http://neo-n3-rpc:8080",
        "NEO_X_RPC_URL": "http://neo-x-rpc:8080",
        "PROMETHEUS_PORT": str(prometheus),
        "DB_NAME": "neo_service_layer",
        "DB_USER": "neo",
        "SMOKE_USER": "smoke",
        "RECOUP_SCRIPTS": str(CONTINUOUS.parent),
        # Not by its place: a version's checkout has the Compose file and nothing around it.
        "RECOUP_MONITORING": str(MONITORING),
        "RECOUP_WAL": str(wal_directory(directory)),
        **({"RECOUP_DB_HOST": "postgres,postgres-standby", "RECOUP_DB_PORT": "5432,5433"} if standby else {}),
    }
    hidden = {
        name: SecretStr(secrets.token_hex(24))
        for name in ("DB_PASSWORD", "REDIS_PASSWORD", "JWT_SECRET", "SMOKE_PASSWORD")
    }
    if certificate:
        hidden["TLS_PEM"] = resolve(f"file:{certificate}")
    env_file = directory / "compose.env"
    values = {**public, **{name: value.get_secret_value() for name, value in hidden.items()}}
    _private(env_file, "".join(f"{name}={value}\n" for name, value in values.items()))
    kept = directory / "secrets"
    kept.mkdir(mode=0o700, exist_ok=True)
    for name in ("DB_PASSWORD", "SMOKE_USER", "SMOKE_PASSWORD"):
        _private(kept / name.lower(), values[name])
    wanted = {CONTINUOUS: receiver, STANDBY: standby, REDIS_REPLICA: redis_replica, BACKUP_NODES: backup_nodes}
    overrides = tuple(path for path, here in {**wanted, PROVISIONED: provisioned}.items() if here)
    if checkout:
        overrides += (checkout / "compose.release.yaml",)
    file = (checkout or SANDBOX) / "compose.yaml"
    site = ComposeSite(file=file, project=f"recoup-{sandbox_id}", env_file=env_file, overrides=overrides)
    progress("starting the sandbox's containers")
    try:
        _up(site, engine, public, hidden, build=checkout is not None)
    except BaseException:
        tear_down(sandbox_id, directory)
        raise
    return site, f"https://127.0.0.1:{tls_port}" if certificate else f"http://127.0.0.1:{port}"


def tear_down(sandbox_id: str, directory: Path) -> None:
    """Remove a sandbox's containers, networks and volumes (those put aside too) and its secrets in ``directory``.

    Can be repeated, also for a sandbox that was never whole.
    """
    remove_from_engine(sandbox_id, images=True)
    (directory / "compose.env").unlink(missing_ok=True)
    for name in ("db_password", "smoke_user", "smoke_password", "tls_pem"):
        (directory / "secrets" / name).unlink(missing_ok=True)


def remove_from_engine(sandbox_id: str, *, images: bool = False) -> None:
    """Remove a sandbox's containers, networks and volumes, those put aside too; its images' names where wanted.

    Can be repeated. Images are what a registry would still have when a host is lost.
    """
    if not sandbox_id:
        raise PreconditionError("a sandbox without an id cannot be told from what is no sandbox")
    client, _ = connect()
    mine = {"label": f"{SANDBOX_LABEL}={sandbox_id}"}
    for _round in range(_ROUNDS):
        try:
            for container in client.containers.list(all=True, filters={**mine}, ignore_removed=True):
                _gone(lambda one=container: one.remove(force=True, v=True))  # type: ignore[misc]
            for network in client.networks.list(filters=mine):
                _gone(network.remove)
            for volume in client.volumes.list(filters=mine):
                _gone(lambda one=volume: one.remove(force=True))  # type: ignore[misc]
            if images:
                _forget_images(client, sandbox_id)
            if sandbox_id not in _marked():
                break
        except (DockerException, OSError) as error:
            last = error
    else:
        raise RecoveryError(
            f"the sandbox {sandbox_id} could not be removed whole: {last}",
            state="some of its containers, networks or volumes are left",
            next_step=f"docker ps --all --filter label={SANDBOX_LABEL}={sandbox_id}",
        )


def release_bad_image(sandbox_id: str) -> None:
    """Give the name of the sandbox's application image to one that ends as soon as it is started."""
    client, _ = connect()
    good = client.images.get(f"{_release(sandbox_id)}:{_CURRENT}")
    made = client.containers.create(good, labels={SANDBOX_LABEL: sandbox_id})
    try:
        made.commit(repository=_release(sandbox_id), tag=_CURRENT, changes='ENTRYPOINT ["false"]')
    finally:
        made.remove(force=True)


def abandoned() -> tuple[str, ...]:
    """Give the ids of all sandboxes of which something is on the engine, running or not; none without an engine."""
    try:
        return tuple(sorted(_marked()))
    except PreconditionError:
        return ()


def _release(sandbox_id: str) -> str:
    return f"recoup-sandbox/release-{sandbox_id}"


def _forget_images(client: docker.DockerClient, sandbox_id: str) -> None:
    """Take the names away that only this sandbox gave; an image that nobody else names goes with its last one."""
    for repository in (_release(sandbox_id), kept_name(f"recoup-{sandbox_id}")):
        for image in client.images.list(name=repository):
            for tag in image.tags:
                if tag.startswith(f"{repository}:"):
                    _gone(lambda tag=tag: client.images.remove(tag, force=True))  # type: ignore[misc]
    for image in client.images.list(all=True, filters={"label": f"{SANDBOX_LABEL}={sandbox_id}"}):
        _gone(lambda image=image: client.images.remove(image.id, force=True))  # type: ignore[misc]


def _marked() -> set[str]:
    client, _ = connect()
    marked = {"label": SANDBOX_LABEL}
    labels = [
        container.labels for container in client.containers.list(all=True, filters={**marked}, ignore_removed=True)
    ]
    labels += [network.attrs.get("Labels") or {} for network in client.networks.list(filters=marked)]
    labels += [volume.attrs.get("Labels") or {} for volume in client.volumes.list(filters=marked)]
    return {one[SANDBOX_LABEL] for one in labels if one.get(SANDBOX_LABEL)}


def _images(engine: str) -> dict[str, str]:
    try:
        built = run(Command((str(SANDBOX / "build-images"),), {"DOCKER_HOST": engine}), timeout=BUILD)
    except ProgramError as error:
        raise PreconditionError(
            f"the sandbox's images could not be built: {error.what}",
            next_step="run infra/sandbox/build-images by hand and see what it says",
        ) from None
    return dict(line.split("=", 1) for line in built.text.splitlines())


def _up(site: ComposeSite, engine: str, public: dict[str, str], hidden: dict[str, SecretStr], *, build: bool) -> None:
    argv = (
        "docker", "compose", "--ansi", "never", "--project-name", site.project, "--file", str(site.file),
        *(part for path in site.overrides for part in ("--file", str(path))),
        "--env-file", str(site.env_file), "up", "--detach", "--quiet-pull", "--build" if build else "--no-build",
        "--wait", "--wait-timeout", str(int(UP.total_seconds()) - 30),
    )  # fmt: skip
    # To Compose a variable of the environment outdoes the env file; given both ways, a stray one changes nothing.
    try:
        run(Command(argv, {**public, "DOCKER_HOST": engine}, hidden), timeout=UP)
    except ProgramError as error:
        raise RecoveryError(
            f"the sandbox {site.project} did not become healthy: {error.what[-500:]}\n{_last_words(site)}".rstrip(),
            state="what was started of it is removed again",
        ) from None


def _last_words(site: ComposeSite) -> str:
    """Give the log's end of every service that is not well."""
    stack = ComposeStack.open(site)
    ill = [state for state in stack.services() if state.health is not Health.HEALTHY]
    return "\n".join(f"-- {one.service} ({one.status}):\n{stack.logs(one.service, tail=15)}" for one in ill)


def _gone(remove: Callable[[], object]) -> None:
    try:
        remove()
    except NotFound:
        return


def _private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
