"""Everything is gone: the real procedure rebuilds a platform from Terraform to its users, and loses what it may."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.backup import run_backup
from flows.configuration import run_configuration_backup
from flows.drill_platform import PlatformDrill, drill_platform
from flows.platform import PlatformRecovery, run_platform_recovery
from flows.platform_preview import preview
from flows.procedure import watched_by
from flows.redis_store import run_redis_backup
from recoup.errors import PreconditionError
from recoup.ledger import Ledger
from recoup.places import drill_ledger
from recoup.plan import load_plan
from recoup.progress import Silent
from recoup.records import Outcome, RecoveryRecord, StepOutcome, StepRecord, Subject, Verdict, now
from recoup.stacks.process import ProcessStack
from tasks.configuration import Configuration
from tasks.platform_fault import PlatformFault, inject
from tasks.postgres_fault import Fault
from tasks.redis_server import RedisServer
from tasks.sandbox import create, destroy
from tests.drills.platform import Platform, rebuild_and_die

pytestmark = pytest.mark.usefixtures("terraform")
STORES = ["database", "redis", "configuration"]


@dataclass(frozen=True)
class Drilled:
    fault: PlatformFault
    record: RecoveryRecord


@pytest.fixture(scope="module", params=list(PlatformFault), ids=str)
def drilled(request: pytest.FixtureRequest, state: Path) -> Drilled:
    return Drilled(request.param, drill_platform.fn(PlatformDrill(fault=request.param)))


def spans(record: RecoveryRecord, part: str) -> list[StepRecord]:
    return [step for step in record.steps if step.name.startswith(f"{part}/")]


def test_it_is_rebuilt_within_the_objective_and_proven(drilled: Drilled) -> None:
    record = drilled.record
    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    assert record.scenario == "Complete Infrastructure Failure"
    assert record.rto_objective.total_seconds() == 8 * 3600
    assert record.rto_met
    assert {check.outcome for check in record.checks} == {Outcome.PASSED}
    assert {check.subject for check in record.checks} == set(Subject)
    assert [record] == [one for one in Ledger(drill_ledger()).records() if one.run_id == record.run_id]


def test_stores_come_back_at_the_same_time_and_users_after_all_of_them(drilled: Drilled) -> None:
    steps = {step.name: step for step in drilled.record.steps}
    database, redis = spans(drilled.record, "postgres"), spans(drilled.record, "redis")
    assert {"postgres/restore-beside", "redis/restore-redis", "configuration/restore-files"} <= set(steps)
    assert all(step.ended for step in (*database, *redis))
    first, last = max(database[0].started, redis[0].started), [one[-1].ended for one in (database, redis)]
    assert all(end is not None and first < end for end in last), "one store waited for the other"
    order = [step.name for step in drilled.record.steps]
    assert order.index("apply-infrastructure") < order.index("configuration/choose-configuration")
    assert order.index("configuration/restore-files") < order.index("deploy-platform")
    assert order.index("deploy-platform") < order.index("postgres/diagnose-database")
    started = steps["start-services"].started
    assert all(end is not None and end <= started for end in last), "a service was started on data half-way"


def test_what_is_lost_is_counted_and_excused_by_the_recovery_points(drilled: Drilled) -> None:
    assert [store.store for store in drilled.record.stores] == STORES
    for store in drilled.record.stores[:2]:
        assert store.met
        assert store.acknowledged_writes is not None
        assert store.acknowledged_writes_lost is not None
        # Twenty were written after the last backup; that they are found to be gone is the proof that the count looks.
        assert 20 <= store.acknowledged_writes_lost < store.acknowledged_writes


def test_the_saved_plan_is_in_the_record_by_its_sha256(drilled: Drilled) -> None:
    (applied,) = [step for step in drilled.record.steps if step.name == "apply-infrastructure"]
    assert "make again what is gone" in applied.detail
    assert len(applied.detail.partition("sha256 ")[2].partition(":")[0]) == 64


def test_nothing_of_the_sandbox_is_left(drilled: Drilled, state: Path) -> None:
    assert not (state / "sandboxes" / drilled.record.stack.rpartition(":")[2]).exists()


# -- one sandbox for what is not a whole drill -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rebuilt(state: Path) -> Iterator[Platform]:
    """Give a sandbox that stands on what Terraform made, with a backup of each store."""
    made = create("process", provisioned=True)
    try:
        plan = load_plan(made.plan)
        platform = Platform(made, plan, ProcessStack.open(made.directory))
        with RedisServer.of(plan, platform.stack, None).connect() as link:
            link.ask("SET", "kept", "in the backup")
        run_configuration_backup(plan)
        run_redis_backup(plan, platform.stack)
        run_backup(plan, platform.stack, verify=False)
        yield platform
    finally:
        destroy(made)


def rebuild(platform: Platform, **request: object) -> RecoveryRecord:
    asked = PlatformRecovery.model_validate({"plan": platform.sandbox.plan, "began": now(), **request})
    return run_platform_recovery(platform.plan, asked, ledger=platform.ledger.path)


def test_where_all_is_well_nothing_is_made_restored_or_restarted(rebuilt: Platform) -> None:
    before = {one.service: one.started for one in rebuilt.stack.services()}
    databases = rebuilt.databases()
    record = rebuild(rebuilt)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert "apply-infrastructure" not in {step.name for step in record.steps}
    assert rebuilt.databases() == databases
    assert {one.service: one.started for one in rebuilt.stack.services()} == before


def test_the_preview_says_what_is_gone_and_changes_nothing(rebuilt: Platform) -> None:
    inject(rebuilt.plan, rebuilt.stack, PlatformFault.EVERYTHING, rebuilt.sandbox.id)
    said = "\n".join(preview(rebuilt.plan, PlatformRecovery(plan=rebuilt.sandbox.plan)))
    assert 'make again terraform_data.place["directory-services/postgres"]' in said
    assert "postgres: use backup set" in said
    assert "configuration: " in said
    assert not (rebuilt.sandbox.directory / "services").exists()
    assert rebuild(rebuilt).verdict is Verdict.RECOVERED


@pytest.mark.parametrize(
    "step",
    ["apply-infrastructure", "deploy-platform", "postgres/swap-databases", "redis/restore-redis", "start-services"],
)
def test_killed_at_a_step_it_goes_on_there(rebuilt: Platform, step: str) -> None:
    began = inject(rebuilt.plan, rebuilt.stack, PlatformFault.EVERYTHING, rebuilt.sandbox.id)
    assert rebuild_and_die(rebuilt, began, step) == -9
    record = rebuild(rebuilt, began=None)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.clock.began == began
    if step == "start-services":
        assert {one.resumed for one in spans(record, "postgres") if one.name.endswith("restore-beside")} == {True}


def test_one_store_that_cannot_be_restored_lets_the_other_finish_and_is_named(rebuilt: Platform) -> None:
    aside = rebuilt.sandbox.directory / "aside"
    inject(rebuilt.plan, rebuilt.stack, PlatformFault.EVERYTHING, rebuilt.sandbox.id)
    aside.mkdir()
    for one in rebuilt.plan.platform.repository.glob("*-database"):
        shutil.move(one, aside)
    record = rebuild(rebuilt)
    assert record.verdict is Verdict.NOT_RECOVERED
    assert record.why.startswith("postgres: ")
    ends = {step.name: step.outcome for step in record.steps}
    assert ends["redis/check-redis"] is StepOutcome.DONE
    assert "start-services" not in ends, "users were let in to an empty database"
    assert not rebuilt.stack.state("api-gateway").running
    for one in aside.iterdir():
        shutil.move(one, rebuilt.plan.platform.repository)
    record = rebuild(rebuilt, restore="always")
    assert record.verdict is Verdict.RECOVERED, record.why


def test_where_one_store_is_lost_its_users_are_stopped_and_the_others_are_left(rebuilt: Platform) -> None:
    redis = rebuilt.stack.state("redis").started
    rebuilt.break_it(Fault.WIPE)
    record = rebuild(rebuilt)
    assert record.verdict is Verdict.RECOVERED, record.why
    order = [step.name for step in record.steps]
    assert (
        order.index("postgres/stop-services") < order.index("postgres/restore-beside") < order.index("start-services")
    )
    assert "api-gateway" in next(step.detail for step in record.steps if step.name == "postgres/stop-services")
    assert "redis/restore-redis" not in order
    assert rebuilt.stack.state("redis").started == redis


def test_configuration_that_is_there_is_left_as_it_is_deployed(rebuilt: Platform) -> None:
    file = Configuration.of(rebuilt.plan).root / "nginx/nginx.conf"
    file.write_text("changed since\n")
    record = rebuild(rebuilt)
    assert file.read_text() == "changed since\n"
    assert not spans(record, "configuration")


def test_a_fault_is_injected_into_a_sandbox_alone(rebuilt: Platform) -> None:
    with pytest.raises(PreconditionError, match="is not the sandbox"):
        inject(rebuilt.plan, rebuilt.stack, PlatformFault.EVERYTHING, "another")
    assert rebuilt.stack.state("postgres").running


class Cut(Silent):
    """Interrupts the run, as Ctrl-C does, in the thread of a part."""

    def step(self, step: StepRecord) -> None:
        if step.name == "redis/diagnose-redis" and step.outcome is StepOutcome.RUNNING:
            raise KeyboardInterrupt


def test_an_interruption_is_recorded_as_one(rebuilt: Platform) -> None:
    with watched_by(Cut()), pytest.raises(KeyboardInterrupt):
        rebuild(rebuilt)
    assert rebuilt.ledger.records()[-1].why == "the run was interrupted"
    assert rebuild(rebuilt).verdict is Verdict.RECOVERED
