"""Nodes of a sandbox really made wrong, and the access to the chains brought back by the whole procedure."""

from __future__ import annotations

import json
import os
import signal
import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from deployments import cli
from flows import blockchain
from flows.backup import run_backup
from flows.blockchain import BlockchainRecovery, run_blockchain_recovery
from flows.drill_blockchain import BlockchainDrill, drill_blockchain
from flows.procedure import watched_by
from flows.redis_store import run_redis_backup
from recoup import env_file
from recoup.errors import PreconditionError
from recoup.journal import Journal
from recoup.plan import ChainComponent, Endpoint, Plan, load_plan
from recoup.records import Outcome, RecoveryRecord, StepOutcome, Subject, Verdict, now
from recoup.stacks import Health
from recoup.stacks.process import ProcessStack
from tasks import chain_check
from tasks.chain_fault import NODES, ChainFault, inject
from tasks.sandbox import create, destroy
from tasks.sandbox_process import BACKUP_NODES, ENV_FILE
from tests.drills.platform import Killer, Platform, run_in_a_process_of_its_own
from tests.rpc_proxy import Fault, way_to
from tests.stack_behaviour import eventually

GATEWAY, N3, X = "api-gateway", "neo-n3", "neo-x"
# What an operator may have in such a file, and has to find there afterwards.
AROUND = (
    "# endpoints, changed last by hand\n",
    "\n  OTHER='a b' # stays\nPEM=\"-----\nNEO_N3_RPC_URL=inside\n-----\"\n",
)


@pytest.fixture(scope="module")
def platform(state: Path) -> Iterator[Platform]:
    """Give a running sandbox with nodes in reserve and a backup of each store."""
    made = create("process", backup_nodes=True)
    try:
        plan = load_plan(made.plan)
        platform = Platform(made, plan, ProcessStack.open(made.directory))
        run_backup(plan, platform.stack, verify=False)
        run_redis_backup(plan, platform.stack)
        yield platform
    finally:
        destroy(made)


@pytest.fixture
def environment(platform: Platform) -> Iterator[Path]:
    """Give the environment file, with what people write into such files; all is as it was afterwards."""
    path = platform.sandbox.directory / ENV_FILE
    before = path.read_text()
    path.write_text(before.join(AROUND))
    path.chmod(0o640)
    yield path
    path.write_text(before)
    (platform.plan.platform.state / f"{platform.plan.platform.name}.chains.json").unlink(missing_ok=True)
    bring_back(platform, *NODES, BACKUP_NODES, GATEWAY)


def bring_back(platform: Platform, *services: str) -> None:
    for service in services:
        # One that stands still does not end by being asked to.
        platform.stack.kill(service)
        platform.stack.recreate(service)

    def healthy() -> bool:
        return all(platform.stack.state(one).health is Health.HEALTHY for one in services)

    eventually(f"{', '.join(services)} are back", healthy)


def recover(platform: Platform, plan: Plan | None = None, **request: object) -> RecoveryRecord:
    asked = BlockchainRecovery.model_validate({"plan": platform.sandbox.plan, "began": now(), **request})
    return run_blockchain_recovery(plan or platform.plan, asked, ledger=platform.ledger.path)


def chain(plan: Plan, name: str) -> ChainComponent:
    found = plan.component(name)
    assert isinstance(found, ChainComponent)
    return found


def urls(platform: Platform, name: str) -> list[str]:
    return [one.url for one in chain(platform.plan, name).endpoints]


def height(platform: Platform, path: str = "n3") -> int:
    """Ask as a user, past everything that is tested."""
    host, port = platform.stack.endpoint(GATEWAY, 8080)
    return int(httpx.get(f"http://{host}:{port}/api/v1/chain/{path}/height", timeout=5).json()["height"])


def started(platform: Platform, *services: str) -> dict[str, datetime | None]:
    return {name: platform.stack.state(name).started for name in services}


