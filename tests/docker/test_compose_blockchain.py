"""Nodes in containers made wrong: the endpoint switched in the env file of Compose, the gateway alone made anew."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import docker
import httpx
import pytest

from flows.backup import run_backup
from flows.blockchain import BlockchainRecovery, run_blockchain_recovery
from flows.redis_store import run_redis_backup
from recoup import env_file
from recoup.places import ledger_path
from recoup.plan import ComposeSite, Plan, load_plan
from recoup.records import RecoveryRecord, Verdict, now
from recoup.stacks import open_stack
from tasks.chain_fault import ChainFault, inject
from tasks.sandbox import Sandbox, create, destroy

GATEWAY, OTHERS = "api-gateway", ("postgres", "redis", "records-service", "accounts-service", "neo-backup-rpc")
BACKUP = {"NEO_N3_RPC_URL": "http://neo-backup-rpc:8080/n3/1", "NEO_X_RPC_URL": "http://neo-backup-rpc:8080/x/1"}


@pytest.fixture(scope="module")
def made(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOUP_STATE", str(tmp_path_factory.mktemp("state")))
        sandbox = create("compose", backup_nodes=True)
        try:
            plan = load_plan(sandbox.plan)
            run_backup(plan, open_stack(plan), verify=False)
            run_redis_backup(plan, open_stack(plan))
            yield sandbox
        finally:
            destroy(sandbox)


@pytest.fixture
def plan(made: Sandbox) -> Plan:
    return load_plan(made.plan)


def test_silent_nodes_are_left_and_only_the_gateway_is_made_anew(
    plan: Plan, made: Sandbox, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the written plan has its reader type: to Compose it would outdo the file.
    monkeypatch.setenv("NEO_N3_RPC_URL", "https://mainnet2.neo.coz.io:443")
    monkeypatch.setenv("NEO_X_RPC_URL", "https://backup.neox.org:443")
    file = env_of(plan)
    # For a container; the docker client has to be found all the same.
    file.write_text(file.read_text() + "PATH=/nowhere\n")
    before, ids = file.read_text(), containers(engine, made)
    began = inject(open_stack(plan), ChainFault.SILENT, made.id)
    record = recover(plan, made, began)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert file.read_text() == env_file.changed(before, BACKUP)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (kept,) = file.parent.glob(f"{file.name}.before-*")
    assert (kept.read_text(), stat.S_IMODE(kept.stat().st_mode)) == (before, 0o600)
    has = dict(one.split("=", 1) for one in engine.containers.get(f"{made.id}-neo-{GATEWAY}").attrs["Config"]["Env"])
    assert {name: has[name] for name in BACKUP} == BACKUP
    after = containers(engine, made)
    assert after.pop(GATEWAY) != ids.pop(GATEWAY)
    assert after == ids
    host, port = open_stack(plan).endpoint(GATEWAY, 8080)
    for chain in ("n3", "x"):
        assert httpx.get(f"http://{host}:{port}/api/v1/chain/{chain}/height", timeout=5).json()["height"] > 0


def test_with_every_node_gone_nothing_is_changed(plan: Plan, made: Sandbox, engine: docker.DockerClient) -> None:
    file = env_of(plan)
    before, ids = file.read_bytes(), containers(engine, made)
    record = recover(plan, made, inject(open_stack(plan), ChainFault.ALL_DOWN, made.id))
    assert record.verdict is Verdict.NOT_RECOVERED
    assert all(url in record.why for url in BACKUP.values())
    assert "nothing was changed" in record.state_left
    assert (file.read_bytes(), containers(engine, made)) == (before, ids)


def recover(plan: Plan, made: Sandbox, began: object) -> RecoveryRecord:
    request = BlockchainRecovery.model_validate({"plan": made.plan, "began": began or now()})
    return run_blockchain_recovery(plan, request, ledger=ledger_path(plan))


def env_of(plan: Plan) -> Path:
    site = plan.platform.stack
    assert isinstance(site, ComposeSite)
    assert site.env_file
    return site.env_file


def containers(engine: docker.DockerClient, made: Sandbox) -> dict[str, str]:
    names = {name: name if name.startswith("neo-") else f"neo-{name}" for name in (GATEWAY, *OTHERS)}
    return {name: str(engine.containers.get(f"{made.id}-{one}").id) for name, one in names.items()}
