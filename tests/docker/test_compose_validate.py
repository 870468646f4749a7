"""The plan's checklist on a real Docker engine: a healthy sandbox, and one whose records service is away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from flows.backup import run_backup
from flows.configuration import run_configuration_backup
from flows.redis_store import run_redis_backup
from recoup.plan import Plan, load_plan
from recoup.records import Outcome
from recoup.stacks import Stack, open_stack
from tasks.checklist import go_through
from tasks.sandbox import create, destroy

# No contract is pinned in the plan, and the sandbox has no Prometheus.
ABSENT = {"contracts-responding", "monitoring"}


@dataclass(frozen=True)
class Whole:
    plan: Plan
    stack: Stack


@pytest.fixture(scope="module")
def whole(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    state: Path = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOUP_STATE", str(state))
        made = create("compose")
        try:
            plan = load_plan(made.plan)
            stack = open_stack(plan)
            run_backup(plan, stack)
            run_redis_backup(plan, stack)
            run_configuration_backup(plan)
            yield Whole(plan, stack)
        finally:
            destroy(made)


def test_every_item_whose_subject_is_there_passes(whole: Whole) -> None:
    found = go_through(whole.plan, whole.stack)
    assert {item.check for item in found.of(Outcome.UNPROVEN)} == ABSENT, found.items
    assert found.of(Outcome.FAILED) == ()
    seen = {item.check: item.seen for item in found.items}
    assert "7 services run" in seen["services-running"]
    assert "chain and name are right" in seen["certificates"]


def test_a_service_that_is_away_is_told_where_it_is_felt(whole: Whole) -> None:
    whole.stack.kill("records-service")
    found = go_through(whole.plan, whole.stack)
    failed = {item.check: item.seen for item in found.of(Outcome.FAILED)}
    assert "not running: records-service" in failed["services-running"]
    # The gateway says so itself, users feel it, and nothing else is blamed.
    assert failed.keys() == {"services-running", "health-checks", "api-endpoints"}
    assert "status 503" in failed["health-checks"]
