"""Services of a sandbox really broken, and brought back by the whole procedure; looked at from outside."""

from __future__ import annotations

import json
import signal
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from deployments import cli
from flows.drill_service import ServiceDrill, drill_service
from flows.procedure import watched_by
from flows.redis_store import run_redis_backup
from flows.service import ServiceRecovery, run_service_recovery
from recoup.errors import BusyError, PreconditionError
from recoup.journal import Journal
from recoup.ledger import Ledger
from recoup.places import drill_ledger
from recoup.plan import load_plan
from recoup.records import Check, Outcome, RecoveryRecord, StepOutcome, Subject, Verdict, now
from tasks.images import healthy_image, note_healthy, noting
from tasks.redis_fault import RedisFault
from tasks.redis_fault import inject as break_redis
from tasks.redis_server import RedisServer
from tasks.service_fault import NEIGHBOUR, SERVICE, ServiceFault, inject
from tasks.smoke import Door
from tests.drills.platform import Killer, Platform, run_in_a_process_of_its_own
from tests.stack_behaviour import eventually

GATEWAY = "api-gateway"


def recover(platform: Platform, *services: str, began: datetime | None = None) -> RecoveryRecord:
    request = ServiceRecovery(plan=platform.sandbox.plan, services=services, began=began or now())
    return run_service_recovery(platform.plan, request, ledger=platform.ledger.path)


def broken(platform: Platform, fault: ServiceFault) -> datetime:
    return inject(platform.plan, platform.stack, fault, platform.sandbox.id)


