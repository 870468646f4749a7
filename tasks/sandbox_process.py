"""The embedded sandbox: the platform's services as child processes, each sandbox with its own ports and passwords."""

from __future__ import annotations

import os
import pwd
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from recoup.errors import PreconditionError, RecoveryError
from recoup.stacks import Health, ServiceState, proctable
from recoup.stacks.process import ProcessStack
from recoup.stacks.process_probe import answers
from recoup.stacks.process_spec import Probe, ServiceSpec, StackSpec
from tasks.embedded import open_to_all, postgres_programs, redis_server, unprivileged

DEADLINE = timedelta(seconds=60)
DATABASE = "neo_service_layer"
DATABASE_USER = "neo"
HTTP_PORT = 8080
GATEWAY = "api-gateway"
RECEIVER = "wal-receiver"
STANDBY, STANDBY_PORT = "postgres-standby", 5433
REDIS_REPLICA = "redis-replica"
# Two more nodes of each chain, in one process; only drills of chains need them.
BACKUP_NODES = "neo-backup-rpc"
ENV_FILE = "platform.env"
_RESOURCES = Path(__file__).resolve().parent.parent / "infra" / "sandbox"
# sun_path holds 108 bytes with its final zero; the longest name in the directory is ".s.PGSQL.65535.lock".
_SOCKET_PATH_MAX = 107 - len("/.s.PGSQL.65535.lock")
_APPLICATIONS = {
    "records-service": ("records", ("postgres",)),
    "accounts-service": ("accounts", ("postgres",)),
    "neo-n3-rpc": ("rpc-n3", ()),
    "neo-x-rpc": ("rpc-x", ()),
    GATEWAY: ("gateway", ("redis", "records-service", "accounts-service")),
}
APPLICATION_HOMES = tuple(_APPLICATIONS)
_WITH_BACKUP_NODES = {BACKUP_NODES: ("rpc-backups", ())}


_SECRETS = ("db_password", "redis_password", "jwt_secret", "smoke_user", "smoke_password")


class PortLost(RecoveryError):
    """Another program took a port between its choice and its use."""


def wal_directory(directory: Path) -> Path:
    """Give where the WAL of a sandbox is received."""
    return directory / "services" / RECEIVER / "wal"


@dataclass(frozen=True)
class _Ports:
    postgres: int
    standby: int
    redis: int
    redis_replica: int
    door: int
    applications: dict[str, int]


def bring_up(
    directory: Path,
    identity: str,
    state: Path,
    progress: Callable[[str], None],
    *,
    receiver: bool = False,
    standby: bool = False,
    redis_replica: bool = False,
    backup_nodes: bool = False,
    checkout: Path | None = None,
) -> str:
    """Start every service of a new sandbox in ``directory`` and give the gateway's URL once its health is good.

    Users come in with TLS, by ``secrets/tls_pem``; the gateway's port of the stack itself is plain. The application is
    that of the ``checkout``, where there is one.

    Raises RecoveryError, with the last log lines of the service that failed, and PortLost when it is worth a new try.
    """
    if unprivileged() and not open_to_all(directory):
        raise PreconditionError(
            f"PostgreSQL runs as the user {unprivileged()}, who cannot enter the sandbox's directory {directory}",
            next_step="set RECOUP_STATE to a directory that every user can enter",
        )
    applications = {**_APPLICATIONS, **(_WITH_BACKUP_NODES if backup_nodes else {})}
    ports = _choose_ports(tuple(applications))
    spec = _specification(directory, identity, state, ports, receiver, standby, redis_replica, checkout)
    (directory / ENV_FILE).write_text(_environment(ports), encoding="utf-8")
    (directory / "stack.json").write_text(spec.model_dump_json(indent=2), encoding="utf-8")
    stack = ProcessStack.open(directory)
    progress(f"starting {', '.join(stack.names)}")
    # All at once: the applications answer 503 until what they need is there.
    with ThreadPoolExecutor(max_workers=len(stack.names)) as pool:
        list(pool.map(stack.start, stack.names))
    _, port = stack.endpoint(GATEWAY, HTTP_PORT)
    progress("waiting until the gateway answers")
    _wait(stack, port)
    return f"https://127.0.0.1:{ports.door}"


def tear_down(directory: Path, identity: str) -> None:
    """End every process of the sandbox and release what it holds outside of its directory. Safe to repeat."""
    if (directory / "stack.json").exists():
        stack = ProcessStack.open(directory)
        with ThreadPoolExecutor(max_workers=len(stack.names)) as pool:
            list(pool.map(stack.kill, stack.names))
    if stubborn := proctable.end(lambda: proctable.dwelling(directory)):
        raise RecoveryError(
            f"process {', '.join(str(p.pid) for p in stubborn)} of sandbox {identity} ignores SIGKILL",
            state=f"the sandbox's files are still in {directory}",
            next_step="see what the process waits for; the next sandbox that starts cleans up again",
        )
    _short_socket_place(identity, remove=True)


