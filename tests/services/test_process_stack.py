"""The stack of child processes: what every stack must do, and what is special about processes without a container."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recoup.errors import PreconditionError, RecoveryError
from recoup.stacks import Health, proctable
from recoup.stacks.process import ProcessStack
from recoup.stacks.process_spec import Probe, ServiceSpec, StackSpec
from tests.stack_behaviour import POSTGRES, SOON, StackBehaviour, eventually, ready, sql

ROOT = Path(__file__).resolve().parents[2]


class TestProcessStack(StackBehaviour):
    def test_a_busy_child_of_a_killed_server_does_not_keep_it_from_starting(self, stack: ProcessStack) -> None:
        """PostgreSQL refuses to start while a child of the last server holds its shared memory."""
        busy = "DO $$ BEGIN FOR i IN 1..2000000000 LOOP END LOOP; END $$"

        def work() -> None:
            with pytest.raises(RecoveryError):
                sql(stack, busy)

        client = threading.Thread(target=work)
        client.start()
        eventually("it is busy", lambda: sql(stack, "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^DO'") == "1")
        pid = pid_of(stack, POSTGRES)
        os.kill(pid, signal.SIGKILL)
        eventually("the server is seen as down", lambda: not stack.state(POSTGRES).running)
        assert proctable.dwelling(stack.directory / "services" / "postgres"), "no child outlived it: nothing was proved"
        stack.start(POSTGRES)
        eventually("the database answers", lambda: ready(stack))
        client.join(30)
        assert not client.is_alive()

    def test_a_killed_server_leaves_no_shared_memory(self, stack: ProcessStack) -> None:
        pid = pid_of(stack, POSTGRES)
        assert pid in shared_memory_creators()
        stack.kill(POSTGRES)
        assert pid not in shared_memory_creators()

    def test_a_port_is_known_by_the_number_the_service_itself_knows(self, stack: ProcessStack) -> None:
        assert stack.endpoint(POSTGRES, 5432) == stack.inside(POSTGRES, 5432)
        with pytest.raises(PreconditionError, match="5432"):
            stack.endpoint(POSTGRES, 5433)

    def test_the_server_runs_as_an_ordinary_user_and_tools_as_the_caller(self, stack: ProcessStack) -> None:
        inside = stack.execute(POSTGRES, ("id", "-u"), timeout=SOON).text
        assert int(inside) != 0
        assert os.stat(f"/proc/{pid_of(stack, POSTGRES)}").st_uid == int(inside)
        assert stack.beside(POSTGRES, ("id", "-u"), timeout=SOON).text == str(os.getuid())

    def test_a_copied_file_belongs_to_the_service(self, stack: ProcessStack, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("content", encoding="utf-8")
        there = stack.directory / "services" / "postgres" / "copied"
        stack.copy_in(POSTGRES, tmp_path / "file", str(there))
        assert str(there.stat().st_uid) == stack.execute(POSTGRES, ("id", "-u"), timeout=SOON).text
        there.unlink()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., ProcessStack]]:
    """Give a maker of small stacks with one service, ``one``; they are ended after the test."""
    home = tmp_path / "services" / "one"

    def build(*argv: str, **more: object) -> ProcessStack:
        service = ServiceSpec.model_validate({"name": "one", "argv": argv, "home": home, **more})
        spec = StackSpec(name="small", sandbox="small", services=(service,))
        (tmp_path / "stack.json").write_text(spec.model_dump_json(), encoding="utf-8")
        return ProcessStack.open(tmp_path)

    yield build
    assert proctable.end(lambda: proctable.dwelling(tmp_path)) == ()


Make = Callable[..., ProcessStack]


def test_a_recycled_pid_is_not_ours(make: Make, tmp_path: Path) -> None:
    stack = make("sleep", "1000")
    stack.start("one")
    pid_file = tmp_path / "run" / "one.pid"
    written = pid_file.read_text(encoding="utf-8")
    stack.kill("one")
    time.sleep(0.05)  # the kernel counts starts in steps of 10 ms
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        # The file as it would be, had the kernel given our old pid to the stranger.
        head, tail = written.split(" ", 1)
        assert head != str(stranger.pid)
        pid_file.write_text(f"{stranger.pid} {tail}", encoding="utf-8")
        assert not stack.state("one").running
        with pytest.raises(RecoveryError, match="not running"):
            stack.execute("one", ("true",), timeout=SOON)
        stack.stop("one")
        stack.kill("one")
        stack.start("one")
        assert stack.state("one").running
        assert pid_of(stack, "one") != stranger.pid
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_survives_the_death_of_the_process_that_started_it(make: Make, tmp_path: Path) -> None:
    make("sleep", "1000")
    starter = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from recoup.stacks.process import ProcessStack\n"
            "ProcessStack.open(Path(sys.argv[1])).start('one'); print('started', flush=True); time.sleep(100)",
            str(tmp_path),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"started\n"
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    stack = ProcessStack.open(tmp_path)
    assert stack.state("one").running
    pid = pid_of(stack, "one")
    stack.start("one")
    assert pid_of(stack, "one") == pid
    stack.kill("one")
    state = stack.state("one")
    assert (state.running, state.exit_code, state.status) == (False, None, "exited (code unknown)")
    stack.start("one")
    assert stack.state("one").running


def test_many_starters_make_one_process(make: Make, tmp_path: Path) -> None:
    make("sleep", "1000")
    script = (
        "import sys; from pathlib import Path; from recoup.stacks.process import ProcessStack\n"
        "stack = ProcessStack.open(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.read(1)\n"
        "stack.start('one'); stack.start('one')"
    )
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(8)
    ]
    for starter in starters:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"ready\n"
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.write(b"!")
        starter.stdin.flush()
    assert [starter.wait(30) for starter in starters] == [0] * 8
    assert len(proctable.dwelling(tmp_path)) == 1
    stack = ProcessStack.open(tmp_path)
    assert stack.state("one").running
    assert stack.logs("one").count("starting one") == 1


def test_a_zombie_that_another_process_does_not_reap_is_down(make: Make, tmp_path: Path) -> None:
    make("sleep", "1000")
    script = (
        "import sys; from pathlib import Path; from recoup.stacks.process import ProcessStack\n"
        "ProcessStack.open(Path(sys.argv[1])).start('one'); print('started', flush=True); sys.stdin.read()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"started\n"
    stack = ProcessStack.open(tmp_path)
    pid = pid_of(stack, "one")
    starter.send_signal(signal.SIGSTOP)
    stack.kill("one")
    assert Path(f"/proc/{pid}/stat").read_text(encoding="ascii").split(") ")[1].startswith("Z")
    assert not stack.state("one").running
    stack.start("one")
    assert pid_of(stack, "one") != pid
    starter.send_signal(signal.SIGCONT)
    eventually("the starter reaps it", lambda: not Path(f"/proc/{pid}").exists())
    starter.communicate()


def test_a_killed_child_that_nobody_reaped_is_down(make: Make) -> None:
    stack = make("sleep", "1000")
    stack.start("one")
    pid = pid_of(stack, "one")
    os.kill(pid, signal.SIGKILL)
    eventually("it is down", lambda: not stack.state("one").running)
    assert stack.state("one").status == "exited (code -9)"
    assert not Path(f"/proc/{pid}").exists(), "the zombie was not reaped"


def test_a_kill_takes_descendants_that_left_the_process_group(make: Make, tmp_path: Path) -> None:
    stack = make("sh", "-c", "setsid sleep 1000 & setsid setsid sleep 1000 & wait")
    stack.start("one")
    eventually("all are there", lambda: len(proctable.dwelling(tmp_path)) == 3)
    stack.kill("one")
    assert proctable.dwelling(tmp_path) == ()
    stack.kill("one")


def test_one_that_ignores_the_stop_signal_is_ended_by_force(make: Make, tmp_path: Path) -> None:
    stack = make("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    stack.start("one")
    eventually("it ignores signals", lambda: "ready" in stack.logs("one"))
    began = time.monotonic()
    stack.stop("one", timeout=timedelta(seconds=1))
    assert time.monotonic() - began >= 1
    assert not stack.state("one").running
    assert proctable.dwelling(tmp_path) == ()


def test_the_stop_signal_is_the_one_of_the_description(make: Make) -> None:
    stack = make(
        "sh", "-c", "trap 'echo got INT; exit 5' INT; echo ready; while :; do sleep 0.05; done", stop_signal="SIGINT"
    )
    stack.start("one")
    eventually("it listens", lambda: "ready" in stack.logs("one"))
    stack.stop("one")
    assert "got INT" in stack.logs("one")
    assert stack.state("one").exit_code == 5


def test_a_missing_program_is_seen_in_state_and_log(make: Make) -> None:
    stack = make("no-such-program-anywhere")
    stack.start("one")
    eventually("it has ended", lambda: not stack.state("one").running)
    assert stack.state("one").exit_code == 127
    assert "no-such-program-anywhere" in stack.logs("one")


def test_the_log_survives_stops_and_one_without_times_is_not_cut_too_short(make: Make) -> None:
    stack = make("sh", "-c", "echo first; echo second >&2; exec sleep 1000")
    stack.start("one")
    eventually("it spoke", lambda: "second" in stack.logs("one"))
    stack.stop("one")
    between = datetime.now(UTC)
    stack.start("one")
    eventually("it spoke again", lambda: stack.logs("one").count("second") == 2)
    assert stack.logs("one", since=between).count("first") == 1
    # Nobody knows when it was written, only that it was after the last start.
    assert "second" in stack.logs("one", since=datetime.now(UTC))


def test_health_tells_starting_from_unhealthy(make: Make) -> None:
    port = 1  # nothing listens there
    stack = make("sleep", "1000", port=80, listens=port, health=Probe(kind="tcp", grace=0.5))
    assert stack.state("one").health is Health.NONE
    stack.start("one")
    assert stack.state("one").health is Health.STARTING
    eventually("its time is over", lambda: stack.state("one").health is Health.UNHEALTHY)


def test_recreate_reads_the_description_anew(make: Make) -> None:
    old = make("sh", "-c", "echo old; exec sleep 1000")
    old.start("one")
    eventually("it has spoken", lambda: "old" in old.logs("one"))
    make("sh", "-c", "echo new; exec sleep 1000")
    old.restart("one")
    eventually("it runs as it was", lambda: old.logs("one").count("old") == 2)
    old.recreate("one")
    eventually("it runs as described now", lambda: "new" in old.logs("one"))


def test_data_that_is_gone_altogether_can_be_put_aside_too(make: Make, tmp_path: Path) -> None:
    data = tmp_path / "services" / "one" / "data"
    stack = make("sleep", "1000", data=data)
    data.parent.mkdir(parents=True)
    assert "nothing to put aside" in stack.put_aside("one", label="x")
    assert list(data.iterdir()) == []
    # Cut short between moving the old data away and making the empty place.
    (data / "file").touch()
    data.rename(data.with_name("data.aside-y"))
    stack.put_aside("one", label="y")
    assert list(data.iterdir()) == []
    assert (data.with_name("data.aside-y") / "file").exists()


def test_no_description_is_a_precondition_that_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match=str(tmp_path)):
        ProcessStack.open(tmp_path)
    (tmp_path / "stack.json").write_text('{"name": "x", "services": [{}]}', encoding="utf-8")
    with pytest.raises(PreconditionError, match="argv"):
        ProcessStack.open(tmp_path)


def pid_of(stack: ProcessStack, service: str) -> int:
    return int(stack.state(service).status.removeprefix("running (pid ").removesuffix(")"))


def shared_memory_creators() -> set[int]:
    rows = Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()[1:]
    return {int(row.split()[4]) for row in rows}
