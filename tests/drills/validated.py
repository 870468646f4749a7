"""A sandbox with everything the checklist asks for, each part of which a test can make fail alone, and mend."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psycopg
import pytest

from recoup import env_file
from recoup.catalog import Repository
from recoup.plan import ChainComponent, EnclaveComponent, Endpoint, Monitoring, Plan, load_plan
from recoup.secrets import resolve
from recoup.stacks import Health
from recoup.stacks.process import ProcessStack
from recoup.stacks.process_spec import Probe, ServiceSpec, StackSpec
from tasks import enclave_quote
from tasks.postgres import Server
from tasks.redis_server import RedisServer
from tasks.sandbox import Sandbox
from tasks.sandbox_certificate import Authority
from tasks.sandbox_process import ENV_FILE, free_ports
from tasks.smoke import Door
from tests.enclave_platform import Processor, enclave_data, enclave_service
from tests.rpc_proxy import Way, changed, way_to
from tests.stack_behaviour import eventually
from tests.web import answering, serving, tls_of

MAILER, VAULT = "mailer", "vault"
N3 = "neo-n3"
Break = Callable[["Validated"], Iterator[None]]


@dataclass
class Front:
    """A proxy with TLS before the gateway: it can let everybody in, or lose a path."""

    upstream: str
    token: str = ""
    broken: str = ""

    def answer(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        if self.broken and path.startswith(self.broken):
            return 502, b"{}"
        if self.token and "authorization" not in headers:
            headers["authorization"] = f"Bearer {self.token}"
        passed_on = {name: value for name, value in headers.items() if name in ("authorization", "content-type")}
        got = httpx.request(method, f"{self.upstream}{path}", content=body, headers=passed_on, trust_env=False)
        return got.status_code, got.content


@dataclass
class Prometheus:
    """What Prometheus answers to /api/v1/targets."""

    health: str = "up"

    def answer(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        error = "connection refused" if self.health == "down" else ""
        target = {"scrapeUrl": "http://api-gateway:8080/metrics", "health": self.health, "lastError": error}
        return 200, json.dumps({"status": "success", "data": {"activeTargets": [target]}}).encode()


@dataclass(frozen=True)
class Validated:
    """The sandbox behind its front, its plan (also as a file), and what stands beside it."""

    plan: Plan
    file: Path
    stack: ProcessStack
    directory: Path
    front: Front
    node: Way
    prometheus: Prometheus
    authority: Authority
    tls: ssl.SSLContext
    processor: Processor

    def token(self) -> str:
        door = Door.of(self.plan, self.stack)
        with door.client() as client:
            return door.login(client)

    def certify(self, lasts: timedelta) -> None:
        """Have the front show a new certificate from the next connection on."""
        issued = self.authority.issue("127.0.0.1", lasts=lasts)
        (self.directory / "server.pem").write_bytes(issued.certificate)
        (self.directory / "server.key").write_bytes(issued.key)
        self.tls.load_cert_chain(self.directory / "server.pem", self.directory / "server.key")

    @property
    def log(self) -> Path:
        return self.directory / "logs" / "api-gateway.log"

    def healthy(self, service: str) -> bool:
        return self.stack.state(service).health is Health.HEALTHY


@contextmanager
def behind_a_front(sandbox: Sandbox) -> Iterator[Validated]:
    """Give the sandbox with a mailer, an enclave, a TLS front, a way to the Neo N3 node, a Prometheus."""
    plan = load_plan(sandbox.plan)
    directory = sandbox.directory
    environment = directory / ENV_FILE
    stack = _with_mailer(directory)
    processor = Processor()
    host, inner = stack.endpoint("api-gateway", 8080)
    front, prometheus = Front(f"http://{host}:{inner}"), Prometheus()
    authority = Authority.make("the tests' own")
    (directory / "front-ca.pem").write_bytes(authority.pem)
    tls = tls_of(authority.issue("127.0.0.1"), directory)
    with ExitStack() as opened:
        door = f"https://127.0.0.1:{opened.enter_context(serving(answering(front.answer), tls))}"
        chain = plan.components[N3]
        assert isinstance(chain, ChainComponent)
        node = opened.enter_context(way_to(chain.endpoints[0].url))
        watcher = f"http://127.0.0.1:{opened.enter_context(serving(answering(prometheus.answer)))}"
        gateway = plan.platform.gateway.model_copy(update={"url": door, "ca": directory / "front-ca.pem"})
        own = {"gateway": gateway, "address": door, "monitoring": Monitoring(prometheus=watcher)}
        env_file.write(environment, env_file.changed(env_file.read(environment), {chain.variable: node.url}))
        # A busy machine is not what is tried here.
        own_way = {"endpoints": (Endpoint(url=node.url),), "max_latency": timedelta(seconds=5)}
        by_way = chain.model_copy(update=own_way)
        quotes = f"http://127.0.0.1:{opened.enter_context(serving(answering(processor.reply)))}"
        stack, enclave = _with_enclave(directory, quotes, processor)
        opened.enter_context(pytest.MonkeyPatch.context()).setattr(enclave_quote, "ROOT", processor.hardware.root)
        components = {**plan.components, N3: by_way}
        components |= {name: enclave for name, one in components.items() if isinstance(one, EnclaveComponent)}
        platform = plan.platform.model_copy(update=own)
        made = plan.model_copy(update={"platform": platform, "components": components})
        file = directory / "validated.yaml"
        file.write_text(made.dump_yaml(), encoding="utf-8")
        yield Validated(made, file, stack, directory, front, node, prometheus, authority, tls, processor)


def stop_a_service(at: Validated) -> Iterator[None]:
    at.stack.stop(MAILER)
    yield
    at.stack.start(MAILER)
    eventually("the mailer is healthy", lambda: at.healthy(MAILER))


def lose_health(at: Validated) -> Iterator[None]:
    page = at.directory / "services" / MAILER / "health"
    page.unlink()
    eventually("the mailer is unhealthy", lambda: at.stack.state(MAILER).health is Health.UNHEALTHY)
    yield
    page.touch()
    eventually("the mailer is healthy", lambda: at.healthy(MAILER))


def hold_the_table(at: Validated) -> Iterator[None]:
    server = Server.of(at.plan, at.stack, None)
    host, port = at.stack.endpoint(server.service, server.spec.port)
    password = resolve(server.spec.password).get_secret_value()
    with psycopg.connect(
        host=host, port=port, user=server.spec.user, password=password, dbname=server.spec.database
    ) as held:
        held.execute("LOCK TABLE recoup.checklist IN ACCESS EXCLUSIVE MODE")
        yield


def forbid_deletion(at: Validated) -> Iterator[None]:
    with RedisServer.of(at.plan, at.stack, None).connect() as link:
        link.ask("ACL", "SETUSER", "default", "-del")
        yield
        link.ask("ACL", "SETUSER", "default", "+@all")


def change_the_network(at: Validated) -> Iterator[None]:
    with changed(at.node, "getversion", {"protocol": {"network": 894710606}}):
        yield


def lose_the_contracts(at: Validated) -> Iterator[None]:
    with changed(at.node, "getcontractstate", None):
        yield


def let_everybody_in(at: Validated) -> Iterator[None]:
    at.front.token = at.token()
    yield
    at.front.token = ""


def lose_a_path(at: Validated) -> Iterator[None]:
    at.front.broken = "/api/v1/chain/x/"
    yield
    at.front.broken = ""


def lose_a_target(at: Validated) -> Iterator[None]:
    at.prometheus.health = "down"
    yield
    at.prometheus.health = "up"


def lose_the_log(at: Validated) -> Iterator[None]:
    # The gateway goes on writing into the file that has no name any more.
    at.log.unlink()
    yield
    at.stack.restart("api-gateway")
    eventually("the gateway is healthy", lambda: at.healthy("api-gateway"))


def lose_the_backups(at: Validated) -> Iterator[None]:
    repository = Repository(at.plan.platform.repository)
    kept = at.directory / "moved-away"
    kept.mkdir(exist_ok=True)
    sets = [one.path for one in repository.sets("redis")]
    for path in sets:
        path.rename(kept / path.name)
    yield
    for path in sets:
        (kept / path.name).rename(path)


def let_the_certificate_run_out(at: Validated) -> Iterator[None]:
    at.certify(timedelta(days=13))
    yield
    at.certify(timedelta(days=90))


def run_another_enclave(at: Validated) -> Iterator[None]:
    at.processor.quote = lambda nonce: at.processor.hardware.quote(nonce, mrsigner=bytes(32))
    yield
    at.processor.quote = None


BREAKS: dict[str, tuple[Break, str]] = {
    "services-running": (stop_a_service, "not running: mailer"),
    "health-checks": (lose_health, "mailer is unhealthy"),
    "database-connectivity": (hold_the_table, "statement timeout"),
    "redis-connectivity": (forbid_deletion, "no permissions"),
    "chain-rpc": (change_the_network, "is on network 894710606, not 860833102"),
    "contracts-responding": (lose_the_contracts, "service-token on neo-n3: it is what was pinned: there is none"),
    "authentication": (let_everybody_in, "without a login gave status 404"),
    "api-endpoints": (lose_a_path, "1 of 8 requests did not pass; gateway: height of Neo X: status 502"),
    "monitoring": (lose_a_target, "api-gateway:8080/metrics is down: connection refused"),
    "logs": (lose_the_log, "no line of it is in its log"),
    "backups": (lose_the_backups, "redis: there is no good set"),
    "enclaves-attested": (run_another_enclave, "enclaves: MRSIGNER: " + "00" * 32),
    "certificates": (let_the_certificate_run_out, "12 days left, fewer than 14"),
}


def _with_mailer(directory: Path) -> ProcessStack:
    """Add a service that nothing depends on: it has a health of its own, a file that is there."""
    home = directory / "services" / MAILER
    home.mkdir()
    (home / "health").touch()
    (port,) = free_ports(1)
    mailer = ServiceSpec(
        name=MAILER,
        argv=(sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)),
        home=home,
        port=8080,
        listens=port,
        health=Probe(kind="http", path="/health", grace=0.5),
    )
    return _with(directory, mailer)


def _with_enclave(directory: Path, quotes: str, processor: Processor) -> tuple[ProcessStack, EnclaveComponent]:
    """Add a service with an enclave whose quotes are the processor's; gives what the plan says of it."""
    (port,) = free_ports(1)
    (directory / "collateral.json").write_text(processor.hardware.collateral(), encoding="utf-8")
    data = {key: value for key, value in enclave_data(directory, port).items() if key not in ("provision", "self_test")}
    stack = _with(directory, enclave_service(directory, VAULT, port, quotes))
    return stack, EnclaveComponent.model_validate(data)


def _with(directory: Path, service: ServiceSpec) -> ProcessStack:
    file = directory / "stack.json"
    spec = StackSpec.model_validate_json(file.read_bytes())
    more = spec.model_copy(update={"services": (*spec.services, service)})
    file.write_text(more.model_dump_json(), encoding="utf-8")
    stack = ProcessStack.open(directory)
    stack.start(service.name)
    eventually(f"the {service.name} is healthy", lambda: stack.state(service.name).health is Health.HEALTHY)
    return stack
