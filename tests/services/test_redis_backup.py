"""A backup of a Redis in use: one moment of it, restored before it is published, and nothing published otherwise."""

from __future__ import annotations

import multiprocessing
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis

from flows.procedure import watched_by
from flows.redis_store import run_redis_backup
from recoup.catalog import problems
from recoup.errors import PreconditionError, RecoveryError
from recoup.plan import load_plan
from recoup.progress import Silent
from recoup.stacks import open_stack
from recoup.stacks.process import ProcessStack
from tasks.redis_backup import _prove_it_is_this_one, take_redis_backup
from tasks.redis_reading import measure
from tasks.redis_restore import restore_redis
from tasks.redis_scratch import snapshot_of
from tasks.redis_server import Link, Word
from tests.redis_scratch import APPEND, PASSWORD, Scratch, scratch
from tests.services.test_postgres_disk_full import MEGABYTE, fill, may_mount, small_disk
from tests.stack_behaviour import arguments_here, eventually

SLOW = 2000  # microseconds for each key that a save writes


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Scratch]:
    with scratch(tmp_path, *APPEND) as made:
        yield made


def filled(source: Scratch, keys: int = 200) -> redis.Redis:
    client = source.client()
    client.mset({f"key:{n}": f"value {n}" for n in range(keys)})
    return client


def unpublished(source: Scratch) -> bool:
    """Say whether the repository holds nothing at all, not even what a backup began."""
    return not any(source.repository.root.glob("*")) and not any(source.repository.root.glob(".*"))


def throwaways(directory: Path) -> list[str]:
    """Give the processes that were started for a copy below a directory."""
    return [line for line in arguments_here().splitlines() if str(directory / "backups") in line]


class TestInUse:
    def test_every_write_before_its_recovery_point_is_in_it_and_no_transaction_is_torn(self, source: Scratch) -> None:
        acknowledged: dict[int, datetime] = {}
        stop = threading.Event()

        def write() -> None:
            with source.client() as client:
                while not stop.is_set():
                    number = len(acknowledged)
                    with client.pipeline(transaction=True) as both:
                        both.set(f"left:{number}", "x" * 100).set(f"right:{number}", "x" * 100).execute()
                    acknowledged[number] = datetime.now(UTC)

        filled(source).config_set("rdb-key-save-delay", 200)
        writer = threading.Thread(target=write)
        writer.start()
        try:
            eventually("it writes", lambda: len(acknowledged) > 300)
            taken = take_redis_backup.fn(source.server, source.repository)
            ended = len(acknowledged)
        finally:
            stop.set()
            writer.join()
        source.wipe()
        restore_redis.fn(source.server, source.repository, taken.set_id, "copy")
        with source.client() as client:
            left, right = ({int(key[len(side) :]) for key in client.keys(f"{side}*")} for side in ("left:", "right:"))
        assert left == right
        before = {number for number, when in acknowledged.items() if when < taken.recovery_point}
        assert len(before) > 300
        assert before <= left
        assert len(left) < ended, "the writer had come no further, so nothing was shown"

    def test_what_it_says_is_measured_in_the_copy_not_in_the_server(self, source: Scratch) -> None:
        client = filled(source, 300)
        client.config_set("rdb-key-save-delay", SLOW)
        with ThreadPoolExecutor() as pool:
            backup = pool.submit(take_redis_backup.fn, source.server, source.repository)
            eventually("it saves", lambda: client.info("persistence")["rdb_bgsave_in_progress"] == 1)
            # FLUSHALL would end the save as well.
            client.flushdb()
            taken = backup.result()
        assert client.dbsize() == 0
        assert taken.count == 300
        (one,) = source.repository.sets("redis")
        assert one.verified is not None
        assert one.verified.passed
        assert not problems(one)

    def test_two_at_once_both_become_sets(self, source: Scratch) -> None:
        filled(source, 100).config_set("rdb-key-save-delay", SLOW)
        with ThreadPoolExecutor() as pool:
            first, second = pool.map(lambda _: take_redis_backup.fn(source.server, source.repository), range(2))
        assert first.set_id != second.set_id
        sets = source.repository.sets("redis")
        assert {one.set_id for one in sets} == {first.set_id, second.set_id}
        assert all(not problems(one) and one.verified and one.verified.passed for one in sets)

    def test_it_waits_for_a_rewrite_of_the_append_only_file(self, source: Scratch) -> None:
        client = filled(source, 300)
        client.config_set("rdb-key-save-delay", SLOW)
        client.bgrewriteaof()
        eventually("it rewrites", lambda: client.info("persistence")["aof_rewrite_in_progress"] == 1)
        with pytest.raises(redis.ResponseError):
            client.bgsave(schedule=False)
        assert take_redis_backup.fn(source.server, source.repository).count == 300

    def test_nothing_is_left_of_the_throwaway_server(self, source: Scratch, tmp_path: Path) -> None:
        filled(source)
        run_redis_backup(source.plan, source.stack)
        assert throwaways(tmp_path) == []
        (one,) = source.repository.sets("redis")
        assert [path.name for path in source.repository.root.iterdir()] == [one.set_id]
        assert {path.name for path in one.path.iterdir()} == {
            "manifest.json", "verified.json", "content.json", "dump.rdb.gz"
        }  # fmt: skip

    def test_an_empty_server_is_backed_up_too(self, source: Scratch) -> None:
        assert take_redis_backup.fn(source.server, source.repository).count == 0


