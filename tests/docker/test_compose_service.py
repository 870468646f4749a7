"""Services in containers: restart loops, hangs, bad images under a good name, and what the engine has afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import httpx
import pytest

from flows.drill import StackKind
from flows.drill_service import ServiceDrill, drill_service
from flows.service import ServiceRecovery, run_service_recovery
from recoup.causes import Ailment
from recoup.places import ledger_path
from recoup.plan import Plan, load_plan
from recoup.records import RecoveryRecord, Verdict, now
from recoup.stacks import open_stack
from recoup.stacks.compose_image import kept_name
from tasks.images import healthy_image, note_healthy
from tasks.sandbox import Sandbox, create, destroy
from tasks.service_fault import NEIGHBOUR, SERVICE, ServiceFault, inject
from tasks.service_look import look_at
from tests.stack_behaviour import eventually

GATEWAY = "api-gateway"


@pytest.fixture(scope="module")
def made(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOUP_STATE", str(tmp_path_factory.mktemp("state")))
        sandbox = create("compose")
        yield sandbox
        destroy(sandbox)
        names = [name for image in engine.images.list(all=True) for name in image.tags]
        left = {str(one.name) for one in engine.containers.list(all=True, ignore_removed=True)} | set(names)
        assert not {name for name in left if sandbox.id in name}
        assert not engine.images.list(all=True, filters={"label": f"io.recoup.sandbox={sandbox.id}"})


@pytest.fixture
def plan(made: Sandbox) -> Plan:
    return load_plan(made.plan)


def recover(plan: Plan, made: Sandbox, *services: str) -> RecoveryRecord:
    request = ServiceRecovery(plan=made.plan, services=services, began=now())
    return run_service_recovery(plan, request, ledger=ledger_path(plan))


def container(engine: docker.DockerClient, made: Sandbox, service: str) -> dict[str, object]:
    """Give what the engine says of a service's container."""
    attrs: dict[str, object] = engine.containers.get(f"{made.id}-neo-{service}").attrs
    return attrs


def serves(plan: Plan, service: str = GATEWAY) -> bool:
    host, port = open_stack(plan).endpoint(service, 8080)
    try:
        return httpx.get(f"http://{host}:{port}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_restart_loop_is_told_from_a_stop_and_ended_by_a_redeployment(
    plan: Plan, made: Sandbox, engine: docker.DockerClient
) -> None:
    stack = open_stack(plan)
    inject(plan, stack, ServiceFault.CRASH_LOOP, made.id)
    eventually("it loops", lambda: look_at(plan, stack, SERVICE).ailment is Ailment.LOOPING)
    others = {name: container(engine, made, name)["Id"] for name in (NEIGHBOUR, GATEWAY, "postgres", "redis")}
    record = recover(plan, made)
    assert record.verdict is Verdict.RECOVERED, record.why
    names = [step.name for step in record.steps]
    assert names.index(f"restart-service-{SERVICE}") < names.index(f"redeploy-service-{SERVICE}")
    assert "eight thousand" in next(log.tail for log in record.logs if log.service == SERVICE)
    assert serves(plan)
    # Alone: nothing that it depends on, and nobody else, was made anew.
    assert {name: container(engine, made, name)["Id"] for name in others} == others


def test_a_frozen_one_is_seen_although_the_engine_still_calls_it_healthy(plan: Plan, made: Sandbox) -> None:
    stack = open_stack(plan)
    inject(plan, stack, ServiceFault.HANG, made.id)
    assert stack.state(SERVICE).running
    assert look_at(plan, stack, SERVICE).ailment is Ailment.HANGING
    record = recover(plan, made)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.steps[0].detail.startswith(f"the cause is {SERVICE}: accepts and never answers")
    assert serves(plan)