@pytest.mark.parametrize("fault", [one for one in ChainFault if one is not ChainFault.ALL_DOWN])
def test_a_node_that_cannot_be_trusted_is_left_for_a_healthy_one(
    fault: ChainFault, platform: Platform, environment: Path
) -> None:
    others = started(platform, "records-service", "accounts-service", "postgres", "redis", BACKUP_NODES)
    before = environment.read_bytes()
    began = inject(platform.stack, fault, platform.sandbox.id)
    record = recover(platform, began=began)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.rto_met
    assert record.component == f"{N3}, {X}"
    assert {one.store: one.met for one in record.stores} == {"database": True, "redis": True, "contracts": True}
    # The file: these two values, and nothing else.
    n3, x = urls(platform, N3), urls(platform, X)
    wanted = before.replace(f"\nNEO_N3_RPC_URL={n3[0]}\n".encode(), f"\nNEO_N3_RPC_URL={n3[1]}\n".encode())
    assert environment.read_bytes() == wanted.replace(x[0].encode(), x[1].encode())
    assert stat.S_IMODE(environment.stat().st_mode) == 0o640
    (kept,) = environment.parent.glob(f"{ENV_FILE}.before-{record.run_id}")
    assert kept.read_bytes() == before
    assert stat.S_IMODE(kept.stat().st_mode) == 0o640
    # The services: the one that uses the chains has them, nobody else was touched.
    assert platform.stack.environments(GATEWAY)[0]["NEO_N3_RPC_URL"] == n3[1]
    assert started(platform, *others) == others
    first = height(platform)
    eventually("the chain moves for users", lambda: height(platform) > first)
    reason = {
        ChainFault.SILENT: "no answer",
        ChainFault.LAGGING: "blocks behind the others",
        ChainFault.FORKED: "is on another fork",
        ChainFault.WRONG_NETWORK: "is on network 894710606, not 860833102",
    }[fault]
    diagnosed = next(step for step in record.steps if step.name == "diagnose-chains")
    assert reason in diagnosed.detail


def test_where_no_endpoint_is_healthy_nothing_is_changed_and_each_is_told(
    platform: Platform, environment: Path
) -> None:
    before, gateway = environment.read_bytes(), started(platform, GATEWAY)
    record = recover(platform, began=inject(platform.stack, ChainFault.ALL_DOWN, platform.sandbox.id))
    assert record.verdict is Verdict.NOT_RECOVERED
    assert not record.rto_met
    assert all(url in record.why for url in (*urls(platform, N3), *urls(platform, X)))
    assert "nothing was changed" in record.state_left
    assert environment.read_bytes() == before
    assert started(platform, GATEWAY) == gateway
    assert not list(environment.parent.glob(f"{ENV_FILE}.before-{record.run_id}"))


def test_one_chain_without_a_healthy_endpoint_does_not_keep_the_other_from_being_switched(
    platform: Platform, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockchain, "USER_DEADLINE", timedelta(seconds=1))
    key = "0123456789abcdef0123456789abcdef"
    dead = Endpoint(url=f"http://127.0.0.1:9/v3/{key}")
    only = chain(platform.plan, X).model_copy(update={"endpoints": (dead,), "service": None})
    plan = platform.plan.model_copy(update={"components": {**platform.plan.components, X: only}})
    environment.write_text(env_file.changed(environment.read_text(), {"NEO_X_RPC_URL": dead.url}))
    platform.stack.recreate(GATEWAY)
    platform.stack.freeze(NODES[0])
    record = recover(platform, plan)
    assert record.verdict is Verdict.NOT_RECOVERED
    assert f"{X}: no endpoint is healthy: http://127.0.0.1:9/v3/********: connection refused" in record.why
    # What the gateway itself tells its users is the platform's.
    told = [one.detail for one in record.steps if one.name != "check-as-user"] + [record.state_left, record.next_step]
    assert key not in " ".join((record.why, *told))
    assert platform.stack.environments(GATEWAY)[0]["NEO_N3_RPC_URL"] == urls(platform, N3)[1]
    assert height(platform)


