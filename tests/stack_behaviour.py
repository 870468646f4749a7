"""What every stack must do, asked of the real thing; each stack's own tests inherit it.

A subclass's module gives two fixtures: ``stack``, a running sandbox (``postgres``, ``redis``, ``api-gateway`` …) that
the tests may break, and ``db_password``, the secret of its database owner.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from recoup.errors import PreconditionError, ProgramError, RecoupError, RecoveryError
from recoup.stacks import Health, Stack

SOON = timedelta(seconds=30)
POSTGRES, REDIS, GATEWAY = "postgres", "redis", "api-gateway"
SERVICES = {POSTGRES, REDIS, GATEWAY, "records-service", "accounts-service", "neo-n3-rpc", "neo-x-rpc"}
DATABASE_PORT, GATEWAY_PORT = 5432, 8080
SEEDED_USERS = "1000"


def eventually(what: str, true: Callable[[], bool], within: timedelta = SOON) -> None:
    """Wait until something is true, and fail by its name when it does not become so."""
    until = time.monotonic() + within.total_seconds()
    while not true():
        if time.monotonic() > until:
            pytest.fail(f"not within {within.total_seconds():.0f} s: {what}")
        time.sleep(0.05)


def sql(stack: Stack, statement: str) -> str:
    """Run SQL inside the database's service as its owner, through the local socket."""
    script = 'exec psql -XAtq -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c "$STATEMENT"'
    return stack.execute(POSTGRES, ("sh", "-c", script), env={"STATEMENT": statement}, timeout=SOON).text


def ready(stack: Stack) -> bool:
    """Say whether the database takes connections over TCP, which a server still being initialised does not."""
    host, port = stack.inside(POSTGRES, DATABASE_PORT)
    try:
        asked = ("pg_isready", "-h", host, "-p", str(port))
        return stack.execute(POSTGRES, asked, timeout=timedelta(seconds=10), check=False).returncode == 0
    except RecoveryError:
        return False


def arguments_in(stack: Stack, service: str) -> str:
    """Give the argument lists of all processes as seen from inside the service."""
    script = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done 2>/dev/null || true"
    return stack.execute(service, ("sh", "-c", script), timeout=SOON).text


def arguments_here() -> str:
    """Give the argument lists of all processes of this machine, as ``ps`` would show them."""
    lists = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                lists.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
            except OSError:
                continue
    return "\n".join(lists)