def _specification(
    directory: Path,
    identity: str,
    state: Path,
    ports: _Ports,
    receiver: bool,
    standby: bool,
    redis_replica: bool,
    checkout: Path | None,
) -> StackSpec:
    secrets = directory / "secrets"
    homes = directory / "services"
    programs = postgres_programs(state)
    user = unprivileged()
    sockets = homes / "postgres" / "socket"
    if len(os.fsencode(sockets)) > _SOCKET_PATH_MAX:
        sockets = _short_socket_place(identity)
    databases = ("postgres", *((STANDBY,) if standby else ()))
    for name in (*databases, *([RECEIVER] if receiver else []), *ports.applications):
        (homes / name).mkdir(parents=True, exist_ok=True)
    if user:
        entry = pwd.getpwnam(user)
        for name in databases:
            os.chown(homes / name, entry.pw_uid, entry.pw_gid)
    data = homes / "postgres" / "data"
    postgres = ServiceSpec(
        name="postgres",
        argv=(sys.executable, "-I", "-S", str(_RESOURCES / "process" / "start_postgres.py")),
        home=homes / "postgres",
        env={
            "PGDATA": str(data),
            "PGHOST": str(sockets),
            "PGPORT": str(ports.postgres),
            "POSTGRES_USER": DATABASE_USER,
            "POSTGRES_DB": DATABASE,
            "SCHEMA": str(_RESOURCES / "schema.sql"),
            **({"RUN_AS": user} if user else {}),
        },
        secrets={"POSTGRES_PASSWORD": f"file:{secrets / 'db_password'}"},
        bin=(programs,),
        user=user,
        drops=user is not None,
        stop_signal="SIGINT",
        port=5432,
        listens=ports.postgres,
        data=data,
        health=Probe(kind="program", argv=("pg_isready", "--quiet", "--host=127.0.0.1", f"--port={ports.postgres}")),
    )
    wal_receiver = ServiceSpec(
        name=RECEIVER,
        argv=("sh", str(_RESOURCES.parent / "postgres" / "receive-wal.sh")),
        home=homes / RECEIVER,
        env={
            "WAL": str(wal_directory(directory)),
            "SLOT": "recoup",
            "PGHOST": ",".join(str(sockets) for _ in databases),
            "PGPORT": ",".join(str(port) for port in (ports.postgres, ports.standby)[: len(databases)]),
            "PGTARGETSESSIONATTRS": "read-write",
            "PGUSER": DATABASE_USER,
            **({"RUN_AS": user} if user else {}),
        },
        bin=(programs,),
        user=user,
        drops=user is not None,
    )
    redis = [_redis("redis", homes / "redis", secrets, ports.redis)]
    if redis_replica:
        redis.append(_redis(REDIS_REPLICA, homes / REDIS_REPLICA, secrets, ports.redis_replica, of=ports.redis))
    applications = tuple(
        _application(name, homes / name, secrets, ports, standby, checkout) for name in ports.applications
    )
    return StackSpec(
        name=f"recoup-{identity}",
        sandbox=identity,
        env_file=directory / ENV_FILE,
        services=(
            postgres,
            *redis,
            *((wal_receiver,) if receiver else ()),
            *((_standby(postgres, ports, homes / STANDBY, sockets),) if standby else ()),
            *applications,
        ),
    )


def _standby(postgres: ServiceSpec, ports: _Ports, home: Path, sockets: Path) -> ServiceSpec:
    """Give the service that makes itself a copy of the database and follows it; they share the directory of sockets."""
    script = _RESOURCES.parent / "postgres" / "standby.sh"
    own = {
        "PGDATA": str(home / "data"),
        "PGPORT": str(ports.standby),
        "PGUSER": DATABASE_USER,
        "SOCKETS": str(sockets),
        "PEER_PORT": str(ports.postgres),
        "SLOT": "recoup_standby",
    }
    probe = Probe(kind="program", argv=("pg_isready", "--quiet", "--host=127.0.0.1", f"--port={ports.standby}"))
    return postgres.model_copy(
        update={
            "name": STANDBY,
            "argv": ("sh", str(script), "serve", *postgres.argv),
            "home": home,
            "env": {**postgres.env, **own},
            "port": STANDBY_PORT,
            "listens": ports.standby,
            "data": home / "data",
            "health": probe,
        }
    )


def _redis(name: str, home: Path, secrets: Path, port: int, of: int | None = None) -> ServiceSpec:
    server = redis_server()
    home.mkdir(parents=True, exist_ok=True)
    return ServiceSpec(
        name=name,
        argv=(sys.executable, "-I", "-S", str(_RESOURCES / "process" / "start_redis.py")),
        home=home,
        env={
            "REDIS_SERVER": str(server),
            "REDIS_DATA": str(home / "data"),
            "PORT": str(port),
            **({"REPLICA_OF": str(of)} if of else {}),
        },
        secrets={"REDIS_PASSWORD": f"file:{secrets / 'redis_password'}"},
        bin=(server.parent,),
        port=6379,
        listens=port,
        data=home / "data",
        health=Probe(kind="tcp"),
    )


