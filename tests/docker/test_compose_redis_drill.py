"""Redis 8 and its replica in containers: the naive way empties both, the procedure gives back what the replica has."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import docker
import pytest

from flows.drill import StackKind
from flows.drill_redis import RedisDrill, drill_redis
from flows.redis_store import RedisRecovery, run_redis_backup, run_redis_recovery
from recoup.places import ledger_path
from recoup.plan import Plan, load_plan
from recoup.records import RecoveryRecord, Verdict, now
from recoup.stacks import open_stack
from tasks.redis_fault import RedisFault, inject
from tasks.redis_server import RedisServer
from tasks.sandbox import Sandbox, create, destroy
from tests.stack_behaviour import REDIS, SOON, eventually

REPLICA = "redis-replica"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECOUP_STATE", str(tmp_path))
    return tmp_path


@pytest.fixture
def pair(engine: docker.DockerClient, state: Path) -> Iterator[Sandbox]:
    made = create("compose", redis_replica=True)
    yield made
    destroy(made)


def cli(plan: Plan, service: str, *words: str) -> str:
    return open_stack(plan).execute(service, ("redis-cli", *words), timeout=SOON, check=False).text


def recover(plan: Plan, path: Path) -> RecoveryRecord:
    return run_redis_recovery(plan, RedisRecovery(plan=path, began=now()), ledger=ledger_path(plan))


def test_the_naive_way_empties_both_and_the_procedure_keeps_what_the_replica_has(pair: Sandbox) -> None:
    plan = load_plan(pair.plan)
    stack = open_stack(plan)
    server = RedisServer.of(plan, stack, None)
    stack.stop("api-gateway")
    cli(plan, REDIS, "mset", "a", "1", "b", "2")
    run_redis_backup(plan, stack)
    cli(plan, REDIS, "set", "since", "the backup")
    eventually("the replica has it", lambda: cli(plan, REPLICA, "get", "since") == "the backup")
    inject(server, RedisFault.WIPE, pair.id)
    stack.start(REDIS)
    eventually("both are empty", lambda: cli(plan, REPLICA, "dbsize") == "0", within=timedelta(seconds=30))
    # Nothing of the replica is left to be used now: the set is, and the record says why.
    record = recover(plan, pair.plan)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.backup is not None
    assert "its data are gone" in record.backup.why
    stack.stop("api-gateway")
    assert (cli(plan, REDIS, "get", "a"), cli(plan, REDIS, "get", "since")) == ("1", "")
    eventually("the replica follows", lambda: cli(plan, REPLICA, "get", "a") == "1")

    cli(plan, REDIS, "set", "since", "the backup")
    eventually("the replica has it", lambda: cli(plan, REPLICA, "get", "since") == "the backup")
    inject(server, RedisFault.WIPE, pair.id)
    record = recover(plan, pair.plan)
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.backup is not None
    assert record.backup.why.startswith("the freshest there is")
    for service in (REDIS, REPLICA):
        assert cli(plan, service, "mget", "a", "b", "since") == "1\n2\nthe backup"
    assert "slave" in cli(plan, REPLICA, "role")


def test_the_drill_leaves_nothing_behind(engine: docker.DockerClient) -> None:
    record = drill_redis.fn(RedisDrill(fault=RedisFault.WIPE, stack=StackKind.COMPOSE))
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.stack.startswith("compose:")
    (store,) = record.stores
    assert store.acknowledged_writes_lost is not None
    assert store.acknowledged_writes_lost < 10
    sandbox = record.stack.rpartition("-")[2]
    left = {str(one.name) for one in engine.containers.list(all=True, ignore_removed=True)} | {
        str(v.name) for v in engine.volumes.list()
    }
    assert not {name for name in left if sandbox in name}
