"""A warm standby takes over: drilled whole, killed on the way, behind, and beside an old primary that comes back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flows.backup import run_backup
from flows.continuous import run_base_backup
from flows.drill import DatabaseDrill, Policy, drill_database
from flows.standby import StandbyRequest, build_pair, pair
from recoup.errors import PreconditionError, ProgramError
from recoup.journal import Journal
from recoup.plan import Plan, load_plan
from recoup.records import Outcome, RecoveryRecord, StepOutcome, Verdict, now
from recoup.stacks.process import ProcessStack
from tasks.heartbeat import watching, witness_of
from tasks.postgres import Role, live_role
from tasks.postgres_fault import Fault
from tasks.sandbox import create, destroy
from tasks.wal_receiver import continuous_of, receiver_of
from tests.drills.platform import Platform
from tests.stack_behaviour import SOON, eventually

TAKEN_OVER = ["choose-standby", "fence-primary", "promote-standby"]
PAIR = ("postgres", "postgres-standby")


@pytest.mark.parametrize(
    ("fault", "policy"),
    [(Fault.WIPE, Policy.ZERO_LOSS), (Fault.CORRUPT, Policy.ASYNC), (Fault.CONTROL_FILE, Policy.ASYNC)],
)
def test_the_standby_takes_over_and_the_old_primary_follows_it(fault: Fault, policy: Policy) -> None:
    record = drill_database.fn(DatabaseDrill(fault=fault, policy=policy, standby=True))
    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    steps = [step.name for step in record.steps]
    assert [name for name in steps if name in TAKEN_OVER] == TAKEN_OVER, record.backup and record.backup.why
    # Users wait for the receiver only where each commit does.
    assert (steps.index("resume-receiving") < steps.index("check-as-user")) is (policy is Policy.ZERO_LOSS)
    # Whoever asks for the one that takes writes is served by it without being stopped.
    assert not {"stop-services", "replay-wal", "restore-beside"} & set(steps)
    assert record.backup is not None
    assert record.backup.set_id is None
    assert "postgres-standby took over" in record.backup.why
    assert record.state_left.startswith("the old data of postgres are kept at ")
    (store,) = record.stores
    assert store.acknowledged_writes is not None
    assert store.acknowledged_writes >= 20
    assert store.acknowledged_writes_lost is not None
    assert store.acknowledged_writes_lost <= (0 if policy is Policy.ZERO_LOSS else 3)
    followed = next(step for step in record.steps if step.name == "see-to-standby")
    assert followed.detail.startswith("postgres follows: a new copy")


def test_what_dropped_a_table_was_done_on_the_standby_too() -> None:
    record = drill_database.fn(DatabaseDrill(fault=Fault.DROP_TABLE, policy=Policy.ASYNC, standby=True))
    assert record.verdict is Verdict.RECOVERED
    assert record.backup is not None
    assert record.backup.why.startswith("a dump: no standby: what dropped the missing tables was done on the standby")
    assert "fence-primary" not in {step.name for step in record.steps}


@pytest.fixture(scope="module")
def platform(state: Path) -> Iterator[Platform]:
    """Give a platform with a standby, whose every commit waits for the receiver of its WAL; one dump, one base."""
    made = create("process", policy="zero-loss", standby=True)
    try:
        found = Platform(made, load_plan(made.plan), ProcessStack.open(made.directory))
        run_backup(found.plan, found.stack, verify=False)
        run_base_backup(found.plan, found.stack, verify=False)
        yield found
    finally:
        destroy(made)


def sql(platform: Platform, service: str, statement: str) -> str:
    """Run SQL as the owner on one of the two, past everything that is tested."""
    argv = ("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "neo", "-d", "neo_service_layer", "-c", statement)
    return platform.stack.execute(service, argv, timeout=SOON).text


def write(platform: Platform, name: str) -> None:
    sql(platform, platform.server.service, f"INSERT INTO records (id, body) VALUES ('{name}', '{{}}')")


def written(platform: Platform) -> list[str]:
    statement = "SELECT id FROM records WHERE id LIKE 'before-%' ORDER BY id"
    return sql(platform, platform.server.service, statement).split()


def data_of(platform: Platform, service: str) -> Path:
    return platform.sandbox.directory / "services" / service / "data"


def recovered(record: RecoveryRecord) -> RecoveryRecord:
    # Without somebody who watches there is no witness, and some checks stay unproven.
    assert record.verdict in (Verdict.RECOVERED, Verdict.UNPROVEN), record.why
    assert Outcome.FAILED not in {check.outcome for check in record.checks}
    return record


def noted(platform: Platform, since: datetime) -> bool:
    witness = witness_of(continuous_of(platform.server).wal)
    return witness is not None and witness.at > since


def one_takes_writes(platform: Platform, service: str) -> None:
    other = next(name for name in PAIR if name != service)
    assert platform.server.service == service
    eventually("the other one follows", lambda: pair(platform.plan).ready)
    assert sql(platform, other, "SELECT pg_is_in_recovery()") == "t"
    with pytest.raises(ProgramError, match="read-only"):
        sql(platform, other, "CREATE TABLE impostor ()")


KILLED = [
    ("step", "choose-standby"),
    ("step", "fence-primary"),
    ("note", "fencing "),
    ("step", "promote-standby"),
    ("note", "promoting "),
    ("step", "resume-receiving"),
    ("step", "see-to-standby"),
    ("note", "moving the data of "),
]


@pytest.mark.parametrize(("kind", "where"), KILLED, ids=[where for _, where in KILLED])
def test_killed_on_the_way_and_run_again_one_takes_writes_and_nothing_is_lost(
    kind: str, where: str, platform: Platform
) -> None:
    old, new = platform.server.service, platform.server.other().service
    eventually("the standby follows", lambda: pair(platform.plan).ready)
    write(platform, "before-" + where.strip().replace(" ", "-"))
    before, since = written(platform), now()
    with watching(platform.server, lambda _: None):
        eventually("a heartbeat is received", lambda: noted(platform, since))
        began = platform.break_it(Fault.WIPE)
        assert platform.recover_and_die(began, **{kind: where}) == -signal.SIGKILL
        left = Journal.unfinished(platform.plan.platform.state, platform.plan.platform.name, "database", "postgres")
        assert left is not None
        assert left.steps[-1].outcome is StepOutcome.RUNNING
        record = platform.recover()

    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    assert record.run_id == left.header.run_id
    assert record.clock.began == began
    assert {"promote-standby", "see-to-standby"} <= {step.name for step in record.steps}
    assert old in record.state_left
    one_takes_writes(platform, new)
    assert written(platform) == before
    eventually("each commit waits for the receiver again", lambda: receiver_of(platform.server).synchronous)


def test_an_old_primary_that_somebody_starts_takes_no_writes(platform: Platform) -> None:
    old = platform.server.service
    write(platform, "before-fence")
    before = written(platform)
    began = platform.break_it(Fault.CONTROL_FILE)
    control = (data_of(platform, old) / "global" / "pg_control").read_bytes()
    assert platform.recover_and_die(began, step="promote-standby") == -signal.SIGKILL
    # As if it had been down for another reason, and could start.
    (data_of(platform, old) / "global" / "pg_control").write_bytes(control)
    assert platform.server.service == old
    platform.stack.start(old)
    recovered(platform.recover(began))
    assert platform.server.service != old
    assert written(platform) == before


def test_an_old_primary_without_data_makes_no_new_database_when_it_is_started(platform: Platform) -> None:
    old = platform.server.service
    began = platform.break_it(Fault.WIPE)
    assert platform.recover_and_die(began, step="promote-standby") == -signal.SIGKILL
    platform.stack.start(old)
    eventually("it gives up", lambda: not platform.stack.state(old).running)
    assert not (data_of(platform, old) / "PG_VERSION").exists()
    recovered(platform.recover(began))
    assert platform.server.service != old


def test_what_the_standby_had_not_received_is_taken_from_the_received_wal(platform: Platform) -> None:
    server = platform.server
    new = server.other().service
    sql(platform, new, "ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'")
    sql(platform, new, "SELECT pg_reload_conf()")
    eventually("it receives nothing any more", lambda: not pair(platform.plan).streaming)
    write(platform, "before-cut-off")
    before = written(platform)
    assert sql(platform, new, "SELECT count(*) FROM records WHERE id = 'before-cut-off'") == "0"
    record = recovered(platform.recover(platform.break_it(Fault.WIPE)))
    assert "promote-standby" in {step.name for step in record.steps}
    assert platform.server.service == new
    assert written(platform) == before
    assert sql(platform, new, "SHOW restore_command") == ""


def test_a_standby_that_cannot_catch_up_is_passed_over_for_the_wal(platform: Platform) -> None:
    server = platform.server
    assert server.spec.standby is not None
    impatient = server.spec.standby.model_copy(update={"patience": timedelta(seconds=2)})
    name, spec = platform.plan.postgres()
    assert spec.standby is not None
    own = spec.model_copy(update={"standby": spec.standby.model_copy(update={"patience": impatient.patience})})
    hurried = replace(platform, plan=_with(platform.plan, name, own))
    eventually("the standby follows", lambda: pair(platform.plan).ready)
    sql(platform, server.other().service, "SELECT pg_wal_replay_pause()")
    write(platform, "before-pause")
    before = written(platform)
    record = recovered(hurried.recover(platform.break_it(Fault.WIPE)))
    assert {"promote-standby", "replay-wal"} <= {step.name for step in record.steps}
    assert record.backup is not None
    assert record.backup.why.startswith("continuous")
    assert platform.server.service == server.service
    assert written(platform) == before
    # It had followed a history that was left, and is built anew.
    one_takes_writes(platform, server.service)


def test_a_standby_that_was_down_goes_on_where_it_was_when_it_is_built(platform: Platform) -> None:
    standby = platform.server.other().service
    platform.stack.kill(standby)
    eventually("nobody follows", lambda: not pair(platform.plan).streaming)
    built = build_pair.fn(StandbyRequest(plan=platform.sandbox.plan))
    assert (built.service, built.how, built.aside) == (standby, "it went on", "")


def test_no_standby_is_built_of_a_server_that_is_down(platform: Platform) -> None:
    platform.stack.kill(platform.server.service)
    try:
        with pytest.raises(PreconditionError, match="takes no writes: it does not answer"):
            build_pair.fn(StandbyRequest(plan=platform.sandbox.plan))
    finally:
        platform.stack.start(platform.server.service)
        eventually("the standby follows", lambda: pair(platform.plan).ready)


def test_both_can_change_places_in_good_order_and_nothing_is_copied(platform: Platform) -> None:
    old, new = platform.server.service, platform.server.other().service
    eventually("the standby follows", lambda: pair(platform.plan).ready)
    write(platform, "before-switch")
    before = written(platform)
    record = recovered(platform.recover(source="standby", restore="always"))
    one_takes_writes(platform, new)
    assert written(platform) == before
    followed = next(step for step in record.steps if step.name == "see-to-standby")
    assert followed.detail == f"{old} follows: its data were those of the other one"


def test_what_is_restored_though_it_answers_is_not_taken_from_the_standby(platform: Platform) -> None:
    service = platform.server.service
    record = recovered(platform.recover(restore="always"))
    steps = {step.name for step in record.steps}
    assert "replay-wal" in steps
    assert not {"choose-standby", "fence-primary"} & steps
    one_takes_writes(platform, service)


def test_the_watch_goes_with_whoever_takes_writes(platform: Platform) -> None:
    said: list[str] = []
    server = platform.server
    eventually("the standby follows", lambda: pair(platform.plan).ready)
    with watching(server, said.append):
        eventually("it watches the pair", lambda: "the WAL is received; the standby follows" in said)
        since = now()
        eventually("a heartbeat is received", lambda: noted(platform, since))
        record = platform.recover(platform.break_it(Fault.WIPE))
        at = now()
        eventually("heartbeats are written into the new primary", lambda: noted(platform, at))
    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")


def test_two_that_take_writes_are_left_to_a_person_who_gives_one_up(platform: Platform) -> None:
    server = platform.server
    kept, other = server.service, server.other().service
    write(platform, "before-split")
    before = written(platform)
    sql(platform, other, "SELECT pg_promote()")
    with pytest.raises(PreconditionError, match="both take writes") as refused:
        platform.recover()
    assert f"--give-up {other}" in str(refused.value) or f"--give-up {kept}" in str(refused.value)

    with pytest.raises(PreconditionError, match="none of the pair"):
        build_pair.fn(StandbyRequest(plan=platform.sandbox.plan, give_up="redis"))
    built = build_pair.fn(StandbyRequest(plan=platform.sandbox.plan, give_up=other))

    assert built.service == other
    assert "data.aside-" in built.aside
    assert live_role(server) is Role.PRIMARY
    one_takes_writes(platform, kept)
    assert written(platform) == before


def _with(plan: Plan, name: str, spec: object) -> Plan:
    return plan.model_copy(update={"components": {**plan.components, name: spec}})