def test_a_name_that_was_given_to_a_bad_image_does_not_fool_a_rollback(
    plan: Plan, made: Sandbox, engine: docker.DockerClient
) -> None:
    good = container(engine, made, SERVICE)
    assert SERVICE in note_healthy(plan, open_stack(plan))
    inject(plan, open_stack(plan), ServiceFault.BAD_IMAGE, made.id)
    bad = container(engine, made, SERVICE)
    assert bad["Image"] != good["Image"]
    names = [str(one["Config"]["Image"]) for one in (good, bad) if isinstance(one["Config"], dict)]
    assert names[0] == names[1]
    record = recover(plan, made)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert container(engine, made, SERVICE)["Image"] == good["Image"]
    assert "correct the definition" in record.state_left
    assert serves(plan)
    # What runs now is what is remembered, and it cannot be pruned: recoup has a name for it.
    known = healthy_image(plan, SERVICE)
    assert known is not None
    assert known.image == good["Image"]
    assert engine.images.get(f"{kept_name(f'recoup-{made.id}')}:{SERVICE}").id == good["Image"]
    # The definition still names the bad one, and says so when somebody makes the service anew.
    open_stack(plan).recreate(SERVICE)
    assert container(engine, made, SERVICE)["Image"] == bad["Image"]
    assert recover(plan, made).verdict is Verdict.RECOVERED
    # For the tests that follow: the name is that of the good one again.
    repository, _, tag = names[0].rpartition(":")
    engine.images.get(str(good["Image"])).tag(repository, tag=tag)


def test_one_that_somebody_stopped_stays_stopped_until_it_is_asked_for(plan: Plan, made: Sandbox) -> None:
    stack = open_stack(plan)
    stack.stop(NEIGHBOUR)
    assert look_at(plan, stack, NEIGHBOUR).ailment is Ailment.STOPPED
    record = recover(plan, made)
    assert record.verdict is Verdict.NOT_RECOVERED
    assert record.next_step == f"recoup recover service --service {NEIGHBOUR}"
    assert not stack.state(NEIGHBOUR).running
    assert recover(plan, made, NEIGHBOUR).verdict is Verdict.RECOVERED
    assert stack.state(NEIGHBOUR).running


def test_no_secret_of_the_containers_is_in_the_record_or_the_kept_logs(plan: Plan, made: Sandbox) -> None:
    stack = open_stack(plan)
    values = dict(
        line.split("=", 1) for line in (made.directory / "compose.env").read_text().splitlines() if "=" in line
    )
    # One that the service has itself, and one that only the gateway has; Python cuts a longer message off.
    secret = (values["DB_PASSWORD"], values["JWT_SECRET"])
    stack.recreate(SERVICE, env={"PORT": f"{secret[1]} http://u:{secret[0]}@host"})
    eventually("it has spoken", lambda: values["JWT_SECRET"] in stack.logs(SERVICE))
    record = recover(plan, made)
    assert record.verdict is Verdict.RECOVERED, record.why
    kept = next(log for log in record.logs if log.service == SERVICE)
    assert "********" in kept.tail
    for value in secret:
        assert value not in record.model_dump_json()
        assert value not in Path(kept.file).read_text()


@pytest.mark.parametrize("fault", [ServiceFault.KILL, ServiceFault.DEPENDENCY_DOWN])
def test_the_drill_recovers_and_leaves_nothing_behind(
    fault: ServiceFault, engine: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOUP_STATE", str(tmp_path))
    record = drill_service.fn(ServiceDrill(fault=fault, stack=StackKind.COMPOSE))
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.stores[0].acknowledged_writes_lost == 0
    sandbox = record.stack.rpartition("-")[2]
    left = {str(one.name) for one in engine.containers.list(all=True, ignore_removed=True)} | {
        str(v.name) for v in engine.volumes.list()
    }
    assert not {name for name in left if sandbox in name}


def test_a_bad_image_with_no_healthy_one_known_ends_not_recovered(
    engine: docker.DockerClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOUP_STATE", str(tmp_path))
    record = drill_service.fn(ServiceDrill(fault=ServiceFault.BAD_IMAGE, stack=StackKind.COMPOSE, known=False))
    assert record.verdict is Verdict.NOT_RECOVERED
    assert "no image of it was ever noted as healthy" in record.why
    assert "has the image its definition names" in record.state_left
