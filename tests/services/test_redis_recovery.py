"""The whole procedure for Redis on a sandbox that is really broken, judged by what users get and what it holds."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import redis
import typer
from typer.testing import CliRunner

from deployments.backup_commands import backup_now
from deployments.redis_commands import recover_redis_command
from flows.copies import require_complete, run_copies
from flows.database import When
from flows.procedure import watched_by
from flows.redis_preview import preview
from flows.redis_store import RedisRecovery, recover_redis, run_redis_backup, run_redis_recovery
from recoup.catalog import Repository
from recoup.errors import PreconditionError, RecoveryError
from recoup.ledger import Ledger
from recoup.places import ledger_path
from recoup.plan import DirectoryCopy, Plan, load_plan
from recoup.progress import Silent
from recoup.records import Outcome, RecoveryRecord, StepOutcome, StepRecord, Subject, Verdict, now
from recoup.stacks.process import ProcessStack
from tasks.sandbox import Sandbox
from tasks.services import start_services
from tests.redis_files import append_log, empty
from tests.stack_behaviour import eventually

SESSIONS = 300


@dataclass(frozen=True)
class Platform:
    """A sandbox whose Redis holds sessions that are backed up, with a repository and a state of the test's own."""

    plan: Plan
    path: Path
    stack: ProcessStack
    secret: Path

    @property
    def repository(self) -> Repository:
        return Repository(self.plan.platform.repository)

    @property
    def home(self) -> Path:
        return self.stack.directory / "services" / "redis"

    def client(self) -> redis.Redis:
        host, port = self.stack.endpoint("redis", 6379)
        return redis.Redis(host=host, port=port, password=self.secret.read_text(encoding="utf-8"), socket_timeout=10)

    def sessions(self) -> int:
        return len(self.client().keys("session:*"))

    def recover(self, began: datetime | None = None, **request: object) -> RecoveryRecord:
        asked = RedisRecovery.model_validate({"plan": self.path, "began": began or now(), **request})
        return run_redis_recovery(self.plan, asked, ledger=ledger_path(self.plan))

    def aside(self) -> list[Path]:
        return sorted(self.home.glob("data.aside-*"))


@pytest.fixture
def platform(sandbox: Sandbox, tmp_path: Path) -> Iterator[Platform]:
    whole = load_plan(sandbox.plan)
    update = {"repository": tmp_path / "backups", "state": tmp_path / "state"}
    plan = whole.model_copy(update={"platform": whole.platform.model_copy(update=update)})
    path = tmp_path / "plan.yaml"
    path.write_text(plan.dump_yaml(), encoding="utf-8")
    secret = sandbox.directory / "secrets" / "redis_password"
    made = Platform(plan, path, ProcessStack.open(sandbox.directory), secret)
    with made.client() as client:
        client.flushall()
        client.mset({f"session:{n}": f"user {n}" for n in range(SESSIONS)})
        for n in range(0, SESSIONS, 3):
            client.expire(f"session:{n}", 3600)
    run_redis_backup(plan, made.stack)
    password = secret.read_text(encoding="utf-8")
    yield made
    secret.write_text(password, encoding="utf-8")
    made.stack.start("redis")
    start_services.fn(made.stack, made.stack.names)


def steps(record: RecoveryRecord) -> list[str]:
    return [step.name for step in record.steps]


def recovered(record: RecoveryRecord) -> None:
    assert record.verdict is Verdict.RECOVERED, record.why
    passed = {check.subject for check in record.checks if check.outcome is Outcome.PASSED}
    assert {Subject.DATA, Subject.USER} <= passed
    (store,) = record.stores
    assert store.store == "redis"
    assert store.met
    assert record.rto_met


