"""Everything gone on a real Docker engine: network and volumes by Terraform, containers, data, users."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from flows.drill import StackKind
from flows.drill_platform import PlatformDrill, drill_platform
from recoup.plan import ComposeSite, Terraform, load_plan
from recoup.process import Command, run
from recoup.records import Outcome, Verdict
from recoup.stacks.compose import ComposeStack
from recoup.stacks.compose_project import SANDBOX_LABEL
from tasks.platform_fault import PlatformFault
from tasks.sandbox import Sandbox, create, destroy
from tasks.terraform import apply_infrastructure, plan_infrastructure, terraform_of
from tests.stack_behaviour import SOON

pytestmark = pytest.mark.usefixtures("terraform")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECOUP_STATE", str(tmp_path))
    return tmp_path


def left_of(engine: docker.DockerClient, sandbox: str) -> set[str]:
    found = {str(one.name) for one in engine.containers.list(all=True, ignore_removed=True)}
    found |= {str(one.name) for one in engine.volumes.list()} | {str(one.name) for one in engine.networks.list()}
    return {name for name in found if sandbox in name}


@pytest.mark.parametrize("fault", list(PlatformFault))
def test_a_platform_of_which_nothing_is_left_is_rebuilt(fault: PlatformFault, engine: docker.DockerClient) -> None:
    record = drill_platform.fn(PlatformDrill(fault=fault, stack=StackKind.COMPOSE))
    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    assert record.rto_met
    assert record.stack.startswith("compose:")
    assert {check.outcome for check in record.checks} == {Outcome.PASSED}
    assert "service: prometheus" in {check.name for check in record.checks}, (
        "what the plan does not know comes back too"
    )
    (applied,) = [step.detail for step in record.steps if step.name == "apply-infrastructure"]
    assert "make again what is gone or half-made 3" in applied, "a network and two volumes"
    database, redis = (
        [step for step in record.steps if step.name.startswith(f"{part}/")] for part in ("postgres", "redis")
    )
    assert database[0].ended
    assert redis[-1].ended
    assert database[0].started < redis[-1].ended
    assert redis[0].started < (database[-1].ended or redis[0].started)
    for store in record.stores[:2]:
        assert store.met
        assert store.acknowledged_writes_lost
    assert not left_of(engine, record.stack.rpartition("-")[2])


@dataclass(frozen=True)
class Provisioned:
    sandbox: Sandbox
    spec: Terraform

    def saved(self) -> Path:
        return self.sandbox.directory / "state" / "x.tfplan"


@pytest.fixture
def provisioned(engine: docker.DockerClient, state: Path) -> Iterator[Provisioned]:
    made = create("compose", provisioned=True)
    try:
        spec = terraform_of(load_plan(made.plan))
        assert spec is not None
        yield Provisioned(made, spec)
    finally:
        destroy(made)


def test_compose_uses_what_terraform_made_and_a_volume_removed_by_hand_is_seen(
    provisioned: Provisioned, engine: docker.DockerClient
) -> None:
    sandbox, spec = provisioned.sandbox, provisioned.spec
    project = f"recoup-{sandbox.id}"
    volume = engine.volumes.get(f"{project}_redis-data")
    assert volume.attrs["Labels"] == {SANDBOX_LABEL: sandbox.id}, "Compose made it, not Terraform"
    assert engine.networks.get(f"{project}_default").attrs["Labels"] == {SANDBOX_LABEL: sandbox.id}
    assert not plan_infrastructure.fn(spec, provisioned.saved(), False).changes.any
    redis = engine.containers.list(
        filters={"label": ["com.docker.compose.service=redis", f"{SANDBOX_LABEL}={sandbox.id}"]}
    )
    redis[0].remove(force=True)
    volume.remove()
    planned = plan_infrastructure.fn(spec, provisioned.saved(), False)
    assert planned.changes.again == ('terraform_data.place["volume-redis-data"]',)
    assert not planned.changes.destroyed
    apply_infrastructure.fn(spec, planned)
    assert engine.volumes.get(f"{project}_redis-data").attrs["Labels"] == {SANDBOX_LABEL: sandbox.id}
    assert engine.volumes.get(f"{project}_postgres-data")


def test_what_somebody_else_made_under_that_name_is_not_taken_over(
    provisioned: Provisioned, engine: docker.DockerClient
) -> None:
    name = f"recoup-{provisioned.sandbox.id}_other"
    engine.volumes.create(name=name)
    script = provisioned.spec.root / "place.sh"
    own = {"KIND": "volume", "NAME": name, "SANDBOX": provisioned.sandbox.id}
    try:
        for verb in ("make", "remove"):
            refused = run(Command(("sh", str(script), verb), own), timeout=SOON, check=False)
            assert refused.returncode == 1
            assert "belongs to nobody" in refused.stderr
        assert engine.volumes.get(name)
    finally:
        engine.volumes.get(name).remove()


VERSIONED = """
services:
  one:
    image: ${RECOUP_APP_IMAGE}
    command: [rpc-n3]
    labels: {the.version: "${PLATFORM_VERSION:-none}", io.recoup.sandbox: "${RECOUP_SANDBOX_ID}"}
"""


def test_it_is_deployed_at_the_plans_version_and_not_started(
    provisioned: Provisioned, engine: docker.DockerClient, tmp_path: Path
) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(VERSIONED)
    project = f"recoup-{provisioned.sandbox.id}-versioned"
    site = ComposeSite(file=file, project=project, env_file=provisioned.sandbox.directory / "compose.env")
    stack = ComposeStack.open(site, "4.5.6")
    stack.create()
    (made,) = engine.containers.list(all=True, filters={"label": f"com.docker.compose.project={project}"})
    assert made.labels["the.version"] == "4.5.6"
    assert made.status == "created"
    stack.create()
    assert not stack.state("one").running
    made.remove()
    engine.networks.get(f"{project}_default").remove()