def test_a_healthy_endpoint_is_kept_and_a_better_one_is_gone_back_to_only_when_asked_and_rested(
    platform: Platform, environment: Path
) -> None:
    n3 = urls(platform, N3)
    inject(platform.stack, ChainFault.SILENT, platform.sandbox.id)
    assert recover(platform).verdict is Verdict.RECOVERED
    bring_back(platform, *NODES)
    gateway = started(platform, GATEWAY)
    record = recover(platform)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.state_left == ""
    assert env_file.values(environment.read_text())["NEO_N3_RPC_URL"] == n3[1]
    # Asked to, it still has to rest; that is noted without its address, in which a key may be.
    note = platform.plan.platform.state / f"{platform.plan.platform.name}.chains.json"
    assert n3[0] not in note.read_text()
    record = recover(platform, back=True)
    chosen = next(step for step in record.steps if step.name == "choose-endpoints")
    assert f"{n3[0]} was left less than 10 min ago" in chosen.detail
    assert started(platform, GATEWAY) == gateway
    rested = chain(platform.plan, N3).model_copy(update={"cool_down": timedelta()})
    plan = platform.plan.model_copy(update={"components": {**platform.plan.components, N3: rested}})
    record = recover(platform, plan, back=True, chains=(N3,))
    assert record.verdict is Verdict.RECOVERED, record.why
    assert platform.stack.environments(GATEWAY)[0]["NEO_N3_RPC_URL"] == n3[0]
    # The contracts on the other chain were not looked at.
    contracts = next(one for one in record.stores if one.store == "contracts")
    assert (contracts.met, contracts.basis) == (None, "not every contract was proven")


def test_what_got_worse_is_put_back(platform: Platform, environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockchain, "USER_DEADLINE", timedelta(seconds=1))
    monkeypatch.setattr(chain_check, "SAID_NOTHING", timedelta(seconds=1))
    # Well from here, and not to be reached by the services.
    real = chain(platform.plan, N3)
    trap = Endpoint(url="http://127.0.0.1:9", from_host=real.endpoints[1].url, weight=100)
    trapped = real.model_copy(update={"endpoints": (*real.endpoints, trap)})
    plan = platform.plan.model_copy(update={"components": {**platform.plan.components, N3: trapped}})
    inject(platform.stack, ChainFault.LAGGING, platform.sandbox.id)
    before = environment.read_bytes()
    record = recover(platform, plan, chains=(N3,))
    assert record.verdict is Verdict.NOT_RECOVERED
    assert "it got worse" in record.why
    assert "as it was" in record.state_left
    assert environment.read_bytes() == before
    assert platform.stack.environments(GATEWAY)[0]["NEO_N3_RPC_URL"] == real.endpoints[0].url
    assert height(platform)
    # It is not tried again while there is another.
    record = recover(platform, plan, chains=(N3,))
    assert record.verdict is Verdict.RECOVERED, record.why
    assert platform.stack.environments(GATEWAY)[0]["NEO_N3_RPC_URL"] == real.endpoints[1].url


def test_killed_while_it_puts_back_it_goes_on_putting_back_whatever_got_well_meanwhile(
    platform: Platform, environment: Path
) -> None:
    real = chain(platform.plan, N3)
    with way_to(real.endpoints[1].url) as way:
        trap = Endpoint(url=way.url, from_host=real.endpoints[1].url, weight=100)
        trapped = real.model_copy(update={"endpoints": (*real.endpoints, trap)})
        plan = platform.plan.model_copy(update={"components": {**platform.plan.components, N3: trapped}})
        began = inject(platform.stack, ChainFault.LAGGING, platform.sandbox.id)
        before = environment.read_bytes()
        way.fault = Fault.HTML
        step = f"renew-service-{GATEWAY}-back"
        died = run_in_a_process_of_its_own(
            _put_back_and_die, plan, platform.sandbox.plan, platform.ledger.path, began, step
        )
        assert died == -signal.SIGKILL
        assert platform.stack.environments(GATEWAY)[0]["NEO_N3_RPC_URL"] == way.url
        way.fault = Fault.NONE
        record = recover(platform, plan, chains=(N3,), began=None)
    assert record.verdict is Verdict.NOT_RECOVERED
    assert "it got worse" in record.why
    assert environment.read_bytes() == before
    assert platform.stack.environments(GATEWAY)[0]["NEO_N3_RPC_URL"] == real.endpoints[0].url