class StackBehaviour:
    @pytest.fixture(autouse=True)
    def _whole(self, stack: Stack) -> None:
        """Every test begins with a stack in which the database and Redis run."""
        for service in (POSTGRES, REDIS):
            if not stack.state(service).running:
                stack.start(service)
        eventually("the database answers", lambda: ready(stack))

    # -- seeing --------------------------------------------------------------------------------------------

    def test_lists_every_service_running_and_says_since_when(self, stack: Stack) -> None:
        states = {state.service: state for state in stack.services()}
        assert set(states) >= SERVICES
        for service in SERVICES:
            assert states[service].running, states[service]
            started = states[service].started
            assert started is not None
            assert started.tzinfo is not None
            assert started <= datetime.now(UTC)
        eventually("postgres is healthy", lambda: stack.state(POSTGRES).health is Health.HEALTHY)

    def test_is_a_sandbox_and_names_itself(self, stack: Stack) -> None:
        assert stack.sandbox
        assert stack.fingerprint
        assert stack.fingerprint == stack.fingerprint.strip()

    def test_an_unknown_service_is_refused_by_name(self, stack: Stack) -> None:
        calls: tuple[Callable[[], object], ...] = (
            lambda: stack.state("no-such-service"),
            lambda: stack.start("no-such-service"),
            lambda: stack.stop("no-such-service"),
            lambda: stack.kill("no-such-service"),
            lambda: stack.restart("no-such-service"),
            lambda: stack.recreate("no-such-service"),
            lambda: stack.logs("no-such-service"),
            lambda: stack.execute("no-such-service", ("true",), timeout=SOON),
            lambda: stack.beside("no-such-service", ("true",), timeout=SOON),
            lambda: stack.endpoint("no-such-service", 1),
            lambda: stack.put_aside("no-such-service", label="x"),
        )
        for call in calls:
            with pytest.raises(PreconditionError, match="no-such-service"):
                call()

    def test_logs_hold_what_the_service_said_and_respect_tail_and_since(self, stack: Stack) -> None:
        assert "ready to accept connections" in stack.logs(POSTGRES, tail=100_000)
        assert len(stack.logs(POSTGRES, tail=2).splitlines()) == 2
        moment = datetime.now(UTC)
        time.sleep(1.1)
        with pytest.raises(ProgramError):
            sql(stack, "SELECT 'a line for the log' FROM nowhere_at_all")
        eventually("the log has the new line", lambda: "nowhere_at_all" in stack.logs(POSTGRES, since=moment))
        assert "ready to accept connections" not in stack.logs(POSTGRES, tail=1000, since=moment)

    def test_endpoints_are_reached_from_this_machine(self, stack: Stack) -> None:
        with socket.create_connection(stack.endpoint(POSTGRES, DATABASE_PORT), timeout=5):
            pass
        host, port = stack.endpoint(GATEWAY, GATEWAY_PORT)

        def answers() -> bool:
            try:
                with urllib.request.urlopen(f"http://{host}:{port}/health", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        eventually("the gateway is well", answers)

    # -- starting and stopping ------------------------------------------------------------------------------

    def test_stopped_stays_stopped_until_started_and_both_can_be_repeated(self, stack: Stack) -> None:
        stack.stop(POSTGRES)
        stack.stop(POSTGRES)
        assert not stack.state(POSTGRES).running
        with pytest.raises((OSError, RecoveryError)):  # refused, or nothing there to be refused by
            socket.create_connection(stack.endpoint(POSTGRES, DATABASE_PORT), timeout=1)
        stack.start(POSTGRES)
        stack.start(POSTGRES)
        eventually("the database answers again", lambda: ready(stack))
        assert sql(stack, "SELECT count(*) FROM users") == SEEDED_USERS

    def test_an_orderly_stop_needs_no_crash_recovery(self, stack: Stack) -> None:
        moment = datetime.now(UTC)
        stack.stop(POSTGRES)
        stack.start(POSTGRES)
        eventually("the database answers again", lambda: ready(stack))
        said = stack.logs(POSTGRES, tail=1000, since=moment - timedelta(seconds=1))
        assert "database system is shut down" in said
        assert "not properly shut down" not in said

    @pytest.mark.parametrize("service", [POSTGRES, GATEWAY])
    def test_killed_stays_down_until_started(self, stack: Stack, service: str) -> None:
        stack.kill(service)
        time.sleep(2)
        assert not stack.state(service).running
        stack.kill(service)
        stack.start(service)
        eventually(f"{service} runs again", lambda: stack.state(service).running)

    def test_a_restart_is_a_new_start(self, stack: Stack) -> None:
        before = stack.state(REDIS).started
        stack.restart(REDIS)
        after = stack.state(REDIS)
        assert after.running
        assert before is not None
        assert after.started is not None
        assert after.started > before

    def test_recreated_it_keeps_its_data(self, stack: Stack) -> None:
        table = f"kept_{uuid.uuid4().hex[:8]}"
        sql(stack, f"CREATE TABLE {table} AS SELECT 42 AS answer")
        before = stack.state(POSTGRES).started
        stack.recreate(POSTGRES)
        eventually("the database answers again", lambda: ready(stack))
        assert stack.state(POSTGRES).started != before
        assert sql(stack, f"SELECT answer FROM {table}") == "42"
        sql(stack, f"DROP TABLE {table}")

    # -- running programs -----------------------------------------------------------------------------------

    def test_streams_five_megabytes_through_unchanged(self, stack: Stack, tmp_path: Path) -> None:
        data = os.urandom(5_000_000)
        source, target = tmp_path / "in", tmp_path / "out"
        source.write_bytes(data)
        with source.open("rb") as given, target.open("wb") as taken:
            done = stack.execute(POSTGRES, ("cat",), timeout=SOON, stdin=given, stdout=taken)
        assert done.returncode == 0
        assert done.stdout == b""
        assert target.read_bytes() == data
        assert stack.execute(POSTGRES, ("cat",), timeout=SOON, stdin=data).stdout == data

    def test_a_program_out_of_time_is_ended_inside_too(self, stack: Stack) -> None:
        seconds = str(7000 + int.from_bytes(os.urandom(2), "big"))
        script = f'trap "" TERM HUP INT; sleep {seconds}; sleep {seconds}'
        began = time.monotonic()
        with pytest.raises(ProgramError):
            stack.execute(POSTGRES, ("sh", "-c", script), timeout=timedelta(seconds=1))
        assert time.monotonic() - began < 20
        eventually("no such program is left", lambda: f"sleep {seconds}" not in arguments_in(stack, POSTGRES))

    def test_a_failing_program_raises_with_what_it_said(self, stack: Stack) -> None:
        fails = ("sh", "-c", "echo heard; echo it is broken >&2; exit 3")
        with pytest.raises(ProgramError, match="it is broken") as raised:
            stack.execute(POSTGRES, fails, timeout=SOON)
        assert raised.value.returncode == 3
        done = stack.execute(POSTGRES, fails, timeout=SOON, check=False)
        assert (done.returncode, done.text) == (3, "heard")
        assert "it is broken" in done.stderr

    def test_nothing_can_be_executed_in_a_stopped_service(self, stack: Stack) -> None:
        stack.stop(REDIS)
        with pytest.raises(RecoveryError, match=REDIS):
            stack.execute(REDIS, ("true",), timeout=SOON)

    @pytest.mark.parametrize("how", ["execute", "beside"])
    def test_the_callers_own_environment_stays_outside(
        self, stack: Stack, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A PGSERVICE of the person who types would win over the PGHOST that names the server to restore."""
        monkeypatch.setenv("PGSERVICE", "somewhere-else")
        run = stack.execute if how == "execute" else stack.beside
        assert run(POSTGRES, ("sh", "-c", "echo [$PGSERVICE]"), timeout=SOON).text == "[]"

    @pytest.mark.parametrize("how", ["execute", "beside"])
    def test_a_secret_arrives_and_is_seen_nowhere(self, stack: Stack, how: str) -> None:
        run = stack.execute if how == "execute" else stack.beside
        secret = SecretStr(f"hush-{uuid.uuid4().hex}")
        value = secret.get_secret_value()
        got: list[str] = []

        def hold() -> None:
            script = 'printf %s "$TOKEN" | sha256sum; sleep 2'
            got.append(run(POSTGRES, ("sh", "-c", script), secrets={"TOKEN": secret}, timeout=SOON).text)

        holder = threading.Thread(target=hold)
        holder.start()
        seen = ""
        while holder.is_alive():
            seen += arguments_here()
            time.sleep(0.1)
        holder.join()
        assert "sha256sum; sleep 2" in seen, "the program was not caught running, so nothing was proved"
        assert value not in seen
        assert got[0].split()[0] == hashlib.sha256(value.encode()).hexdigest()
        with pytest.raises(ProgramError) as raised:
            run(POSTGRES, ("sh", "-c", 'echo "no $TOKEN" >&2; exit 1'), secrets={"TOKEN": secret}, timeout=SOON)
        assert "no ****" in str(raised.value)
        assert value not in str(raised.value) + repr(raised.value) + raised.value.stderr

    def test_beside_shares_directories_and_reaches_the_service(
        self, stack: Stack, db_password: SecretStr, tmp_path: Path
    ) -> None:
        (tmp_path / "given").write_text("from this machine", encoding="utf-8")
        host, port = stack.inside(POSTGRES, DATABASE_PORT)
        owner = stack.execute(POSTGRES, ("printenv", "POSTGRES_USER", "POSTGRES_DB"), timeout=SOON).text.split()
        script = f'cat "{tmp_path}/given" >"{tmp_path}/taken" && psql -XAt -c "SELECT count(*) FROM users"'
        done = stack.beside(
            POSTGRES,
            ("sh", "-c", script),
            mounts=[tmp_path],
            env={"PGHOST": host, "PGPORT": str(port), "PGUSER": owner[0], "PGDATABASE": owner[1]},
            secrets={"PGPASSWORD": db_password},
            timeout=SOON,
        )
        assert done.text == SEEDED_USERS
        assert (tmp_path / "taken").read_text(encoding="utf-8") == "from this machine"

    def test_beside_streams_fails_and_times_out_like_execute(self, stack: Stack, tmp_path: Path) -> None:
        data = os.urandom(1_000_000)
        with (tmp_path / "out").open("wb") as taken:
            stack.beside(POSTGRES, ("cat",), timeout=SOON, stdin=data, stdout=taken)
        assert (tmp_path / "out").read_bytes() == data
        with pytest.raises(ProgramError, match="so it is") as raised:
            stack.beside(POSTGRES, ("sh", "-c", "echo so it is >&2; exit 4"), timeout=SOON)
        assert raised.value.returncode == 4
        seconds = str(7000 + int.from_bytes(os.urandom(2), "big"))
        with pytest.raises(ProgramError):
            stack.beside(POSTGRES, ("sleep", seconds), timeout=timedelta(seconds=2))
        eventually("no such program is left", lambda: f"sleep {seconds}" not in arguments_here())

    # -- files and data -------------------------------------------------------------------------------------

    def test_a_file_copied_in_comes_out_the_same(self, stack: Stack, tmp_path: Path) -> None:
        source, back, there = tmp_path / "in", tmp_path / "back", f"/tmp/copied-{uuid.uuid4().hex}"
        source.write_bytes(os.urandom(300_000))
        stack.copy_in(POSTGRES, source, there)
        try:
            stack.copy_out(POSTGRES, there, back)
        finally:
            stack.execute(POSTGRES, ("rm", "-f", there), timeout=SOON)
        assert back.read_bytes() == source.read_bytes()
        with pytest.raises(RecoupError, match=there):
            stack.copy_out(POSTGRES, there, tmp_path / "again")
        assert not (tmp_path / "again").exists()

    def test_data_of_a_running_service_is_not_put_aside(self, stack: Stack) -> None:
        with pytest.raises(PreconditionError, match=POSTGRES):
            stack.put_aside(POSTGRES, label="never")
        assert sql(stack, "SELECT count(*) FROM users") == SEEDED_USERS

    def test_put_aside_leaves_an_empty_place_and_repeating_it_moves_nothing_more(self, stack: Stack) -> None:
        label = f"t{uuid.uuid4().hex[:8]}"
        sql(stack, "CREATE TABLE old_data AS SELECT 1")
        stack.stop(POSTGRES)
        where = stack.put_aside(POSTGRES, label=label)
        assert label in where
        stack.start(POSTGRES)
        eventually("a new database answers", lambda: ready(stack))
        assert sql(stack, "SELECT to_regclass('old_data') IS NULL") == "t"
        assert sql(stack, "SELECT count(*) FROM users") == SEEDED_USERS
        sql(stack, "CREATE TABLE new_data AS SELECT 1")
        stack.stop(POSTGRES)
        assert stack.put_aside(POSTGRES, label=label) == where
        stack.start(POSTGRES)
        eventually("the same new database answers", lambda: ready(stack))
        assert sql(stack, "SELECT to_regclass('new_data') IS NOT NULL") == "t"
