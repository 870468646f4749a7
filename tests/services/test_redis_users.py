"""The users of a Redis: kept with its data, brought back where they are missing, never overwritten."""

from __future__ import annotations

import hashlib
from pathlib import Path

import redis

from recoup.records import Check, Outcome
from tasks.redis_backup import take_redis_backup
from tasks.redis_restore import RedisRestored, restore_redis
from tests.redis_scratch import APPEND, PASSWORD, Scratch, scratch

RULES = ("on", ">of alice", "~app:*", "+get", "+set")


def as_alice(source: Scratch) -> object:
    with redis.Redis(port=source.port, username="alice", password="of alice", socket_timeout=10) as client:
        return client.get("app:1")


def users(restored: RedisRestored) -> Check:
    (found,) = [check for check in restored.checks if "users" in check.name]
    return found


def test_one_made_at_run_time_is_there_again(tmp_path: Path) -> None:
    with scratch(tmp_path, *APPEND) as source:
        source.client().set("app:1", "v")
        source.client().execute_command("ACL", "SETUSER", "alice", *RULES)  # type: ignore[no-untyped-call]
        taken = take_redis_backup.fn(source.server, source.repository)
        (one,) = source.repository.sets("redis")
        assert "of alice" not in (one.path / "users.acl").read_text(encoding="utf-8")
        assert (one.path / "users.acl").stat().st_mode & 0o077 == 0 or one.path.stat().st_mode & 0o077 == 0
        source.wipe()
        found = users(restore_redis.fn(source.server, source.repository, taken.set_id, "users"))
        assert found.outcome is Outcome.PASSED
        assert "made anew: alice" in found.seen
        assert as_alice(source) == b"v"


def test_a_file_of_users_that_was_lost_with_the_data_is_there_again(tmp_path: Path) -> None:
    """Without it the server would not even start."""
    acl = tmp_path / "home" / "data" / "users.acl"
    acl.parent.mkdir(parents=True)
    hashed = hashlib.sha256(PASSWORD.encode()).hexdigest()
    acl.write_text(f"user default on #{hashed} ~* &* +@all\n", encoding="utf-8")
    with scratch(tmp_path, *APPEND, f"aclfile {acl}") as source:
        source.client().set("app:1", "v")
        source.client().execute_command("ACL", "SETUSER", "alice", *RULES)  # type: ignore[no-untyped-call]
        source.client().execute_command("ACL", "SAVE")  # type: ignore[no-untyped-call]
        taken = take_redis_backup.fn(source.server, source.repository)
        source.wipe()
        restored = restore_redis.fn(source.server, source.repository, taken.set_id, "file")
        assert {check.outcome for check in restored.checks} == {Outcome.PASSED}
        source.restart()
        assert as_alice(source) == b"v"


def test_one_that_was_changed_since_is_left_and_told(tmp_path: Path) -> None:
    with scratch(tmp_path, *APPEND, "user alice on nopass ~app:* +get") as source:
        taken = take_redis_backup.fn(source.server, source.repository)
        configuration = tmp_path / "redis.conf"
        text = configuration.read_text(encoding="utf-8").replace("+get", "+set")
        configuration.write_text(text, encoding="utf-8")
        found = users(restore_redis.fn(source.server, source.repository, taken.set_id, "changed"))
        assert found.outcome is Outcome.UNPROVEN
        assert "alice differ" in found.seen