@pytest.mark.parametrize("step", ["switch-endpoints", f"renew-service-{GATEWAY}", "check-as-user"])
def test_killed_at_a_step_it_goes_on(step: str, platform: Platform, environment: Path) -> None:
    began = inject(platform.stack, ChainFault.SILENT, platform.sandbox.id)
    died = run_in_a_process_of_its_own(_recover_and_die, platform.sandbox.plan, platform.ledger.path, began, step)
    assert died == -signal.SIGKILL
    left = Journal.unfinished(platform.plan.platform.state, platform.plan.platform.name, "blockchain", f"{N3},{X}")
    assert left is not None
    record = recover(platform, began=None)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.run_id == left.header.run_id
    assert record.clock.began == began
    assert platform.stack.environments(GATEWAY)[0]["NEO_N3_RPC_URL"] == urls(platform, N3)[1]
    kept = list(environment.parent.glob(f"{ENV_FILE}.before-{record.run_id}"))
    assert [urls(platform, N3)[0] in one.read_text() for one in kept] == [True]
    resumed = {one.name for one in record.steps if one.resumed}
    assert ("switch-endpoints" in resumed) == (step in (f"renew-service-{GATEWAY}", "check-as-user"))


def test_a_switch_by_hand_that_nobody_deployed_is_deployed(platform: Platform, environment: Path) -> None:
    """The file says one endpoint, the service has another: whoever edited it forgot to make the service anew."""
    n3 = urls(platform, N3)
    platform.stack.freeze(NODES[0])
    environment.write_text(env_file.changed(environment.read_text(), {"NEO_N3_RPC_URL": n3[2]}))
    record = recover(platform, chains=(N3,))
    assert record.verdict is Verdict.RECOVERED, record.why
    assert platform.stack.environments(GATEWAY)[0]["NEO_N3_RPC_URL"] == n3[2]


def test_a_dry_run_says_it_all_and_does_nothing(
    platform: Platform, environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inject(platform.stack, ChainFault.SILENT, platform.sandbox.id)
    before = environment.read_bytes()
    assert cli.run(["recover", "blockchain", "--plan", str(platform.sandbox.plan), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"write NEO_N3_RPC_URL={urls(platform, N3)[1]} into {environment}" in said
    assert f"--force-recreate {GATEWAY}" in said
    assert environment.read_bytes() == before
    # And the status, for people and for programs.
    assert cli.run(["chain", "status", "--plan", str(platform.sandbox.plan)]) == 1
    assert "no answer" in " ".join(capsys.readouterr().out.split())
    assert cli.run(["chain", "status", "--plan", str(platform.sandbox.plan), "--chain", "nothing"]) == 2
    assert cli.run(["chain", "status", "--plan", str(platform.sandbox.plan), "--json"]) == 1
    seen = json.loads(capsys.readouterr().out)["chains"]
    assert [[bool(one["reasons"]) for one in of["endpoints"]] for of in seen] == [[True, False, False]] * 2


def test_the_whole_drill_loses_no_write() -> None:
    record = drill_blockchain.fn(BlockchainDrill(fault=ChainFault.WRONG_NETWORK))
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.stores[0].acknowledged_writes
    assert record.stores[0].acknowledged_writes_lost == 0
    assert all(check.outcome is Outcome.PASSED for check in record.checks)
    assert {check.subject for check in record.checks} == {Subject.STATUS, Subject.DATA, Subject.USER}
    assert all(step.outcome is StepOutcome.DONE for step in record.steps)


def test_a_fault_is_injected_into_no_other_sandbox(platform: Platform) -> None:
    with pytest.raises(PreconditionError, match="never injected"):
        inject(platform.stack, ChainFault.ALL_DOWN, "another")
    assert os.path.exists(platform.sandbox.plan)


def _recover_and_die(plan: Path, ledger: Path, began: datetime, step: str) -> None:
    with watched_by(Killer(step, "")):
        run_blockchain_recovery(load_plan(plan), BlockchainRecovery(plan=plan, began=began), ledger=ledger)


def _put_back_and_die(plan: Plan, path: Path, ledger: Path, began: datetime, step: str) -> None:
    blockchain.USER_DEADLINE = chain_check.SAID_NOTHING = timedelta(seconds=1)
    with watched_by(Killer(step, "")):
        run_blockchain_recovery(plan, BlockchainRecovery(plan=path, began=began, chains=(N3,)), ledger=ledger)
