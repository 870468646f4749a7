"""A sandbox's own plan: the platform's plan, pointed at the sandbox and nothing else."""

from __future__ import annotations

from pathlib import Path

import yaml

from recoup.plan import (
    ChainComponent,
    Component,
    ComposeSite,
    ConfigurationComponent,
    ContractComponent,
    Endpoint,
    Monitoring,
    PostgresComponent,
    ProcessSite,
    RedisComponent,
    RedisReplica,
    Release,
    ServiceComponent,
    Standby,
    Terraform,
    WalPolicy,
    load_plan,
)
from recoup.plan_chain import PinnedContract
from recoup.stacks import Stack, open_stack
from recoup.stacks.compose import ComposeStack
from tasks.sandbox_configuration import make_configuration
from tasks.sandbox_process import (
    BACKUP_NODES,
    DATABASE,
    DATABASE_USER,
    HTTP_PORT,
    REDIS_REPLICA,
    STANDBY,
    STANDBY_PORT,
    wal_directory,
)

CA = "ca.pem"
PROMETHEUS, PROMETHEUS_PORT = "prometheus", 9090
_PLAN = Path(__file__).resolve().parent.parent / "infra" / "plan.yaml"
# What the stand-ins for nodes, infra/sandbox/app/rpc_n3.py and rpc_x.py, have on their chains.
_CONTRACTS = _PLAN.parent / "sandbox" / "contracts.yaml"
_NODES = {"neo-n3": "neo-n3-rpc", "evm": "neo-x-rpc"}


def write_plan(
    directory: Path,
    identity: str,
    site: ComposeSite | ProcessSite,
    url: str,
    policy: WalPolicy | None = None,
    standby: bool = False,
    redis_replica: bool = False,
    terraform: Terraform | None = None,
    release: Release | None = None,
) -> Path:
    """Write ``directory/plan.yaml`` and give its path: every address, place and secret in it is the sandbox's own.

    The deployed configuration, which no service of the sandbox needs, is made here too.
    """
    plan = load_plan(_PLAN)
    gateway = plan.platform.gateway
    login = gateway.login and gateway.login.model_copy(
        update={"username": _secret(directory, "smoke_user"), "password": _secret(directory, "smoke_password")}
    )
    ca = directory / CA if url.startswith("https:") else None
    platform = plan.platform.model_copy(
        update={
            "name": f"sandbox-{identity}",
            "address": url,
            "stack": site,
            "state": directory / "state",
            "repository": directory / "backups",
            "copies": (),
            "terraform": terraform,
            "release": release,
            "scratch": directory / "scratch",
            "gateway": gateway.model_copy(update={"url": url, "port": HTTP_PORT, "login": login, "ca": ca}),
        }
    )
    moved = plan.model_copy(update={"platform": platform})
    stack = open_stack(moved)
    moved = moved.model_copy(update={"platform": platform.model_copy(update={"monitoring": _monitoring(site, stack)})})
    components = {
        name: _own(component, directory, stack, policy, standby) for name, component in plan.components.items()
    }
    if redis_replica:
        name, redis = moved.model_copy(update={"components": components}).redis()
        components[name] = redis.model_copy(update={"replica": RedisReplica(service=REDIS_REPLICA)})
    path = directory / "plan.yaml"
    path.write_text(moved.model_copy(update={"components": components}).dump_yaml(), encoding="utf-8")
    return path


def _own(component: Component, directory: Path, stack: Stack, policy: WalPolicy | None, standby: bool) -> Component:
    if isinstance(component, PostgresComponent):
        password = _secret(directory, "db_password")
        own: dict[str, object] = {
            "service": "postgres",
            "port": 5432,
            "database": DATABASE,
            "user": DATABASE_USER,
            "password": password,
        }
        continuous = component.continuous
        if continuous and policy:
            continuous = continuous.model_copy(update={"wal": wal_directory(directory), "policy": policy})
        pair = Standby(service=STANDBY, port=STANDBY_PORT) if standby else None
        own |= {"container": None, "continuous": continuous if policy else None, "standby": pair}
        return component.model_copy(update=own)
    if isinstance(component, RedisComponent):
        password = _secret(directory, "redis_password")
        return component.model_copy(update={"service": "redis", "port": 6379, "password": password, "container": None})
    if isinstance(component, ServiceComponent):
        return component.model_copy(update={"container": None})
    if isinstance(component, ChainComponent):
        return component.model_copy(update={"endpoints": _endpoints(component, stack)})
    if isinstance(component, ContractComponent):
        pinned = yaml.safe_load(_CONTRACTS.read_text(encoding="utf-8"))
        contracts = tuple(PinnedContract.model_validate(one) for one in pinned)
        return component.model_copy(update={"contracts": contracts})
    if isinstance(component, ConfigurationComponent):
        return make_configuration(component, directory)
    return component


def _endpoints(chain: ChainComponent, stack: Stack) -> tuple[Endpoint, ...]:
    """Give the node of a chain, and where the sandbox has them the two in reserve."""
    node = _NODES[chain.protocol]
    nodes = [Endpoint(url=_told(stack, node), from_host=_here(stack, node), weight=10)]
    if BACKUP_NODES in stack.names:
        paths = [f"/{'n3' if chain.protocol == 'neo-n3' else 'x'}/{number}" for number in (1, 2)]
        told, here = _told(stack, BACKUP_NODES), _here(stack, BACKUP_NODES)
        nodes += [
            Endpoint(url=f"{told}{path}", from_host=f"{here}{path}" if here else None, weight=weight)
            for path, weight in zip(paths, (5, 1), strict=True)
        ]
    return tuple(nodes)


def _told(stack: Stack, service: str) -> str:
    """Give the address by which the services reach another one: inside of Compose its name."""
    if isinstance(stack, ComposeStack):
        return f"http://{service}:{HTTP_PORT}"
    host, port = stack.endpoint(service, HTTP_PORT)
    return f"http://{host}:{port}"


def _here(stack: Stack, service: str) -> str | None:
    if not isinstance(stack, ComposeStack):
        return None
    host, port = stack.endpoint(service, HTTP_PORT)
    return f"http://{host}:{port}"


def _monitoring(site: ComposeSite | ProcessSite, stack: Stack) -> Monitoring | None:
    """Give the sandbox's own Prometheus, never the platform's; only Compose has one."""
    if not isinstance(site, ComposeSite):
        return None
    host, port = stack.endpoint(PROMETHEUS, PROMETHEUS_PORT)
    return Monitoring(prometheus=f"http://{host}:{port}")


def _secret(directory: Path, name: str) -> str:
    file = directory / "secrets" / name
    # Under Compose not every password has a file of its own; the env file has them all.
    return f"file:{file}" if file.exists() else f"dotenv:{directory / 'compose.env'}#{name.upper()}"