def serves(platform: Platform, service: str = GATEWAY) -> bool:
    host, port = platform.stack.endpoint(service, 8080)
    try:
        return httpx.get(f"http://{host}:{port}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def outcomes(record: RecoveryRecord) -> dict[str, StepOutcome]:
    return {step.name: step.outcome for step in record.steps}


def of(record: RecoveryRecord, subject: Subject) -> list[Check]:
    return [check for check in record.checks if check.subject is subject]


@pytest.mark.parametrize("fault", list(ServiceFault))
def test_each_fault_is_recovered_and_no_acknowledged_write_is_lost(fault: ServiceFault) -> None:
    record = drill_service.fn(ServiceDrill(fault=fault))
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.rto_met
    assert all(of(record, subject) for subject in (Subject.DATA, Subject.USER))
    store = record.stores[0]
    assert store.acknowledged_writes
    assert store.acknowledged_writes_lost == 0
    # One record, or two where the cause is another procedure's: the last is the one that was given.
    records = [one for one in Ledger(drill_ledger()).records() if one.stack == record.stack]
    assert records[-1] == record
    assert len(records) == (2 if fault is ServiceFault.DEPENDENCY_DOWN else 1)


def test_independent_services_are_restarted_at_the_same_time_and_the_gateway_is_left_alone(platform: Platform) -> None:
    began = broken(platform, ServiceFault.KILL)
    gateway = platform.stack.state(GATEWAY).started
    assert not serves(platform)
    record = recover(platform, began=began)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert serves(platform)
    steps = {step.name: step for step in record.steps}
    one, other = (steps[f"restart-service-{name}"] for name in (SERVICE, NEIGHBOUR))
    assert one.ended is not None
    assert other.ended is not None
    assert one.started < other.ended
    assert other.started < one.ended
    # It failed for want of the two, and was well as soon as they were.
    assert platform.stack.state(GATEWAY).started == gateway
    assert not [name for name in steps if name.startswith(("redeploy", "roll-back"))]
    assert {loss.achieved for loss in record.stores if loss.store == "database"} == {began - began}


def test_a_database_that_is_down_is_found_behind_the_gateway_and_handed_over(platform: Platform) -> None:
    began = broken(platform, ServiceFault.DEPENDENCY_DOWN)
    started = {name: platform.stack.state(name).started for name in (GATEWAY, SERVICE, NEIGHBOUR)}
    record = recover(platform, GATEWAY, began=began)
    handed = platform.ledger.records()[-2]
    assert (handed.procedure, handed.handed_to) == ("service", "the database procedure (postgres)")
    assert "handed over" in handed.why
    assert not handed.claims
    assert handed.steps[0].detail.startswith("the cause is postgres: down")
    assert not [step for step in handed.steps if step.name.startswith("restart")]
    assert (record.procedure, record.component, record.verdict) == ("database", "postgres", Verdict.RECOVERED)
    assert handed.run_id in record.reason
    assert serves(platform)
    assert {name: platform.stack.state(name).started for name in started} == started


def test_a_redis_that_is_down_with_its_data_is_started_as_a_service(platform: Platform) -> None:
    platform.stack.kill("redis")
    record = recover(platform)
    # It answers, and nothing tells what it held before: no set of it was ever taken.
    assert record.verdict is Verdict.UNPROVEN
    assert "neither a backup set nor a long life" in record.why
    run_redis_backup(platform.plan, platform.stack)
    platform.stack.kill("redis")
    record = recover(platform)
    assert (record.procedure, record.verdict) == ("service", Verdict.RECOVERED), record.why
    assert outcomes(record)["restart-service-redis"] is StepOutcome.DONE


def test_a_redis_that_lost_its_data_is_handed_over(platform: Platform) -> None:
    server = RedisServer.of(platform.plan, platform.stack, None)
    with server.asking("make a key", state="") as link:
        link.ask("SET", "kept", "since the backup")
    run_redis_backup(platform.plan, platform.stack)
    break_redis(server, RedisFault.WIPE, platform.sandbox.id)
    record = recover(platform)
    handed = platform.ledger.records()[-2]
    assert handed.handed_to == "the redis procedure (redis)"
    assert (record.procedure, record.verdict) == ("redis", Verdict.RECOVERED), record.why
    with server.asking("read it", state="") as link:
        assert link.ask("GET", "kept") == b"since the backup"


def test_logs_are_kept_from_before_the_restart_and_hold_no_secret(platform: Platform) -> None:
    secrets = platform.sandbox.directory / "secrets"
    password, token = ((secrets / name).read_text() for name in ("db_password", "jwt_secret"))
    log = platform.stack.directory / "logs" / f"{SERVICE}.log"
    with log.open("a") as file:
        file.writelines(f"line {n} of the outage\n" for n in range(150))
        file.write(f"cannot reach postgres://neo:{password}@db/x with {token}; http://u:somebody-elses@host/\n")
    began = broken(platform, ServiceFault.KILL)
    record = recover(platform, began=began)
    (kept,) = [one for one in record.logs if one.service == SERVICE]
    assert len(kept.tail.splitlines()) == 100
    assert "line 149 of the outage" in kept.tail
    whole = Path(kept.file).read_text()
    assert "line 0 of the outage" in whole
    assert Path(kept.file).stat().st_mode & 0o777 == 0o600
    for secret in (password, token, "somebody-elses"):
        assert secret not in whole
        assert secret not in record.model_dump_json()
    assert "cannot reach postgres://neo:********@db/x with ********" in kept.tail


def test_a_bad_image_and_no_healthy_one_known_is_not_recovered(capfd: pytest.CaptureFixture[str]) -> None:
    code = cli.run(["drill", "service", "--fault", "bad-image", "--no-known", "--json"])
    said = capfd.readouterr()
    assert (code, said.out != "") == (1, True), said.err
    record = RecoveryRecord.model_validate_json(said.out)
    assert record.verdict is Verdict.NOT_RECOVERED
    assert "no image of it was ever noted as healthy" in record.why
    assert f"{SERVICE} has the image its definition names" in record.state_left
    assert f"--service {SERVICE}" in record.next_step
    assert [step.outcome for step in record.steps] == [StepOutcome.DONE] * len(record.steps)
    assert {"restart", "redeploy", "roll-back"} <= {step.name.partition("-service")[0] for step in record.steps}


def test_a_plan_that_allows_no_rollback_gets_none(platform: Platform) -> None:
    definition = platform.stack.directory / "stack.json"
    was = definition.read_text()
    note_healthy(platform.plan, platform.stack)
    components = dict(platform.plan.components)
    components[SERVICE] = components[SERVICE].model_copy(update={"roll_back": False})
    strict = Platform(platform.sandbox, platform.plan.model_copy(update={"components": components}), platform.stack)
    broken(platform, ServiceFault.BAD_IMAGE)
    try:
        record = recover(strict)
        assert record.verdict is Verdict.NOT_RECOVERED
        assert "the plan does not let it be rolled back" in record.state_left
        assert not [name for name in outcomes(record) if name.startswith("roll-back")]
        record = recover(platform)
        assert record.verdict is Verdict.RECOVERED, record.why
        assert "correct the definition" in record.state_left
        # The definition is as bad as it was: only what runs was changed.
        assert json.loads(definition.read_text()) != json.loads(was)
    finally:
        definition.write_text(was)
        platform.stack.recreate(SERVICE)
        eventually("all is well", lambda: serves(platform))


def test_healthy_images_are_noted_while_all_is_well_and_not_those_of_a_service_that_is_ill(platform: Platform) -> None:
    said: list[str] = []
    (platform.plan.platform.state / f"{platform.plan.platform.name}.images.json").unlink(missing_ok=True)
    platform.stack.kill(NEIGHBOUR)
    with noting(platform.plan, said.append):
        eventually("the others are noted", lambda: healthy_image(platform.plan, SERVICE) is not None)
    known = healthy_image(platform.plan, SERVICE)
    assert known is not None
    assert known.image == platform.stack.image(SERVICE)
    assert healthy_image(platform.plan, NEIGHBOUR) is None
    # The record is proven, so what runs now is healthy too.
    assert recover(platform).verdict is Verdict.RECOVERED
    assert healthy_image(platform.plan, NEIGHBOUR) is not None
    assert said == []


def test_what_was_stopped_on_purpose_is_left_unless_it_is_asked_for(platform: Platform) -> None:
    platform.stack.stop(SERVICE)
    record = recover(platform)
    assert record.verdict is Verdict.NOT_RECOVERED
    assert f"{SERVICE}: stopped on purpose" in record.why
    assert record.next_step == f"recoup recover service --service {SERVICE}"
    assert not platform.stack.state(SERVICE).running
    record = recover(platform, SERVICE)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert serves(platform)


def test_nothing_that_is_well_is_touched(platform: Platform) -> None:
    before = {name: platform.stack.state(name).started for name in platform.stack.names}
    record = recover(platform)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.steps[0].detail == "nothing has failed"
    assert {name: platform.stack.state(name).started for name in platform.stack.names} == before


def test_an_unknown_service_is_refused_with_the_known_names(
    platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["recover", "service", "--plan", str(platform.sandbox.plan), "--service", "no-such", "--yes"]
    assert cli.run(argv) == 2
    said = capsys.readouterr().err
    assert "no service named no-such" in said
    assert all(name in said for name in (GATEWAY, SERVICE, NEIGHBOUR, "redis"))


def test_a_dry_run_tells_the_cause_and_changes_nothing(platform: Platform, capsys: pytest.CaptureFixture[str]) -> None:
    broken(platform, ServiceFault.KILL)
    try:
        assert cli.run(["recover", "service", "--plan", str(platform.sandbox.plan), "--dry-run"]) == 0
        said = capsys.readouterr().out
        assert "the cause is" in said
        assert f"restart {SERVICE} and {NEIGHBOUR} at the same time" in said
        assert not platform.stack.state(SERVICE).running
    finally:
        assert recover(platform).verdict is Verdict.RECOVERED


@pytest.mark.parametrize(
    "step", ["diagnose-services", "keep-logs", f"restart-service-{SERVICE}", "check-services", "check-as-user"]
)
def test_a_killed_run_goes_on(step: str, platform: Platform) -> None:
    began = broken(platform, ServiceFault.KILL)
    died = run_in_a_process_of_its_own(_recover_and_die, platform.sandbox.plan, platform.ledger.path, began, step)
    assert died == -signal.SIGKILL
    state, name = platform.plan.platform.state, platform.plan.platform.name
    left = Journal.unfinished(state, name, "service", "services")
    assert left is not None
    record = run_service_recovery(
        platform.plan, ServiceRecovery(plan=platform.sandbox.plan), ledger=platform.ledger.path
    )
    assert record.verdict is Verdict.RECOVERED, record.why
    assert (record.run_id, record.clock.began) == (left.header.run_id, began)
    assert {one.service for one in record.logs} >= {SERVICE, NEIGHBOUR}
    assert serves(platform)


def test_two_at_once_are_refused(platform: Platform) -> None:
    with platform.recovering_elsewhere(now()), pytest.raises(BusyError, match="is held by"):
        recover(platform)


def test_no_fault_is_injected_where_there_is_no_sandbox(platform: Platform) -> None:
    with pytest.raises(PreconditionError, match="is not the sandbox"):
        inject(platform.plan, platform.stack, ServiceFault.KILL, "another")
    assert serves(platform)
    assert Door.of(platform.plan, platform.stack).url


def test_a_non_critical_service_has_its_own_objective(platform: Platform) -> None:
    components = dict(platform.plan.components)
    components[NEIGHBOUR] = components[NEIGHBOUR].model_copy(update={"tier": "non-critical"})
    plan = platform.plan.model_copy(update={"components": components})
    looser = Platform(platform.sandbox, plan, platform.stack)
    platform.stack.kill(NEIGHBOUR)
    record = recover(looser)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert (record.component, record.rto_objective) == (NEIGHBOUR, plan.objectives.rto.non_critical)
    broken(platform, ServiceFault.KILL)
    record = recover(looser)
    assert record.rto_objective == plan.objectives.rto.critical
    assert all(check.outcome is Outcome.PASSED for check in record.checks)


def _recover_and_die(plan: Path, ledger: Path, began: datetime, step: str) -> None:
    with watched_by(Killer(step)):
        run_service_recovery(load_plan(plan), ServiceRecovery(plan=plan, began=began), ledger=ledger)