def _application(
    name: str, home: Path, secrets: Path, ports: _Ports, standby: bool, checkout: Path | None
) -> ServiceSpec:
    role, needs = {**_APPLICATIONS, **_WITH_BACKUP_NODES}[name]
    url = {service: f"http://127.0.0.1:{port}" for service, port in ports.applications.items()}
    own = {"NEO_N3_RPC_URL": url["neo-n3-rpc"], "NEO_X_RPC_URL": url["neo-x-rpc"]} if name == GATEWAY else {}
    return ServiceSpec(
        name=name,
        argv=(sys.executable, "-m", "app", role),
        home=home,
        env={
            "PYTHONPATH": str(checkout or _RESOURCES),
            "PYTHONUNBUFFERED": "1",
            "HOST": "127.0.0.1",
            "PORT": str(ports.applications[name]),
            "DB_HOST": "127.0.0.1,127.0.0.1" if standby else "127.0.0.1",
            "DB_PORT": f"{ports.postgres},{ports.standby}" if standby else str(ports.postgres),
            "DB_NAME": DATABASE,
            "DB_USER": DATABASE_USER,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(ports.redis),
            "TLS_PORT": str(ports.door),
            "RECORDS_URL": url["records-service"],
            "ACCOUNTS_URL": url["accounts-service"],
            **own,
        },
        secrets={
            variable.upper(): f"file:{secrets / variable}"
            for variable in (*_SECRETS, *(("tls_pem",) if name == GATEWAY else ()))
        },
        port=HTTP_PORT,
        listens=ports.applications[name],
        depends_on=needs,
        health=Probe(kind="http", path="/health", timeout=5.0),
        code=checkout,
    )


def _wait(stack: ProcessStack, gateway: int) -> None:
    until = time.monotonic() + DEADLINE.total_seconds()
    # A gateway that waits for its database answers late: asked again soon, and more patiently each time.
    patience = 0.2
    while not answers(Probe(kind="http", path="/health", timeout=patience), gateway) or not _follows(stack):
        patience = min(patience * 1.2, 5.0)
        for name in stack.names:
            if not stack.runs(name):
                raise _failure(stack, stack.state(name))
        if time.monotonic() > until:
            # In the order of the description, so that the cause comes before those who wait for it.
            states = stack.services()
            raise _failure(stack, next((state for state in states if state.health is not Health.HEALTHY), states[-1]))
        time.sleep(0.05)


def _follows(stack: ProcessStack) -> bool:
    return STANDBY not in stack.names or stack.state(STANDBY).health is Health.HEALTHY


def _failure(stack: ProcessStack, state: ServiceState) -> RecoveryError:
    logs = stack.logs(state.service, tail=20)
    kind = PortLost if "address already in use" in logs.lower() else RecoveryError
    return kind(
        f"{state.service} of the sandbox did not come up: {state.status}, health {state.health}\n{logs}",
        state="the sandbox is taken down again",
        next_step=f"see the last log lines of {state.service} above",
    )


def _environment(ports: _Ports) -> str:
    """Give the environment file, which is what a switch of endpoints rewrites."""
    port = ports.applications
    lines = [f"NEO_{name.upper()}_RPC_URL=http://127.0.0.1:{port[f'neo-{name}-rpc']}" for name in ("n3", "x")]
    return "\n".join(("# What the services are told, as a Compose env file would.", *lines, ""))


def _choose_ports(applications: tuple[str, ...]) -> _Ports:
    numbers = iter(free_ports(5 + len(applications)))
    postgres, standby, redis, replica, door = (next(numbers) for _ in range(5))
    return _Ports(postgres, standby, redis, replica, door, {name: next(numbers) for name in applications})


def free_ports(count: int) -> list[int]:
    """Give ports that are free and outside the range from which the machine takes ports for outgoing connections.

    One out of that range could be taken by any client while its service is down, and the service could not come back.
    """
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    choice = range(10240, low) if low > 12000 else range(10240, 65536)
    found: list[int] = []
    for number in random.sample(choice, len(choice)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                continue
        found.append(number)
        if len(found) == count:
            return found
    raise PreconditionError("this machine has no free ports left for a sandbox")


def _short_socket_place(identity: str, *, remove: bool = False) -> Path:
    """Give a directory for the socket where its path is short enough; the sandbox's id is hard to guess."""
    place = Path(tempfile.gettempdir()) / f"recoup-{identity}"
    if not remove:
        place.mkdir(mode=0o700)
    elif place.exists():
        for file in place.iterdir():
            file.unlink(missing_ok=True)
        place.rmdir()
    return place
