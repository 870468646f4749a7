"""A Redis with a replica that is really broken: the replica keeps what it has, gives it back, and follows again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from flows.database import When
from flows.redis_preview import preview
from flows.redis_store import RedisRecovery, RedisSource, run_redis_backup
from recoup.plan import load_plan
from recoup.records import Verdict, now
from recoup.stacks.process import ProcessStack
from tasks.redis_replica import Detached, Following, followed
from tasks.redis_server import ROUNDING
from tasks.redis_source import compare_with_replica
from tasks.sandbox import Sandbox, create, destroy
from tasks.services import start_services
from tests.redis_files import append_log, empty, everything_in
from tests.redis_scratch import APPEND, SNAPSHOTS, scratch
from tests.services.test_redis_recovery import SESSIONS, Platform, answered, killed_at, recovered, steps
from tests.stack_behaviour import eventually

REPLICA = "redis-replica"
SINCE = 50


@pytest.fixture(scope="module")
def pair(sandbox_state: Path) -> Iterator[Sandbox]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOUP_STATE", str(sandbox_state))
        made = create("process", redis_replica=True)
    yield made
    destroy(made)


class Paired(Platform):
    """A sandbox whose Redis has a replica; sessions are backed up, and more were made since the backup."""

    def replica(self) -> redis.Redis:
        host, port = self.stack.endpoint(REPLICA, 6379)
        return redis.Redis(host=host, port=port, password=self.secret.read_text(encoding="utf-8"), socket_timeout=10)

    def follows(self) -> bool:
        try:
            said = self.replica().info("replication")
        except redis.RedisError:
            return False
        return bool(said["role"] == "slave" and said["master_link_status"] == "up")

    def in_step(self) -> bool:
        return self.follows() and self.replica().dbsize() == self.client().dbsize()

    def apart(self) -> bool:
        return bool(self.replica().info("replication")["role"] == "master")

    def lose(self, *, start: bool = False) -> None:
        """Kill the primary and empty its directory; ``start``: and start it on that, as a stack may do by itself."""
        self.stack.kill("redis")
        empty(self.home / "data")
        if start:
            self.stack.start("redis")
            eventually("it is up, and empty", lambda: answered(self))


@pytest.fixture
def platform(pair: Sandbox, tmp_path: Path) -> Iterator[Paired]:
    whole = load_plan(pair.plan)
    update = {"repository": tmp_path / "backups", "state": tmp_path / "state"}
    plan = whole.model_copy(update={"platform": whole.platform.model_copy(update=update)})
    path = tmp_path / "plan.yaml"
    path.write_text(plan.dump_yaml(), encoding="utf-8")
    made = Paired(plan, path, ProcessStack.open(pair.directory), pair.directory / "secrets" / "redis_password")
    fill(made)
    yield made
    made.stack.start("redis")
    made.stack.start(REPLICA)
    eventually("both are up", lambda: answered(made) and bool(made.replica().ping()))
    start_services.fn(made.stack, made.stack.names)
    host, port = made.stack.endpoint("redis", 6379)
    made.replica().replicaof(host, port)


def fill(made: Paired) -> None:
    eventually("the replica follows", made.follows)
    with made.client() as client:
        client.flushall()
        client.mset({f"session:{n}": f"user {n}" for n in range(SESSIONS)})
        client.acl_setuser("app", enabled=True, passwords=["+of the app"], categories=["+@read"], keys=["*"])
        run_redis_backup(made.plan, made.stack)
        client.mset({f"since:{n}": "the backup" for n in range(SINCE)})
        client.expire("since:0", 3600)
    eventually("the replica has it all", made.in_step)


def since(made: Paired) -> int:
    return len(made.client().keys("since:*"))


def test_the_naive_way_empties_both(platform: Paired) -> None:
    assert platform.replica().dbsize() == SESSIONS + SINCE
    platform.lose(start=True)
    eventually("the replica took over the loss", lambda: platform.follows() and platform.replica().dbsize() == 0)


@pytest.mark.parametrize(("saving", "behind"), [(SNAPSHOTS, True), (APPEND, False)])
def test_a_primary_that_came_back_by_itself_is_held_against_its_replica(
    saving: tuple[str, ...], behind: bool, tmp_path: Path
) -> None:
    with scratch(tmp_path, *saving) as primary:
        with primary.client() as client:
            client.set("saved", 1)
            client.save()
            time.sleep(2)
            client.set("since", 1)
            time.sleep(1)
        heard = now()
        primary.stack.kill("redis")
        primary.start()
        # Its link broke when the primary died; until then it had heard all.
        before = Following(
            host="127.0.0.1", port=1, history="0" * 40, offset=1, point=heard - ROUNDING, until=heard, basis="it heard"
        )
        found = compare_with_replica.fn(primary.server, Detached(service=REPLICA, followed=before))
        assert (found.behind, primary.client().exists("since") == 0) == (behind, behind), found


class TestRecovered:
    def test_a_lost_primary_gets_back_what_was_written_since_the_backup(self, platform: Paired) -> None:
        began = now()
        platform.lose()
        record = platform.recover(began)
        recovered(record)
        assert (platform.sessions(), since(platform)) == (SESSIONS, SINCE)
        assert platform.client().ttl("since:0") > 3000
        assert "app" in platform.client().acl_users(), "users are not replicated: they come from the newest set"
        assert record.backup is not None
        assert record.backup.why.startswith(f"the freshest there is, of {REPLICA}")
        assert platform.in_step()
        order = steps(record)
        assert order.index("detach-redis-replica") < order.index("restart-redis") < order.index("restore-redis")
        newest, older = platform.repository.sets("redis")
        assert newest.set_id == record.backup.set_id
        (store,) = record.stores
        assert store.recovery_point == newest.recovery_point
        assert older.recovery_point is not None
        assert store.recovery_point is not None
        assert older.recovery_point < store.recovery_point <= datetime.now(UTC)
        assert platform.replica().exists("since:1")
        assert not (platform.plan.platform.state / f"{platform.plan.platform.name}.redis.detached.json").exists()

    def test_one_that_comes_back_by_itself_is_followed_again(self, platform: Paired) -> None:
        platform.stack.kill("redis")
        record = platform.recover()
        recovered(record)
        assert "restore-redis" not in steps(record)
        assert record.backup is None
        assert since(platform) == SINCE
        assert platform.in_step()

    def test_one_that_cannot_load_its_data_gets_those_of_the_replica(self, platform: Paired) -> None:
        platform.stack.stop("redis")
        log = append_log(platform.home / "data")
        data = log.read_bytes()
        log.write_bytes(data[: len(data) // 2] + b"\xff" * 200 + data[len(data) // 2 + 200 :])
        recovered(platform.recover())
        assert since(platform) == SINCE
        assert platform.in_step()

    def test_a_healthy_pair_is_left_alone(self, platform: Paired) -> None:
        eventually("it is known when it started", lambda: platform.client().info("server")["uptime_in_seconds"] >= 3)
        link = platform.replica().info("replication")["slave_repl_offset"]
        record = platform.recover()
        recovered(record)
        assert not {"detach-redis-replica", "restore-redis"} & set(steps(record))
        said = platform.replica().info("replication")
        assert said["slave_repl_offset"] >= link
        assert platform.in_step()

    def test_what_it_says_is_no_later_than_what_it_has(self, platform: Paired) -> None:
        """Every write that was acknowledged before the recovery point is there."""
        acknowledged: dict[int, datetime] = {}
        stop = threading.Event()

        def write() -> None:
            client = platform.client()
            while not stop.is_set():
                try:
                    client.set(f"write:{len(acknowledged)}", "x")
                except redis.RedisError:
                    return
                acknowledged[len(acknowledged)] = datetime.now(UTC)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            eventually("it writes", lambda: len(acknowledged) > 500)
            began = now()
            platform.lose()
        finally:
            stop.set()
            writer.join()
        record = platform.recover(began)
        recovered(record)
        there = {int(key[6:]) for key in platform.client().keys("write:*")}
        point = record.stores[0].recovery_point
        assert point is not None
        assert {n for n, when in acknowledged.items() if when < point} <= there
        assert len(there) > 400, "the replica had followed, and its data were not used"


class TestReplicaNotGood:
    def test_one_that_was_emptied_is_not_used_and_why_is_said(self, platform: Paired) -> None:
        platform.client().flushall()
        eventually("the replica flushed too", lambda: platform.replica().dbsize() == 0)
        record = platform.recover()
        recovered(record)
        assert record.backup is not None
        assert f"the replica {REPLICA} is up but its data are gone" in record.backup.why
        assert (platform.sessions(), since(platform)) == (SESSIONS, 0)
        assert platform.in_step()

    def test_one_that_is_down_is_left_down_and_its_data_are_kept(self, platform: Paired) -> None:
        platform.stack.kill(REPLICA)
        platform.lose()
        record = platform.recover()
        recovered(record)
        assert record.backup is not None
        assert "was stopped" in record.backup.why
        assert since(platform) == 0
        assert platform.in_step()
        aside = Path(record.state_left.rpartition("directory ")[2])
        assert "the replica's old data kept at" in record.state_left
        assert b"since:1" in everything_in(aside)

    def test_one_that_had_stopped_following_long_ago_is_not_the_freshest(self, platform: Paired) -> None:
        platform.replica().replicaof("no", "one")
        platform.replica().set("of the replica's own", "1")
        platform.lose()
        record = platform.recover()
        recovered(record)
        assert record.backup is not None
        assert "nothing tells how far it had followed" in record.backup.why
        assert platform.in_step()
        assert not platform.replica().exists("of the replica's own")
        aside = Path(record.state_left.rpartition("directory ")[2])
        assert b"of the replica's own" in everything_in(aside)

    def test_one_that_lost_its_link_before_the_newest_set_is_not_the_freshest(self, platform: Paired) -> None:
        platform.replica().config_set("masterauth", "wrong")
        platform.client().client_kill_filter(_type="replica")
        eventually("its link is broken", lambda: not platform.follows())
        platform.client().set("since:later", "unknown to the replica")
        # A moment later: the replica tells in whole seconds when its link broke.
        eventually("time passes", lambda: platform.replica().info("replication")["master_link_down_since_seconds"] >= 2)
        run_redis_backup(platform.plan, platform.stack)
        platform.lose()
        record = platform.recover()
        recovered(record)
        assert record.backup is not None
        assert "is younger" in record.backup.why
        assert since(platform) == SINCE + 1
        assert platform.in_step()

    def test_one_that_turns_the_password_away_is_stopped_not_followed_into_the_loss(self, platform: Paired) -> None:
        platform.replica().config_set("requirepass", "another")
        platform.lose()
        record = platform.recover()
        recovered(record)
        assert record.backup is not None
        assert "turned the login away" in record.backup.why
        assert since(platform) == 0
        assert platform.in_step()

    def test_a_primary_with_its_data_is_not_restored_from_what_repeats_it(self, platform: Paired) -> None:
        record = platform.recover(restore=When.ALWAYS)
        recovered(record)
        assert record.backup is not None
        assert "the primary has not lost its data" in record.backup.why
        assert since(platform) == 0
        assert platform.in_step()
        aside = Path(record.state_left.rpartition("directory ")[2])
        assert b"since:1" in everything_in(aside)

    def test_unless_it_is_asked_for(self, platform: Paired) -> None:
        record = platform.recover(restore=When.ALWAYS, source=RedisSource.REPLICA)
        recovered(record)
        assert since(platform) == SINCE

    def test_asked_for_and_not_good_nothing_is_touched(self, platform: Paired) -> None:
        platform.client().flushall()
        eventually("the replica flushed too", lambda: platform.replica().dbsize() == 0)
        record = platform.recover(source=RedisSource.REPLICA)
        assert record.verdict is Verdict.NOT_RECOVERED
        assert "the replica cannot be the source" in record.why
        assert "follows nobody" in record.state_left
        assert platform.sessions() == 0


class TestKilled:
    @pytest.mark.parametrize(
        "at",
        [
            "step detach-redis-replica done",
            "step detach-redis-replica running",
            "restarting redis",
            "step restart-redis done",
            "loading the copy into a throwaway server",
            "step back-up-redis-replica done",
            "moving the old data aside",
            "laying the copy down",
            "comparing every key",
            "step restore-redis done",
            "step check-redis done",
            "step attach-redis-replica running",
            "waiting until redis-replica follows",
        ],
    )
    def test_a_killed_recovery_goes_on_and_nothing_of_the_replica_is_lost(self, platform: Paired, at: str) -> None:
        platform.lose()
        began = now()
        killed_at(platform, began, at)
        record = platform.recover(began)
        recovered(record)
        assert (platform.sessions(), since(platform)) == (SESSIONS, SINCE)
        assert platform.in_step()

    def test_a_failed_recovery_leaves_it_detached_and_the_next_one_uses_it(self, platform: Paired) -> None:
        """A new run, not the same one gone on with: what it followed is remembered."""
        platform.lose()
        began = now()
        killed_at(platform, began, "restarting redis")
        assert platform.apart()
        assert any("detached by a recovery" in line for line in preview(platform.plan, _request(platform)))
        record = platform.recover(began, fresh=True)
        recovered(record)
        assert since(platform) == SINCE
        assert platform.in_step()


def test_a_preview_says_what_the_replica_is_and_changes_nothing(platform: Paired) -> None:
    platform.stack.kill("redis")
    lines = preview(platform.plan, _request(platform))
    assert f"its replica {REPLICA}: it follows 127.0.0.1:" in lines[1]
    assert any("REPLICAOF NO ONE" in line for line in lines)
    assert not platform.apart()


class TestHowFar:
    CLOCK = datetime(2026, 11, 23, 3, tzinfo=UTC)
    SILENCE = timedelta(seconds=60)

    def point(self, **said: str) -> datetime | None:
        whole = {
            "role": "slave",
            "master_host": "redis",
            "master_port": "6379",
            "master_replid": "a",
            "slave_repl_offset": "9",
        }
        found = followed({**whole, **said}, self.CLOCK, self.SILENCE)
        assert found is not None
        return found.point

    def test_what_it_last_heard_by_a_link_that_holds(self) -> None:
        point = self.point(master_link_status="up", master_last_io_seconds_ago="4")
        assert point == self.CLOCK - timedelta(seconds=5)

    def test_a_broken_link_may_have_been_silent_before(self) -> None:
        point = self.point(
            master_link_status="down", master_last_io_seconds_ago="-1", master_link_down_since_seconds="10"
        )
        assert point == self.CLOCK - timedelta(seconds=71)

    def test_nothing_is_claimed_by_one_that_was_never_connected_or_is_being_filled(self) -> None:
        assert self.point(master_link_status="down", master_link_down_since_seconds="-1") is None
        filling = {"master_sync_in_progress": "1", "master_link_down_since_seconds": "3"}
        assert self.point(master_link_status="down", **filling) is None

    def test_a_primary_follows_nobody(self) -> None:
        assert followed({"role": "master"}, self.CLOCK, self.SILENCE) is None


def _request(platform: Paired) -> RedisRecovery:
    return RedisRecovery(plan=platform.path)
