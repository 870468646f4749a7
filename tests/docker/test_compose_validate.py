"""The plan's checklist on a real Docker engine: a healthy sandbox, and items made to fail, each alone and together."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import docker
import httpx
import pytest
from docker.models.containers import Container

from deployments.cli import run
from flows.backup import run_backup
from flows.configuration import run_configuration_backup
from flows.redis_store import run_redis_backup
from recoup.plan import ComposeSite, Plan, ServiceComponent, load_plan
from recoup.records import Outcome
from recoup.stacks import Health
from recoup.stacks.compose import ComposeStack
from tasks.checklist import LOOKS, Checklist, go_through
from tasks.checklist_monitoring import monitoring_is_active
from tasks.sandbox import create, destroy
from tasks.sandbox_certificate import Authority
from tests.stack_behaviour import SOON, eventually

# No enclave is pinned in the plan.
WELL = dict.fromkeys(LOOKS, Outcome.PASSED) | {"enclaves-attested": Outcome.UNPROVEN}
Break = Callable[["Whole"], Iterator[None]]
MAILER, GATEWAY, PROMETHEUS = "mailer", "api-gateway", "prometheus"
RULES = "/etc/recoup-monitoring"

# A service that nothing depends on, and that is well as long as a file is there.
WITH_MAILER = """
services:
  mailer:
    image: ${RECOUP_APP_IMAGE}
    entrypoint: [sh, -c, "touch /tmp/well; exec sleep infinity"]
    labels: {io.recoup.sandbox: "${RECOUP_SANDBOX_ID}"}
    healthcheck: {test: [CMD, test, -e, /tmp/well], interval: 1s, retries: 1, start_period: 10s}
"""
WITHOUT_LOG = """
services:
  api-gateway:
    entrypoint: [sh, -c, "exec python3 -m app gateway >/dev/null 2>&1"]
    command: []
"""


# It asks in the wrong place: for everybody else the node is where it was.
LOST_TARGET = """
services:
  prometheus:
    extra_hosts: ["neo-x-rpc:127.0.0.9"]
