"""Redis 8 in containers, its append-only file in parts: lost and there again; the naive way restores nothing."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from recoup.catalog import Repository
from recoup.plan import Plan, load_plan
from recoup.records import Outcome
from recoup.stacks.compose import ComposeStack
from recoup.stacks.compose_project import SIDECAR_LABEL
from tasks.redis_backup import take_redis_backup
from tasks.redis_restore import compare_with, find_redis_backup, restore_redis
from tasks.redis_server import Mode, RedisServer
from tests.docker.conftest import Sandbox
from tests.redis_scratch import APPEND, old_server, scratch
from tests.stack_behaviour import REDIS, SOON, eventually

PLAN = Path(__file__).resolve().parents[2] / "infra" / "plan.yaml"
FAR = "4102444800000"  # in the year 2100, in milliseconds
# Of a library with several functions every server lists these in an order of its own.
FILL = """
redis-cli mset a 1 b 2 >/dev/null
redis-cli -x set binary </bin/true >/dev/null
redis-cli -n 3 rpush list 1 2 3 >/dev/null
redis-cli zadd zset 1.1 x 3e-300 y >/dev/null
redis-cli sadd set $(seq 600) >/dev/null
redis-cli xadd stream 1-1 f v >/dev/null
redis-cli xgroup create stream group 0 >/dev/null
redis-cli xreadgroup group group me streams stream '>' >/dev/null
redis-cli set session s pxat 4102444800000 >/dev/null
redis-cli set soon s px 800 >/dev/null
redis-cli hset hash lasting 1 later 2 soon 3 >/dev/null
redis-cli hpexpireat hash 4102444800000 fields 1 later >/dev/null
redis-cli hpexpire hash 800 fields 1 soon >/dev/null
redis-cli hset fleeting f v >/dev/null
redis-cli hpexpire fleeting 800 fields 1 f >/dev/null
redis-cli acl setuser app on '>of the app' '~read:*' +@read +get '(+set ~app:*)' >/dev/null
redis-cli function load "#!lua name=l
redis.register_function('f', function() return 7 end)
$(for n in 1 2 3 4 5 6 7 8 9; do echo "redis.register_function('f$n', function() return $n end)"; done)" >/dev/null
"""


@pytest.fixture
def whole(sandbox: Sandbox, stack: ComposeStack) -> Iterator[ComposeStack]:
    stack.start(REDIS)
    eventually("redis answers", lambda: cli(stack, "ping") == "PONG")
    # What else writes to it would be told from the copy, and rightly.
    stack.kill("api-gateway")
    cli(stack, "flushall")
    cli(stack, "function", "flush")
    yield stack
    stack.start(REDIS)
    stack.start("api-gateway")


@pytest.fixture
def plan(sandbox: Sandbox, tmp_path: Path) -> Plan:
    written = load_plan(PLAN)
    secret = f"dotenv:{sandbox.site.env_file}#REDIS_PASSWORD"
    component = written.redis()[1].model_copy(update={"service": REDIS, "password": secret})
    platform = written.platform.model_copy(update={"stack": sandbox.site, "repository": tmp_path / "backups"})
    return written.model_copy(update={"platform": platform, "components": {**written.components, "redis": component}})


def cli(stack: ComposeStack, *words: str) -> str:
    return stack.execute(REDIS, ("redis-cli", *words), timeout=SOON, check=False).text


def wipe(stack: ComposeStack) -> None:
    stack.kill(REDIS)
    stack.beside(REDIS, ("sh", "-c", "rm -rf /data/*"), timeout=SOON)


def test_a_lost_redis_8_is_there_again_and_stays(
    whole: ComposeStack, plan: Plan, engine: docker.DockerClient, tmp_path: Path
) -> None:
    server, repository = RedisServer.of(plan, whole, None), Repository(plan.platform.repository)
    whole.execute(REDIS, ("sh", "-c", FILL), timeout=SOON)
    taken = take_redis_backup.fn(server, repository)
    binary = cli(whole, "--raw", "dump", "binary")
    wipe(whole)
    chosen = find_redis_backup(server, repository, "latest")
    assert chosen.set_id == taken.set_id
    restored = restore_redis.fn(server, repository, taken.set_id, "lost")
    assert restored.mode is Mode.PARTS
    assert all(check.outcome is Outcome.PASSED for check in restored.checks)
    assert restored.checks[-1].seen == "the same; made anew: app"
    for _ in ("restored", "restarted"):
        assert cli(whole, "mget", "a", "b", "soon") == "1\n2"
        assert cli(whole, "--raw", "dump", "binary") == binary
        assert cli(whole, "-n", "3", "lrange", "list", "0", "-1") == "1\n2\n3"
        assert cli(whole, "scard", "set") == "600"
        assert cli(whole, "xpending", "stream", "group").startswith("1\n1-1")
        assert cli(whole, "pexpiretime", "session") == FAR
        assert cli(whole, "hpexpiretime", "hash", "fields", "2", "lasting", "later") == f"-1\n{FAR}"
        assert cli(whole, "hlen", "hash") == "2"
        assert cli(whole, "fcall", "f", "0") == "7"
        whole.restart(REDIS)
        eventually("redis answers", lambda: cli(whole, "ping") == "PONG")
    owners = whole.execute(REDIS, ("find", "/data", "!", "-user", "redis"), timeout=SOON).text
    assert owners == ""
    marked: dict[str, str | list[str] | bool] = {"label": f"{SIDECAR_LABEL}={whole.name}"}
    assert engine.containers.list(all=True, filters=marked, ignore_removed=True) == []
    assert [path.name for path in (tmp_path / "backups").iterdir()] == [taken.set_id]


def test_the_naive_way_restores_nothing_and_says_nothing(whole: ComposeStack, plan: Plan, tmp_path: Path) -> None:
    server, repository = RedisServer.of(plan, whole, None), Repository(plan.platform.repository)
    whole.execute(REDIS, ("sh", "-c", FILL), timeout=SOON)
    taken = take_redis_backup.fn(server, repository)
    (one,) = repository.sets("redis")
    wipe(whole)
    (tmp_path / "dump.rdb").write_bytes(gzip.decompress((one.path / "dump.rdb.gz").read_bytes()))
    whole.copy_in(REDIS, tmp_path / "dump.rdb", "/data/dump.rdb")
    whole.start(REDIS)
    eventually("redis answers", lambda: cli(whole, "ping") == "PONG")
    assert cli(whole, "dbsize") == "0"
    assert Outcome.FAILED in {check.outcome for check in compare_with(server, one)}
    restore_redis.fn(server, repository, taken.set_id, "trap")
    assert cli(whole, "get", "a") == "1"


def test_a_set_of_version_6_is_the_same_in_version_8(whole: ComposeStack, plan: Plan, tmp_path: Path) -> None:
    with scratch(tmp_path / "six", *APPEND, program=old_server()) as six:
        with six.client() as client:
            client.mset({f"key:{n}": f"value {n}" for n in range(500)})
            client.set(b"\x00binary\xff", bytes(range(256)))
            client.rpush("list", *range(1000))
            client.sadd("numbers", *range(600))
            client.sadd("words", "x", b"\xff")
            client.zadd("zset", {f"member {n}": n / 7 for n in range(300)})
            client.zadd("few", {"a": float("inf"), "b": 3e-300, "c": -0.1})
            client.hset("hash", mapping={f"field {n}": n for n in range(1000)})
            client.set("session", "s", pxat=int(FAR))
            client.xadd("stream", {"f": "v"}, id="1-1")
            client.xadd("stream", {"f": "v", "g": "w"}, id="2-1")
            client.xgroup_create("stream", "group", "0")
            client.xreadgroup("group", "me", {"stream": ">"}, count=1)
        taken = take_redis_backup.fn(six.server, six.repository)
        server = RedisServer.of(plan, whole, None)
        restored = restore_redis.fn(server, six.repository, taken.set_id, "newer")
    assert [check.outcome for check in restored.checks] == [Outcome.PASSED] * 3
    assert cli(whole, "dbsize") == str(taken.count)


@pytest.mark.parametrize(
    "harm",
    [
        ("del", "a"),
        ("hdel", "hash", "later"),
        ("hpersist", "hash", "fields", "1", "later"),
        ("function", "delete", "l"),
        ("persist", "session"),
    ],
    ids=lambda words: words[0],
)
def test_a_loss_is_told_from_what_expires(whole: ComposeStack, plan: Plan, harm: tuple[str, ...]) -> None:
    server, repository = RedisServer.of(plan, whole, None), Repository(plan.platform.repository)
    whole.execute(REDIS, ("sh", "-c", FILL), timeout=SOON)
    take_redis_backup.fn(server, repository)
    (one,) = repository.sets("redis")
    assert {check.outcome for check in compare_with(server, one)} == {Outcome.PASSED}
    cli(whole, *harm)
    assert Outcome.FAILED in {check.outcome for check in compare_with(server, one)}
