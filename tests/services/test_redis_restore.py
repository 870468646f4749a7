"""A lost Redis restored in each way it may keep its data: whole, with its expiries, and the old data kept."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from recoup.catalog import BackupSet, Repository, entries
from recoup.errors import PreconditionError, RecoveryError
from recoup.records import Outcome
from tasks.redis_backup import RedisTaken, take_redis_backup
from tasks.redis_restore import compare_with, find_redis_backup, placement, restore_redis
from tasks.redis_server import Layout, Mode
from tests.redis_files import everything_in, kept
from tests.redis_scratch import APPEND, SNAPSHOTS, Scratch, old_server, scratch
from tests.stack_behaviour import eventually

FAR = 4_102_444_800_000  # in the year 2100
MODES = {
    "snapshots": SNAPSHOTS,
    "snapshots under another name": (*SNAPSHOTS, "dbfilename other.rdb"),
    "append-only": APPEND,
    "append-only under another name": (*APPEND, "appendfilename other.aof"),
    "append-only without a preamble": (*APPEND, "aof-use-rdb-preamble no"),
    "append-only, no snapshots": ("appendonly yes", 'save ""'),
    "in memory alone": ("appendonly no", 'save ""'),
}


# Each mode of a server of today, and of one from before its append-only file was in parts.
KEPT = [*((name, False) for name in MODES), *((name, True) for name in MODES if name.startswith("append-only"))]


@pytest.fixture(params=KEPT, ids=[f"{name}{' on 6.2' if old else ''}".replace(" ", "-") for name, old in KEPT])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scratch]:
    name, old = request.param
    with scratch(tmp_path, *MODES[name], program=old_server() if old else None) as made:
        yield made


@pytest.fixture
def appending(tmp_path: Path) -> Iterator[Scratch]:
    with scratch(tmp_path, *APPEND) as made:
        yield made


def filled(source: Scratch) -> RedisTaken:
    """Fill a Redis with some of everything and back it up."""
    with source.client() as client, source.client(2) as other:
        client.mset({f"key:{n}": f"value {n}" for n in range(100)})
        client.set(b"\x00binary\xff", bytes(range(256)) * 4)
        client.rpush("list", *range(500))
        client.sadd("set", "x", b"\xff\xfe", 7)
        client.zadd("zset", {"a": 1.1, "b": float("-inf"), "c": 1e300})
        client.hset("hash", mapping={"field": "value", b"\x00": b"\x01"})
        client.xadd("stream", {"f": "v"}, id="5-1")
        client.xgroup_create("stream", "group", "0")
        client.xreadgroup("group", "reader", {"stream": ">"})
        client.set("session", "s", pxat=FAR)
        other.set("elsewhere", "db 2")
    return take_redis_backup.fn(source.server, source.repository)


def everything(source: Scratch) -> dict[str, object]:
    """Give what a Redis holds, read in another way than what is tested: each value as DUMP gives it, and its expiry."""
    found: dict[str, object] = {}
    for db in (0, 2):
        with source.client(db) as client:
            for key in sorted(client.scan_iter()):
                ttl = client.pttl(key)
                expires = None if ttl < 0 else round((time.time() * 1000 + ttl) / 1000)
                found[f"{db} {key!r}"] = (sorted(client.smembers(key)) if key == b"set" else client.dump(key), expires)
    return found


def test_what_was_lost_is_there_again_and_stays(source: Scratch) -> None:
    taken = filled(source)
    before = everything(source)
    source.wipe()
    restored = restore_redis.fn(source.server, source.repository, taken.set_id, "lost")
    assert restored.count == len(before)
    assert all(check.outcome is Outcome.PASSED for check in restored.checks)
    assert everything(source) == before
    with source.client() as client:
        client.set("after", "the restore")
        client.save()
    source.restart()
    assert everything(source).keys() == before.keys() | {"0 b'after'"}


def test_the_naive_way_restores_nothing_and_says_nothing(appending: Scratch) -> None:
    taken = filled(appending)
    keys = len(everything(appending))
    appending.wipe()
    (one,) = appending.repository.sets("redis")
    (appending.data / "dump.rdb").write_bytes(gzip.decompress((one.path / "dump.rdb.gz").read_bytes()))
    appending.start()
    assert everything(appending) == {}
    with appending.server.connect():
        failed = [c.name for c in compare_with(appending.server, one) if c.outcome is Outcome.FAILED]
    assert "redis: the number of keys" in failed
    restore_redis.fn(appending.server, appending.repository, taken.set_id, "trap")
    assert len(everything(appending)) == keys


def test_a_server_configured_by_arguments(tmp_path: Path) -> None:
    with scratch(tmp_path, "appendonly yes", "appendfilename args.aof", by_arguments=True) as source:
        taken = filled(source)
        before = everything(source)
        source.wipe()
        restore_redis.fn(source.server, source.repository, taken.set_id, "arguments")
        assert everything(source) == before
        assert any(path.name.startswith("args.aof") for path in source.data.rglob("*"))


def test_it_asks_how_the_next_start_keeps_data_not_the_one_before(tmp_path: Path) -> None:
    with scratch(tmp_path, *SNAPSHOTS) as source:
        taken = filled(source)
        before = everything(source)
        # Told at run time, and not in the configuration: gone with the next start.
        client = source.client()
        client.config_set("appendonly", "yes")
        eventually("it has written its first", lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
        restored = restore_redis.fn(source.server, source.repository, taken.set_id, "told")
        assert restored.mode is Mode.SNAPSHOT
        assert everything(source) == before


class TestWhatExpires:
    def test_what_has_expired_since_is_no_loss_and_the_rest_keeps_its_moment(self, source: Scratch) -> None:
        with source.client() as client:
            client.set("lasting", "v")
            client.set("later", "v", pxat=FAR)
            client.mset({f"soon:{n}": "v" for n in range(20)})
            for n in range(20):
                client.pexpire(f"soon:{n}", 600 + 60 * n)
        taken = take_redis_backup.fn(source.server, source.repository)
        assert taken.expiring > 1
        source.wipe()
        time.sleep(1)
        restored = restore_redis.fn(source.server, source.repository, taken.set_id, "expired")
        assert all(check.outcome is Outcome.PASSED for check in restored.checks)
        with source.client() as client:
            assert not client.exists("soon:0")
            assert client.exists("lasting")
            assert abs(client.pttl("later") - (FAR - time.time() * 1000)) < 1000

    @pytest.mark.parametrize(
        ("harm", "found"),
        [
            (lambda c: c.delete("key:7"), "redis: the number of keys"),
            (lambda c: c.delete("session"), "redis: the number of keys"),
            (lambda c: c.set("key:7", "another"), "redis: every key and value"),
            (lambda c: c.persist("session"), "redis: when keys expire"),
            (lambda c: c.pexpireat("session", FAR + 60_000), "redis: when keys expire"),
            (lambda c: c.pexpireat("session", FAR + 1), "redis: every key and value"),
            (lambda c: c.pexpire("key:7", 1), "redis: the number of keys"),
            (lambda c: c.pexpireat("key:7", FAR), "redis: when keys expire"),
        ],
    )
    def test_a_loss_is_told_from_it(
        self, appending: Scratch, harm: Callable[[redis.Redis], object], found: str
    ) -> None:
        filled(appending)
        (one,) = appending.repository.sets("redis")
        assert {check.outcome for check in compare_with(appending.server, one)} == {Outcome.PASSED}
        with appending.client() as client:
            harm(client)
        time.sleep(0.01)
        failed = [check.name for check in compare_with(appending.server, one) if check.outcome is Outcome.FAILED]
        assert found in failed

    def test_a_server_that_runs_no_scripts_is_read_the_same(self, tmp_path: Path) -> None:
        """The throwaway server runs one that tells when keys expire; here each key has to be asked for."""
        with scratch(tmp_path, *APPEND, 'rename-command EVAL ""') as source:
            with source.client() as client:
                for n in range(300):
                    client.set(f"later:{n}", "v", pxat=FAR + n)
            filled(source)
            (one,) = source.repository.sets("redis")
            assert {check.outcome for check in compare_with(source.server, one)} == {Outcome.PASSED}


class TestOldData:
    def test_they_are_kept_whole(self, appending: Scratch) -> None:
        taken = filled(appending)
        appending.client().set("since", "the backup")
        appending.stack.stop("redis")
        old = kept(appending.data)
        restored = restore_redis.fn(appending.server, appending.repository, taken.set_id, "kept")
        assert not appending.client().exists("since")
        aside = Path(restored.aside.removeprefix("directory "))
        assert kept(aside) == old

    def test_what_is_in_memory_alone_is_saved_before(self, tmp_path: Path) -> None:
        with scratch(tmp_path, *MODES["in memory alone"]) as source:
            taken = filled(source)
            source.client().set("since", "in memory alone")
            restored = restore_redis.fn(source.server, source.repository, taken.set_id, "memory")
            assert not source.client().exists("since")
            source.stack.stop("redis")
            (source.data / "dump.rdb").write_bytes(
                (Path(restored.aside.removeprefix("directory ")) / "dump.rdb").read_bytes()
            )
            source.start()
            assert source.client().get("since") == b"in memory alone"

    def test_a_repeated_restore_loses_nothing_and_ends_the_same(self, appending: Scratch) -> None:
        taken = filled(appending)
        before = everything(appending)
        old = restore_redis.fn(appending.server, appending.repository, taken.set_id, "twice").aside
        appending.client().set("between", "the two")
        assert restore_redis.fn(appending.server, appending.repository, taken.set_id, "twice").aside == old
        assert everything(appending) == before
        assert any(b"between" in everything_in(aside) for aside in appending.data.parent.glob("data.aside-*"))


class TestChoice:
    @pytest.fixture
    def two(self, appending: Scratch) -> tuple[Scratch, BackupSet, BackupSet]:
        filled(appending)
        appending.client().set("newer", "1")
        take_redis_backup.fn(appending.server, appending.repository)
        new, old = appending.repository.sets("redis")
        return appending, new, old

    @pytest.mark.parametrize(
        ("harm", "why"),
        [
            (lambda path: os.truncate(path / "dump.rdb.gz", 200), "bytes"),
            (lambda path: flip(path / "dump.rdb.gz"), "sha256"),
            (lambda path: (path / "dump.rdb.gz").unlink(), "No such file"),
            (lambda path: flip(path / "content.json"), "sha256"),
            (lambda path: (path / "manifest.json").write_text("{"), "manifest"),
        ],
        ids=["truncated", "flipped", "gone", "detail flipped", "manifest broken"],
    )
    def test_a_damaged_set_is_skipped_with_the_reason(
        self, two: tuple[Scratch, BackupSet, BackupSet], harm: Callable[[Path], object], why: str
    ) -> None:
        source, new, old = two
        harm(new.path)
        chosen = find_redis_backup(source.server, source.repository, "latest")
        assert chosen.set_id == old.set_id
        (skipped,) = chosen.skipped
        assert skipped.set_id == new.set_id
        assert why in skipped.reason
        source.wipe()
        restore_redis.fn(source.server, source.repository, chosen.set_id, "older")
        assert not source.client().exists("newer")

    @pytest.mark.parametrize("how", ["truncated", "flipped", "of other data"])
    def test_a_set_that_was_never_restored_is_tried_first(
        self, two: tuple[Scratch, BackupSet, BackupSet], how: str
    ) -> None:
        """A manifest that agrees with a damaged file, as when the damage was done before it was hashed."""
        source, new, old = two
        data = gzip.decompress((new.path / "dump.rdb.gz").read_bytes())
        if how == "truncated":
            data = data[:-300]
        elif how == "flipped":
            data = data[:-300] + bytes([data[-300] ^ 4]) + data[-299:]
        else:
            data = gzip.decompress((old.path / "dump.rdb.gz").read_bytes())
        (new.path / "dump.rdb.gz").write_bytes(gzip.compress(data, 1))
        hashed_again(new)
        (new.path / "verified.json").unlink()
        chosen = find_redis_backup(source.server, source.repository, "latest")
        assert chosen.set_id == old.set_id
        assert "cannot be restored" in chosen.skipped[0].reason
        assert source.client().exists("newer"), "the server in use is not touched by it"

    def test_one_that_can_be_restored_is_taken_though_untried(self, two: tuple[Scratch, BackupSet, BackupSet]) -> None:
        source, new, _ = two
        (new.path / "verified.json").unlink()
        source.wipe()
        assert find_redis_backup(source.server, source.repository, "latest").set_id == new.set_id

    def test_without_a_good_set_nothing_is_touched(self, two: tuple[Scratch, BackupSet, BackupSet]) -> None:
        source, new, old = two
        for one in (new, old):
            flip(one.path / "dump.rdb.gz")
        with pytest.raises(RecoveryError, match="no good backup set") as failed:
            find_redis_backup(source.server, source.repository, "latest")
        assert "no data was touched" in failed.value.state
        assert source.client().exists("newer")


class TestFailure:
    def test_a_server_that_does_not_start_at_all_is_told_and_the_data_are_kept(self, appending: Scratch) -> None:
        taken = filled(appending)
        appending.stack.stop("redis")
        old = kept(appending.data)
        configuration = appending.stack.directory / "redis.conf"
        good = configuration.read_text(encoding="utf-8")
        configuration.write_text(f"{good}\nno-such-setting yes\n", encoding="utf-8")
        with pytest.raises(RecoveryError, match="does not start without data") as failed:
            restore_redis.fn(appending.server, appending.repository, taken.set_id, "broken")
        aside = next(Path(word.rstrip(";")) for word in failed.value.state.split() if word.startswith("/"))
        assert kept(aside) == old
        configuration.write_text(good, encoding="utf-8")
        restore_redis.fn(appending.server, appending.repository, taken.set_id, "broken")
        assert appending.client().exists("key:7")

    def test_a_set_damaged_after_it_was_chosen_is_not_called_restored(self, appending: Scratch) -> None:
        taken = filled(appending)
        (one,) = appending.repository.sets("redis")
        os.truncate(one.path / "dump.rdb.gz", 500)
        with pytest.raises(RecoveryError, match="not laid down whole"):
            restore_redis.fn(appending.server, appending.repository, taken.set_id, "damaged")

    def test_who_writes_meanwhile_is_noticed(self, appending: Scratch) -> None:
        filled(appending)
        (one,) = appending.repository.sets("redis")
        appending.client().set("a stranger's", "key")
        failed = [check for check in compare_with(appending.server, one) if check.outcome is Outcome.FAILED]
        assert "redis: the number of keys" in {check.name for check in failed}

    def test_a_wrong_password_changes_nothing(self, appending: Scratch) -> None:
        taken = filled(appending)
        (appending.stack.directory / "password").write_text("wrong", encoding="utf-8")
        with pytest.raises(PreconditionError, match="turned the login away"):
            restore_redis.fn(appending.server, appending.repository, taken.set_id, "wrong")
        assert appending.client().exists("key:7")
        assert not list(appending.data.parent.glob("*.aside-*"))


def test_where_the_copy_lies_for_seven_and_later() -> None:
    place = Layout(
        mode=Mode.PARTS,
        directory="/data",
        dump="dump.rdb",
        append="appendonly.aof",
        append_directory="appendonlydir",
        fsync="everysec",
        databases=16,
    )
    where = placement(place)
    assert where.file == "appendonlydir/appendonly.aof.1.base.rdb"
    assert where.manifest == "appendonlydir/appendonly.aof.manifest"
    assert where.line == "file appendonly.aof.1.base.rdb seq 1 type b"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def hashed_again(one: BackupSet) -> None:
    """Make a set's manifest agree with its files."""
    manifest = json.loads((one.path / "manifest.json").read_bytes())
    keep = {"dump.rdb.gz", "content.json"}
    manifest["files"] = [e.model_dump() for e in entries(one.path) if e.path in keep]
    (one.path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert Repository(one.path.parent).get("redis", one.set_id).manifest is not None