"""


@dataclass(frozen=True)
class Whole:
    engine: docker.DockerClient
    plan: Plan
    file: Path
    site: ComposeSite
    stack: ComposeStack

    def container(self, service: str) -> Container:
        return self.engine.containers.get(f"{self.stack.name.removeprefix('recoup-')}-neo-{service}")

    def well(self, service: str) -> None:
        eventually(f"{service} is healthy", lambda: self.stack.state(service).health is Health.HEALTHY)


@pytest.fixture(scope="module")
def whole(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Give a sandbox in which all items pass; each test mends what it broke."""
    place: Path = tmp_path_factory.mktemp("state")
    (place / "mailer.yaml").write_text(WITH_MAILER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOUP_STATE", str(place))
        made = create("compose")
        try:
            plan = load_plan(made.plan)
            assert isinstance(plan.platform.stack, ComposeSite)
            site = plan.platform.stack.model_copy(update={"overrides": (place / "mailer.yaml",)})
            plan = plan.model_copy(update={"platform": plan.platform.model_copy(update={"stack": site})})
            made.plan.write_text(plan.dump_yaml(), encoding="utf-8")
            whole = Whole(engine, plan, made.plan, site, ComposeStack.open(site))
            whole.stack.start(MAILER)
            run_backup(plan, whole.stack)
            run_redis_backup(plan, whole.stack)
            run_configuration_backup(plan)
            whole.well(MAILER)
            yield whole
        finally:
            destroy(made)


def outcomes(found: Checklist) -> dict[str, Outcome]:
    return {item.check: item.outcome for item in found.items}


def test_every_item_whose_subject_is_there_passes(whole: Whole, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", "--plan", str(whole.file), "--json"]) == 1, "what is unproven has not passed"
    items = {one["check"]: one for one in json.loads(capsys.readouterr().out)["items"]}
    assert {check: one["outcome"] for check, one in items.items()} == WELL, items
    assert "9 services run" in items["services-running"]["seen"]
    assert "chain and name are right" in items["certificates"]["seen"]
    assert items["monitoring"]["seen"] == "Prometheus answers; 6 targets are up"


def kill_the_mailer(at: Whole) -> Iterator[None]:
    at.stack.kill(MAILER)
    yield
    at.stack.start(MAILER)
    at.well(MAILER)


def lose_health(at: Whole) -> Iterator[None]:
    at.stack.execute(MAILER, ("rm", "/tmp/well"), timeout=SOON)
    eventually("the mailer is unhealthy", lambda: at.stack.state(MAILER).health is Health.UNHEALTHY)
    yield
    at.stack.execute(MAILER, ("touch", "/tmp/well"), timeout=SOON)
    at.well(MAILER)


def freeze_prometheus(at: Whole) -> Iterator[None]:
    # It runs, and to the engine it is healthy until three of its probes have been without an answer.
    at.stack.freeze(PROMETHEUS)
    yield
    at.container(PROMETHEUS).kill(signal="SIGCONT")
    at.well(PROMETHEUS)


def made_otherwise(service: str, definition: str) -> Break:
    def breaking(at: Whole) -> Iterator[None]:
        file = at.file.parent / "otherwise.yaml"
        file.write_text(definition, encoding="utf-8")
        site = at.site.model_copy(update={"overrides": (*at.site.overrides, file)})
        ComposeStack.open(site).recreate(service)
        at.well(service)
        yield
        at.stack.recreate(service)
        at.well(service)

    return breaking


def let_the_certificate_run_out(at: Whole) -> Iterator[None]:
    authority, ca = Authority.make("the tests' own"), at.plan.platform.gateway.ca
    assert ca is not None
    before = ca.read_bytes()
    ca.write_bytes(authority.pem)
    issued = authority.issue("127.0.0.1", lasts=timedelta(days=13))
    at.stack.recreate(GATEWAY, env={"TLS_PEM": base64.b64encode(issued.certificate + issued.key).decode()})
    at.well(GATEWAY)
    yield
    ca.write_bytes(before)
    at.stack.recreate(GATEWAY)
    at.well(GATEWAY)


BREAKS: dict[str, tuple[str, Break, str]] = {
    "killed": ("services-running", kill_the_mailer, "not running: mailer"),
    "unhealthy": ("health-checks", lose_health, "mailer is unhealthy"),
    "prometheus hangs": ("monitoring", freeze_prometheus, "timed out"),
    "a target is away": ("monitoring", made_otherwise(PROMETHEUS, LOST_TARGET), "neo-x-rpc:8080/metrics is down"),
    "no log": ("logs", made_otherwise(GATEWAY, WITHOUT_LOG), "no line of it is in its log"),
    "certificate": ("certificates", let_the_certificate_run_out, "12 days left, fewer than 14"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_what_is_broken_turns_red_and_nothing_else(how: str, whole: Whole) -> None:
    check, breaking, told = BREAKS[how]
    with contextmanager(breaking)(whole):
        found = go_through(whole.plan, whole.stack)
    assert outcomes(found) == {**WELL, check: Outcome.FAILED}, found.items
    (item,) = found.of(Outcome.FAILED)
    assert told in item.seen


def test_a_prometheus_that_is_down_is_told_and_recovered_once_the_plan_knows_it(whole: Whole) -> None:
    whole.stack.kill(PROMETHEUS)
    failed = {item.check: item.seen for item in go_through(whole.plan, whole.stack).of(Outcome.FAILED)}
    assert failed.keys() == {"services-running", "monitoring"}
    assert "not running: prometheus" in failed["services-running"]
    assert "connection refused" in failed["monitoring"]

    file = whole.file.parent / "watched.yaml"
    known = ServiceComponent(tier="non-critical", service=PROMETHEUS, port=9090, health="/-/ready")
    scenarios = tuple(
        one.model_copy(update={"covers": (*one.covers, PROMETHEUS)}) if one.procedure == "service" else one
        for one in whole.plan.scenarios
    )
    components = {**whole.plan.components, PROMETHEUS: known}
    changed = whole.plan.model_copy(update={"components": components, "scenarios": scenarios})
    file.write_text(changed.dump_yaml(), encoding="utf-8")
    assert run(["recover", "service", "--plan", str(file), "--yes", "--json"]) == 0
    assert outcomes(go_through(whole.plan, whole.stack)) == WELL


def test_the_metrics_of_every_role_are_in_prometheus_own_format(whole: Whole) -> None:
    for service in (GATEWAY, "records-service", "accounts-service", "neo-n3-rpc", "neo-x-rpc"):
        host, port = whole.stack.endpoint(service, 8080)
        told = httpx.get(f"http://{host}:{port}/metrics", trust_env=False)
        assert told.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        ask = ("promtool", "check", "metrics")
        assert whole.stack.execute(PROMETHEUS, ask, stdin=told.content, timeout=SOON).text == ""


def test_the_alert_rules_hold_before_prometheus_own_checks_and_tests(whole: Whole) -> None:
    assert (
        "16 rules found"
        in whole.stack.execute(PROMETHEUS, ("promtool", "check", "rules", f"{RULES}/rules.yaml"), timeout=SOON).text
    )
    whole.stack.execute(PROMETHEUS, ("promtool", "test", "rules", f"{RULES}/rules.test.yaml"), timeout=SOON)


def test_a_service_that_is_away_is_told_where_it_is_felt(whole: Whole) -> None:
    whole.stack.kill("records-service")
    eventually("Prometheus misses it", lambda: monitoring_is_active(whole.plan, whole.stack).outcome is Outcome.FAILED)
    found = go_through(whole.plan, whole.stack)
    failed = {item.check: item.seen for item in found.of(Outcome.FAILED)}
    assert "not running: records-service" in failed["services-running"]
    # The gateway says so itself, users feel it, Prometheus sees it, and nothing else is blamed.
    assert failed.keys() == {"services-running", "health-checks", "api-endpoints", "monitoring"}
    assert "status 503" in failed["health-checks"]
    assert "records-service:8080/metrics is down" in failed["monitoring"]
    # The rules' own words go with the alerts, for whoever is called.
    assert whole.plan.platform.monitoring
    url = f"{whole.plan.platform.monitoring.prometheus}/api/v1/alerts"

    def firing() -> dict[str, str]:
        alerts = httpx.get(url, trust_env=False).json()["data"]["alerts"]
        return {one["labels"]["alertname"]: one["labels"]["scenario"] for one in alerts if one["state"] == "firing"}

    eventually("the alerts fire", lambda: {"ServiceDown", "ServiceUnhealthy"} <= firing().keys(), timedelta(minutes=1))
    assert set(firing().values()) == {"service-outage"}