def spoil_the_log(platform: Platform) -> None:
    """Make the append-only file unreadable from its middle on, so that the server refuses to start."""
    platform.stack.stop("redis")
    log = append_log(platform.home / "data")
    data = log.read_bytes()
    log.write_bytes(data[: len(data) // 2] + b"\xff" * 200 + data[len(data) // 2 + 200 :])


class TestRecovered:
    def test_a_killed_server_is_started_and_nothing_restored(self, platform: Platform) -> None:
        platform.stack.kill("redis")
        record = platform.recover()
        recovered(record)
        assert record.backup is None
        assert "restore-redis" not in steps(record)
        assert record.stores[0].basis.endswith("(appendfsync everysec)")
        assert platform.sessions() == SESSIONS

    def test_a_healthy_server_is_left_alone(self, platform: Platform) -> None:
        client = platform.client()
        # The server tells its start by whole seconds: one that is younger may have been restarted for all it says.
        eventually("it is known when it started", lambda: client.info("server")["uptime_in_seconds"] >= 3)
        process = client.info("server")["process_id"]
        record = platform.recover()
        recovered(record)
        assert platform.client().info("server")["process_id"] == process
        assert record.stores[0].achieved == timedelta(0)

    def test_an_emptied_server_is_restored(self, platform: Platform) -> None:
        platform.client().flushall()
        record = platform.recover()
        recovered(record)
        assert record.scenario == "Service Outage"
        assert record.backup is not None
        assert platform.sessions() == SESSIONS
        assert "old data kept at" in record.state_left
        assert Ledger(ledger_path(platform.plan)).last() == record

    def test_a_server_that_came_back_empty_and_is_already_written_to_is_restored(self, platform: Platform) -> None:
        platform.stack.kill("redis")
        empty(platform.home / "data")
        platform.stack.start("redis")
        eventually("the cache is used again", lambda: answered(platform) and bool(platform.client().set("a", "b")))
        record = platform.recover()
        recovered(record)
        assert platform.sessions() == SESSIONS

    def test_one_that_was_emptied_is_restored_though_users_have_written_some_of_its_keys_again(
        self, platform: Platform
    ) -> None:
        platform.stack.kill("redis")
        empty(platform.home / "data")
        platform.stack.start("redis")
        again = {f"session:{n}": f"user {n}, again" for n in range(0, SESSIONS, 4)}
        eventually("the cache is used again", lambda: answered(platform) and bool(platform.client().mset(again)))
        record = platform.recover()
        recovered(record)
        assert platform.sessions() == SESSIONS

    def test_one_that_cannot_load_its_data_is_restored_and_they_are_kept(self, platform: Platform) -> None:
        spoil_the_log(platform)
        spoilt = append_log(platform.home / "data").read_bytes()
        before = set(platform.aside())
        record = platform.recover()
        recovered(record)
        assert platform.sessions() == SESSIONS
        # Not the snapshot next to it: a server that reads FLUSHALL in its log overwrites that, and then fails.
        assert spoilt in [append_log(path).read_bytes() for path in platform.aside() if path not in before]

    def test_always_restores_and_says_how_much_is_lost(self, platform: Platform) -> None:
        platform.client().set("session:new", "since the backup")
        record = platform.recover(restore=When.ALWAYS)
        recovered(record)
        assert platform.sessions() == SESSIONS
        (one,) = platform.repository.sets("redis")
        assert record.stores[0].recovery_point == one.recovery_point

    @pytest.mark.parametrize("at", ["moving the old data aside", "laying the copy down", "comparing every key"])
    def test_a_killed_recovery_goes_on(self, platform: Platform, at: str) -> None:
        platform.client().flushall()
        began = now()
        killed_at(platform, began, at)
        record = platform.recover(began)
        recovered(record)
        assert any(step.resumed for step in record.steps)
        assert platform.sessions() == SESSIONS


class TestNotRecovered:
    def test_other_keys_on_a_server_that_never_stopped_restore_nothing(self, platform: Platform) -> None:
        with platform.client() as client:
            client.delete(*client.keys("session:*"))
            client.set("what users made", "since")
        record = platform.recover()
        assert record.verdict is Verdict.UNPROVEN
        assert "restore-redis" not in steps(record)
        assert "--restore always" in record.next_step
        assert platform.client().exists("what users made")

    def test_without_a_good_set_it_says_so_and_the_platform_runs_on(self, platform: Platform) -> None:
        (one,) = platform.repository.sets("redis")
        os.truncate(one.path / "dump.rdb.gz", 100)
        platform.client().flushall()
        record = platform.recover()
        assert record.verdict is Verdict.NOT_RECOVERED
        assert "no good backup set" in record.why
        assert platform.stack.state("api-gateway").running
        with pytest.raises(RecoveryError):
            recover_redis.fn(RedisRecovery(plan=platform.path))

    def test_without_any_set_the_data_are_unproven(self, platform: Platform, tmp_path: Path) -> None:
        (one,) = platform.repository.sets("redis")
        one.path.rename(tmp_path / "elsewhere")
        platform.stack.kill("redis")
        record = platform.recover()
        assert record.verdict is Verdict.UNPROVEN
        assert record.stores[0].achieved is None

    def test_a_wrong_password_changes_nothing(self, platform: Platform) -> None:
        process = platform.client().info("server")["process_id"]
        right = platform.secret.read_text(encoding="utf-8")
        platform.secret.write_text("wrong", encoding="utf-8")
        with pytest.raises(PreconditionError, match="turned the login away") as refused:
            platform.recover(restore=When.ALWAYS)
        assert "nothing was changed" in refused.value.state
        platform.secret.write_text(right, encoding="utf-8")
        assert platform.client().info("server")["process_id"] == process

    def test_one_that_cannot_save_is_not_restarted(self, platform: Platform) -> None:
        with platform.client() as client:
            client.config_set("save", "3600 1")
            client.config_set("rdb-key-save-delay", 10_000)
            client.bgsave()
            parent = int(client.info("server")["process_id"])
            child = Path(f"/proc/{parent}/task/{parent}/children")
            eventually("it saves", lambda: bool(child.read_text(encoding="ascii").split()))
            os.kill(int(child.read_text(encoding="ascii").split()[0]), signal.SIGKILL)
            eventually("it knows", lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
            client.config_set("rdb-key-save-delay", 0)
            with pytest.raises(PreconditionError, match="cannot save"):
                platform.recover()
            assert client.info("server")["process_id"] == parent
            client.bgsave()
            eventually("it has saved", lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok")
        recovered(platform.recover())


def test_a_preview_changes_nothing(platform: Platform) -> None:
    platform.client().flushall()
    platform.client().set("one", "key")
    platform.client().delete("one")
    process = platform.client().info("server")["process_id"]
    lines = preview(platform.plan, RedisRecovery(plan=platform.path))
    assert "gone" in lines[0]
    assert any("use backup set" in line for line in lines)
    assert platform.client().info("server")["process_id"] == process
    assert platform.client().dbsize() == 0


def test_the_command_looks_first_then_recovers_and_its_exit_code_says_so(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer()
    app.command("recover")(recover_redis_command)
    app.command("back-up")(backup_now)
    monkeypatch.setenv("RECOUP_PLAN", str(platform.path))
    platform.client().flushall()
    looked = CliRunner().invoke(app, ["recover", "--dry-run"])
    assert looked.exit_code == 0, looked.output
    assert "use backup set" in looked.output
    assert platform.client().dbsize() == 0
    done = CliRunner().invoke(app, ["recover", "--yes", "--json"])
    assert done.exit_code == 0, done.output
    assert platform.sessions() == SESSIONS
    backed_up = CliRunner().invoke(app, ["back-up", "--store", "redis"])
    assert backed_up.exit_code == 0, backed_up.output
    newest, _ = platform.repository.sets("redis")
    assert newest.set_id in backed_up.output
    assert newest.verified is not None


def test_where_no_set_is_here_one_is_fetched_from_a_copy(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    copies = (DirectoryCopy(name="elsewhere", path=tmp_path / "elsewhere"),)
    plan = platform.plan.model_copy(update={"platform": platform.plan.platform.model_copy(update={"copies": copies})})
    require_complete(run_copies(plan))
    os.rename(platform.repository.root, tmp_path / "lost")
    platform.stack.stop("redis")
    platform.stack.put_aside("redis", label="lost")
    platform.stack.start("redis")
    request = RedisRecovery(plan=platform.path, began=now(), restore=When.ALWAYS)
    assert any("fetched from elsewhere" in line for line in preview(plan, request))
    assert not platform.repository.sets("redis")
    record = run_redis_recovery(plan, request, ledger=ledger_path(plan))
    assert record.verdict is Verdict.RECOVERED, record.why
    assert platform.sessions() == SESSIONS


def answered(platform: Platform) -> bool:
    try:
        return bool(platform.client().ping())
    except redis.RedisError:
        return False


def killed_at(platform: Platform, began: datetime, at: str) -> None:
    """Recover in a process that is killed where it notes that text, or tells of a step ``step NAME OUTCOME``."""
    child = multiprocessing.get_context("forkserver").Process(target=_recover_and_die, args=(platform.path, began, at))
    child.start()
    child.join(90)
    assert child.exitcode == -signal.SIGKILL


class _Killer(Silent):
    def __init__(self, at: str) -> None:
        self._at = at

    def step(self, step: StepRecord) -> None:
        assert step.outcome is not StepOutcome.FAILED, step.detail
        self.note(f"step {step.name} {step.outcome}")

    def note(self, text: str) -> None:
        if self._at in text:
            os.kill(os.getpid(), signal.SIGKILL)


def _recover_and_die(path: Path, began: datetime, at: str) -> None:
    plan = load_plan(path)
    with watched_by(_Killer(at)):
        run_redis_recovery(plan, RedisRecovery(plan=path, began=began), ledger=ledger_path(plan))