class Damaging(ProcessStack):
    """A stack on whose way out files are damaged."""

    harm: Callable[[bytes], bytes]

    def copy_out(self, service: str, source: str, destination: Path) -> None:
        super().copy_out(service, source, destination)
        destination.write_bytes(self.harm(destination.read_bytes()))


class TestFaults:
    @pytest.mark.parametrize(
        ("harm", "said"),
        [
            (lambda data: data[: len(data) // 2], "redis-check-rdb"),
            (lambda data: data[:-200] + bytes([data[-200] ^ 1]) + data[-199:], "redis-check-rdb"),
            (lambda data: b"", "no snapshot"),
            (lambda data: b"<html>not found</html>" * 99, "no snapshot"),
        ],
        ids=["truncated", "flipped", "empty", "something else"],
    )
    def test_a_damaged_copy_is_never_published(
        self, source: Scratch, harm: Callable[[bytes], bytes], said: str
    ) -> None:
        filled(source)
        stack = Damaging.open(source.stack.directory)
        assert isinstance(stack, Damaging)
        stack.harm = staticmethod(harm)
        with pytest.raises(RecoveryError, match=said) as failed:
            run_redis_backup(source.plan, stack)
        assert "no set was published" in failed.value.state
        assert unpublished(source)

    def test_an_older_snapshot_is_not_taken_for_the_new_one(self, source: Scratch) -> None:
        client = filled(source)
        client.save()
        old = (source.data / "dump.rdb").read_bytes()
        time.sleep(1.1)
        stack = Damaging.open(source.stack.directory)
        assert isinstance(stack, Damaging)
        stack.harm = staticmethod(lambda _: old)
        with pytest.raises(RecoveryError, match="older snapshot"):
            run_redis_backup(source.plan, stack)
        assert unpublished(source)

    @pytest.mark.parametrize("start_again", [False, True])
    def test_a_server_killed_while_it_saves_gives_no_set(self, source: Scratch, start_again: bool) -> None:
        client = filled(source, 500)
        client.save()
        client.config_set("rdb-key-save-delay", SLOW)
        with ThreadPoolExecutor() as pool:
            backup = pool.submit(take_redis_backup.fn, source.server, source.repository)
            eventually("it saves", lambda: client.info("persistence")["rdb_bgsave_in_progress"] == 1)
            source.stack.kill("redis")
            if start_again:
                source.start()
            with pytest.raises(RecoveryError) as failed:
                backup.result()
        assert "no set was published" in failed.value.state
        assert unpublished(source)

    def test_a_save_that_fails_is_not_taken_for_one(self, source: Scratch) -> None:
        client = filled(source, 500)
        client.save()
        client.config_set("rdb-key-save-delay", SLOW)
        parent = int(client.info("server")["process_id"])
        with ThreadPoolExecutor() as pool:
            backup = pool.submit(take_redis_backup.fn, source.server, source.repository)
            eventually("it saves", lambda: client.info("persistence")["rdb_bgsave_in_progress"] == 1)
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
            os.kill(int(children[0]), signal.SIGKILL)
            with pytest.raises(RecoveryError, match="could not save") as failed:
                backup.result()
        assert "no set was published" in failed.value.state
        assert unpublished(source)
        assert client.dbsize() == 500

    def test_a_wrong_password_is_said_and_never_shown(self, tmp_path: Path) -> None:
        with (
            scratch(tmp_path, *APPEND, password="not the right one") as source,
            pytest.raises(PreconditionError, match="turned the login away") as refused,
        ):
            run_redis_backup(source.plan, source.stack)
        assert "not the right one" not in str(refused.value)
        assert PASSWORD not in str(refused.value)
        assert "file:" in refused.value.next_step

    def test_a_server_without_its_password_is_told_of(self, source: Scratch) -> None:
        source.client().config_set("requirepass", "")
        with pytest.raises(PreconditionError, match="asks for no password"):
            run_redis_backup(source.plan, source.stack)

    def test_a_server_that_is_down_is_told_of(self, source: Scratch) -> None:
        source.stack.kill("redis")
        with pytest.raises(PreconditionError, match="down"):
            run_redis_backup(source.plan, source.stack)

    def test_a_repository_that_cannot_be_written_is_told_of(self, source: Scratch) -> None:
        source.repository.root.write_text("a file, not a directory", encoding="utf-8")
        with pytest.raises(PreconditionError, match="cannot be written"):
            run_redis_backup(source.plan, source.stack)

    @pytest.mark.skipif(not may_mount(), reason="only who may mount a small disk can fill one")
    def test_a_disk_that_fills_up_leaves_no_set(self, source: Scratch) -> None:
        source.client().set("large", os.urandom(4 * MEGABYTE))
        with small_disk(source.repository.root, 16 * MEGABYTE) as disk:
            fill(disk / "filler", 5 * MEGABYTE)
            with pytest.raises(RecoveryError, match="No space left") as failed:
                take_redis_backup.fn(source.server, source.repository)
            assert "no set was published" in failed.value.state
            assert [path.name for path in disk.iterdir()] == ["filler"]
            fill(disk / "filler", MEGABYTE)
            with pytest.raises(PreconditionError, match="free"):
                run_redis_backup(source.plan, source.stack)
            (disk / "filler").unlink()
            assert run_redis_backup(source.plan, source.stack).count == 1

    @pytest.mark.parametrize("at", ["the server is saving", "copying the snapshot", "loading the copy", "read "])
    def test_a_killed_backup_leaves_no_set_and_no_server(self, source: Scratch, tmp_path: Path, at: str) -> None:
        filled(source)
        context = multiprocessing.get_context("forkserver")
        path = tmp_path / "plan.yaml"
        path.write_text(source.plan.dump_yaml(), encoding="utf-8")
        child = context.Process(target=_back_up_and_die, args=(path, at))
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL
        assert source.repository.sets("redis") == ()
        eventually("the throwaway server is gone", lambda: throwaways(tmp_path) == [])
        taken = run_redis_backup(source.plan, source.stack)
        assert [path.name for path in source.repository.root.iterdir()] == [taken.set_id]


def test_keys_that_expire_while_others_are_read_hide_none_of_these(
    source: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Link.ask

    def slowly(link: Link, *words: Word) -> object:
        if words[0] == "SCAN":
            time.sleep(0.3)
        return ask(link, *words)

    monkeypatch.setattr(Link, "ask", slowly)
    with source.client() as client:
        client.set("session", "s", px=800)
        client.xadd("orders", {"f": "v"})
        client.zadd("ranks", {"a": 1})
    with source.server.connect() as link:
        found = measure(link)
    assert found.keys[0] - found.expiring[0] == 2


@pytest.mark.parametrize("behind", [0.0005, 0.3])
def test_a_snapshot_is_no_older_for_the_clock_that_stands_between_two_ticks(behind: float, tmp_path: Path) -> None:
    """The server's TIME is exact, its snapshot's ``ctime`` is of the last tick: of the second before, now and then."""
    (tmp_path / "dump.rdb").write_bytes(b"REDIS0009\xfa\x05ctime\xc2" + struct.pack("<i", 1_700_000_000))
    point = datetime.fromtimestamp(1_700_000_001 + behind, UTC)
    if behind < 0.01:
        _prove_it_is_this_one(tmp_path / "dump.rdb", point)
    else:
        with pytest.raises(RecoveryError, match="older snapshot"):
            _prove_it_is_this_one(tmp_path / "dump.rdb", point)


class TestDigest:
    """What is the same gives the same digest however it came to be, and whatever differs gives another."""

    def contents(self, source: Scratch, fill_it: Callable[[redis.Redis], object]) -> str:
        with source.client() as client:
            client.flushall()
            fill_it(client)
        with source.server.connect() as link:
            return measure(link).digest

    def test_neither_order_nor_encoding_counts(self, source: Scratch) -> None:
        members = [os.urandom(9) for _ in range(700)]

        def forwards(client: redis.Redis) -> None:
            client.set("a", "1")
            client.hset("h", mapping={member: b"\x00\xff" for member in members})
            client.sadd("s", *members)
            client.zadd("z", {member: n / 7 for n, member in enumerate(members)})
            client.rpush("l", *members)

        def backwards(client: redis.Redis) -> None:
            client.config_set("hash-max-ziplist-entries", 10_000)
            client.config_set("zset-max-ziplist-entries", 10_000)
            client.rpush("l", *members)
            for n, member in reversed(list(enumerate(members))):
                client.zadd("z", {member: n / 7})
                client.sadd("s", member)
                client.hset("h", member, b"\x00\xff")
            client.set("a", "1")

        assert self.contents(source, forwards) == self.contents(source, backwards)

    @pytest.mark.parametrize(
        "change",
        [
            lambda c: c.set("string", b"\x00\x01\xfe"),
            lambda c: c.lset("list", 0, "other"),
            lambda c: c.lpush("list", c.rpop("list")),
            lambda c: (c.srem("set", "1"), c.sadd("set", "1 ")),
            lambda c: c.zincrby("zset", 1e-9, "low"),
            lambda c: (c.hset("hash", "f", "w"), c.hset("hash", "g", "v")),
            lambda c: c.xadd("stream", {"f": "v"}),
            lambda c: c.xack("stream", "group", "1-1"),
            lambda c: c.xgroup_setid("stream", "group", "1-1"),
            lambda c: c.rename("string", "string2"),
            lambda c: c.move("string", 5),
            lambda c: c.persist("session"),
            lambda c: c.pexpireat("session", 4_102_444_800_001),
            lambda c: c.delete("set"),
        ],
    )
    def test_every_difference_counts(self, source: Scratch, change: Callable[[redis.Redis], object]) -> None:
        def base(client: redis.Redis) -> None:
            client.set("string", b"\x00\x01\xff")
            client.rpush("list", "a", "b", "b")
            client.sadd("set", "1", "2")
            client.zadd("zset", {"low": float("-inf"), "high": 1.1})
            client.zadd("zset", {"low": 1.0})
            client.hset("hash", mapping={"f": "v", "g": "w"})
            client.xadd("stream", {"f": "v"}, id="1-1")
            client.xgroup_create("stream", "group", "0")
            client.xclaim("stream", "group", "me", 0, ["1-1"], time=1_700_000_000_000, retrycount=1, force=True)
            client.set("session", "s", pxat=4_102_444_800_000)

        same = self.contents(source, base)
        assert self.contents(source, base) == same

        def changed(client: redis.Redis) -> None:
            base(client)
            change(client)

        assert self.contents(source, changed) != same

    def test_keys_and_what_expires_are_counted_by_database(self, source: Scratch) -> None:
        filled(source, 10)
        source.client(3).set("session", "s", ex=1000)
        source.client(3).set("lasting", "s")
        taken = take_redis_backup.fn(source.server, source.repository)
        holds = snapshot_of(source.repository.get("redis", taken.set_id))
        assert holds is not None
        assert (holds.keys, holds.expiring) == ({"0": 10, "3": 2}, {"3": 1})


class _Killer(Silent):
    def __init__(self, at: str) -> None:
        self._at = at

    def note(self, text: str) -> None:
        if self._at in text:
            os.kill(os.getpid(), signal.SIGKILL)


def _back_up_and_die(path: Path, at: str) -> None:
    plan = load_plan(path)
    with watched_by(_Killer(at)):
        run_redis_backup(plan, open_stack(plan))
