"""Sandboxes as a whole: made, kept apart, and gone without a trace, whatever happens to whoever made them."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from recoup.errors import PreconditionError, ProgramError, RecoveryError
from recoup.plan import ChainComponent, load_plan
from recoup.process import Command, run
from recoup.secrets import resolve
from recoup.stacks import open_stack, proctable
from recoup.stacks.process import ProcessStack
from tasks import embedded, sandbox_process
from tasks.embedded import redis_server
from tasks.health import trusting
from tasks.sandbox import Sandbox, create, destroy, sweep
from tests.stack_behaviour import POSTGRES, SOON, eventually, ready, sql

ROOT = Path(__file__).resolve().parents[2]
MINUTE = timedelta(minutes=1)
MAKER = """
import json, sys, time
from tasks.sandbox import create
made = create("process", progress=lambda text: print(text, flush=True))
print(json.dumps({"id": made.id, "directory": str(made.directory)}), flush=True)
time.sleep(int(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def state(sandbox_state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECOUP_STATE", str(sandbox_state))
    return sandbox_state


@pytest.fixture
def second() -> Iterator[Sandbox]:
    made = create("process")
    yield made
    destroy(made)


def test_it_answers_as_soon_as_it_is_made_and_its_plan_is_its_own(sandbox: Sandbox) -> None:
    plan = load_plan(sandbox.plan)
    stack = open_stack(plan)
    assert stack.sandbox == sandbox.id
    assert sandbox.id in stack.fingerprint
    assert plan.platform.gateway.url
    token = login(plan.platform.gateway.url, sandbox)
    assert get(f"{plan.platform.gateway.url}/api/v1/records?prefix=seed-1", token, sandbox)
    assert plan.platform.gateway.ca == sandbox.directory / "ca.pem"
    inside = [plan.platform.state, plan.platform.repository]
    login_of = plan.platform.gateway.login
    assert login_of is not None
    name, database = plan.postgres()
    references = [login_of.username, login_of.password, database.password]
    assert name == POSTGRES
    assert all(place.is_relative_to(sandbox.directory) for place in inside)
    assert all(reference.startswith(f"file:{sandbox.directory}/secrets/") for reference in references)
    assert all(resolve(reference).get_secret_value() for reference in references)


def test_nothing_in_its_plan_leads_out_of_this_machine(sandbox: Sandbox) -> None:
    plan = load_plan(sandbox.plan)
    chains = [component for component in plan.components.values() if isinstance(component, ChainComponent)]
    urls = [endpoint.url for chain in chains for endpoint in chain.endpoints]
    urls += [url for url in (plan.platform.address, plan.platform.gateway.url) if url]
    assert len(urls) >= 4
    assert [url for url in urls if not url.startswith(("http://127.0.0.1:", "https://127.0.0.1:"))] == []


def test_its_secrets_are_private_and_stand_in_no_argument_list(sandbox: Sandbox) -> None:
    place = sandbox.directory / "secrets"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    names = {"db_password", "redis_password", "jwt_secret", "smoke_user", "smoke_password", "tls_pem"}
    names.add("configuration_identity")
    assert {file.name for file in place.iterdir()} == names
    values = []
    for file in place.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        if file.name != "smoke_user":
            values.append(file.read_text(encoding="utf-8"))
    processes = proctable.dwelling(sandbox.directory)
    shown = "\n".join(Path(f"/proc/{who.pid}/cmdline").read_text(encoding="utf-8") for who in processes)
    assert redis_server().name in shown
    described = (sandbox.directory / "stack.json").read_text(encoding="utf-8") + sandbox.plan.read_text(
        encoding="utf-8"
    )
    logs = "\n".join(file.read_text(encoding="utf-8") for file in (sandbox.directory / "logs").iterdir())
    assert [value for value in values if value in shown + described + logs] == []


def test_the_database_keeps_what_it_acknowledged(stack: ProcessStack) -> None:
    asked = (
        "SELECT string_agg(current_setting(s), ',') FROM unnest(array['fsync','full_page_writes','data_checksums']) s"
    )
    assert sql(stack, asked) == "on,on,on"
    assert sql(stack, "SHOW synchronous_commit") == "on"
    host, port = stack.inside(POSTGRES, 5432)
    with pytest.raises(ProgramError, match="password"):
        stack.beside(POSTGRES, ("psql", "-w", "-h", host, "-p", str(port), "-U", "neo", "-l"), timeout=SOON)


def test_two_at_once_have_nothing_in_common(sandbox: Sandbox, second: Sandbox) -> None:
    first_stack, second_stack = ProcessStack.open(sandbox.directory), ProcessStack.open(second.directory)
    ports = [{stack.endpoint(POSTGRES, 5432)[1]} for stack in (first_stack, second_stack)]
    assert ports[0].isdisjoint(ports[1])
    secrets = [{(made.directory / "secrets" / "db_password").read_text("utf-8")} for made in (sandbox, second)]
    assert secrets[0].isdisjoint(secrets[1])
    sql(second_stack, "INSERT INTO records (id, body) VALUES ('only-in-the-second', '{}')")
    assert sql(first_stack, "SELECT count(*) FROM records WHERE id = 'only-in-the-second'") == "0"
    # A restore meant for one that goes to the other must fail.
    host, port = first_stack.endpoint(POSTGRES, 5432)
    with pytest.raises(ProgramError, match="password authentication failed"):
        first_stack.beside(
            POSTGRES,
            ("psql", "-h", host, "-p", str(port), "-U", "neo", "-d", "neo_service_layer", "-c", "SELECT 1"),
            secrets={"PGPASSWORD": resolve(f"file:{second.directory}/secrets/db_password")},
            timeout=SOON,
        )


def test_destroyed_it_leaves_nothing_and_its_neighbour_alone(sandbox: Sandbox) -> None:
    before = traces()
    made = create("process")
    stack = ProcessStack.open(made.directory)
    running = proctable.dwelling(made.directory)
    assert len(running) > len(stack.names)
    stack.kill("redis")
    destroy(made)
    assert [who for who in running if proctable.alive(who)] == []
    assert not made.directory.exists()
    no_traces_but(before)
    destroy(made)
    assert ProcessStack.open(sandbox.directory).runs(POSTGRES)


def test_destroyed_while_a_tool_runs_beside_it(state: Path) -> None:
    made = create("process")
    stack = ProcessStack.open(made.directory)
    _, port = stack.inside(POSTGRES, 5432)
    tool = subprocess.Popen(["sleep", "1000"], cwd=made.directory, start_new_session=True)
    destroy(made)
    assert tool.wait(10) == -signal.SIGKILL
    assert not made.directory.exists()
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))


@pytest.mark.parametrize("moment", ["while it was being made", "when it was up"])
def test_one_whose_owner_was_killed_is_swept_away(moment: str, state: Path, sandbox: Sandbox) -> None:
    before = traces()
    maker = subprocess.Popen([sys.executable, "-c", MAKER, "100"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    known = set((state / "sandboxes").iterdir())
    for line in maker.stdout:
        if line.startswith("waiting" if moment == "while it was being made" else "{"):
            break
    (directory,) = set((state / "sandboxes").iterdir()) - known
    assert directory.name not in sweep(), "its owner lives"
    assert directory.exists()
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    running = proctable.dwelling(directory)
    assert running
    assert sweep() == (directory.name,)
    assert [who for who in running if proctable.alive(who)] == []
    assert not directory.exists()
    no_traces_but(before)
    assert sandbox.directory.exists()
    assert ProcessStack.open(sandbox.directory).runs(POSTGRES)


def test_its_database_can_be_killed_and_started_by_another_process_than_its_maker(state: Path) -> None:
    """PostgreSQL takes a zombie for a living server: the maker must reap what somebody else killed."""
    known = set((state / "sandboxes").iterdir())
    maker = subprocess.Popen([sys.executable, "-c", MAKER, "100"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    for line in maker.stdout:
        if line.startswith("{"):
            break
    (directory,) = set((state / "sandboxes").iterdir()) - known
    stack = ProcessStack.open(directory)
    try:
        for _ in range(3):
            stack.kill(POSTGRES)
            stack.start(POSTGRES)
            eventually("the database answers", lambda: ready(stack))
    finally:
        maker.kill()
        maker.wait()
        sweep()
    assert not directory.exists()


def test_interrupted_while_it_is_made_it_leaves_nothing(state: Path) -> None:
    before = traces()
    maker = subprocess.Popen([sys.executable, "-c", MAKER, "100"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    for line in maker.stdout:
        if line.startswith("waiting"):
            break
    maker.send_signal(signal.SIGINT)
    maker.wait(30)
    no_traces_but(before)
    assert sweep() == ()


def test_remains_without_an_owner_are_swept_away(state: Path) -> None:
    (state / "sandboxes" / "deadbeef" / "services").mkdir(parents=True)
    nobody = state / "sandboxes" / f".making-deadbee2-{os.getpid()}-1"
    nobody.mkdir()
    me = proctable.myself()
    mine = state / "sandboxes" / f".making-deadbee3-{me.pid}-{me.start}"
    mine.mkdir()
    sweep()
    assert not (state / "sandboxes" / "deadbeef").exists()
    assert not nobody.exists()
    assert mine.exists()
    mine.rmdir()


def test_a_service_that_cannot_start_is_named_with_its_last_words(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = traces()
    roles = {**sandbox_process._APPLICATIONS, "accounts-service": ("no-such-role", (POSTGRES,))}
    monkeypatch.setattr(sandbox_process, "_APPLICATIONS", roles)
    with pytest.raises(RecoveryError, match=r"accounts-service(.|\n)*usage: python -m app"):
        create("process")
    no_traces_but(before)


def test_a_port_lost_to_another_program_is_replaced(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sandbox_process.free_ports
    said: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        lost = taken.getsockname()[1]
        choices = iter([lambda count: [lost, *real(count - 1)]])
        monkeypatch.setattr(sandbox_process, "free_ports", lambda count: next(choices, real)(count))
        made = create("process", progress=said.append)
    try:
        assert any("port was taken" in line for line in said)
        assert ProcessStack.open(made.directory).endpoint(POSTGRES, 5432)[1] != lost
    finally:
        destroy(made)


def test_a_state_directory_with_a_very_long_path(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path may not be longer than 107 bytes."""
    monkeypatch.setenv("RECOUP_STATE", str(state / "long" / ("x" * 120)))
    made = create("process")
    place = Path(tempfile.gettempdir()) / f"recoup-{made.id}"
    try:
        assert place.is_dir()
        assert sql(ProcessStack.open(made.directory), "SELECT 1") == "1"
    finally:
        destroy(made)
    assert not place.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the database as another user")
def test_a_state_directory_that_the_database_cannot_enter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("RECOUP_STATE", str(tmp_path / "state"))
    with pytest.raises(PreconditionError, match="cannot enter"):
        create("process")
    assert list((tmp_path / "state" / "sandboxes").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the database as another user")
def test_programs_that_the_database_cannot_reach_are_copied_once(
    state: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "open_to_all", lambda _: False)
    with tempfile.TemporaryDirectory(dir=state) as place:
        os.chmod(place, 0o755)
        programs = embedded.postgres_programs(Path(place))
        assert programs.is_relative_to(place)
        made = (programs / "postgres").stat().st_ino
        for program in ("postgres", "psql", "pg_dump"):
            said = run(Command((str(programs / program), "--version")), timeout=SOON, user="nobody").text
            assert "PostgreSQL" in said
        assert embedded.postgres_programs(Path(place)) == programs
        assert (programs / "postgres").stat().st_ino == made
        assert len(list((Path(place) / "runtime").iterdir())) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests already run as an ordinary user")
def test_an_ordinary_user_can_have_one_too(state: Path) -> None:
    with tempfile.TemporaryDirectory(dir=state) as place:
        python = python_for_everybody(Path(place) / "environment")
        os.chown(place, 65534, 65534)
        script = (
            "import json; from tasks.sandbox import create, destroy; from recoup.stacks.process import ProcessStack\n"
            "from datetime import timedelta; made = create('process'); stack = ProcessStack.open(made.directory)\n"
            "user = stack.execute('postgres', ('id', '-u'), timeout=timedelta(seconds=9)).text\n"
            "destroy(made); print(json.dumps([user, made.directory.exists()]))"
        )
        command = Command((str(python), "-c", script), {"RECOUP_STATE": place, "HOME": place}, {}, ROOT)
        answer = run(command, timeout=MINUTE, user="nobody").text
        assert json.loads(answer) == ["65534", False]


def python_for_everybody(place: Path) -> Path:
    """Give a Python that every user can run, with the packages of this one; skips where there is none."""
    libraries = Path(sysconfig.get_path("purelib"))
    if not all(embedded.open_to_all(directory) for directory in (ROOT, libraries)):
        pytest.skip("an ordinary user cannot enter this checkout or its environment")
    if embedded.open_to_all(Path(sys.base_prefix)):
        return Path(sys.executable)
    system = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
    if not system.exists():
        pytest.skip("an ordinary user cannot run this Python, and the system has none of the same version")
    subprocess.run([system, "-m", "venv", "--without-pip", place], check=True, timeout=60)
    (found,) = place.glob("lib/python*/site-packages")
    (found / "packages.pth").write_text(f"{libraries}\n", encoding="utf-8")
    return place / "bin" / "python"


def login(url: str, sandbox: Sandbox) -> str:
    secrets = sandbox.directory / "secrets"
    body = {
        "username": (secrets / "smoke_user").read_text("utf-8"),
        "password": (secrets / "smoke_password").read_text("utf-8"),
    }
    request = urllib.request.Request(
        f"{url}/api/v1/login", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10, context=trusting(sandbox.directory / "ca.pem")) as answer:
        return str(json.load(answer)["token"])


def get(url: str, token: str, sandbox: Sandbox) -> object:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10, context=trusting(sandbox.directory / "ca.pem")) as answer:
        return json.load(answer)


def traces() -> set[str]:
    """Give what sandboxes might leave on this machine: directories, shared memory nobody uses, socket places."""
    sandboxes, memory, temporary = (
        Path(os.environ["RECOUP_STATE"]) / "sandboxes",
        Path("/dev/shm"),
        tempfile.gettempdir(),
    )
    found = [*sandboxes.iterdir(), *memory.glob("PostgreSQL.*"), *Path(temporary).glob("recoup-????????")]
    rows = Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()[1:]
    return {str(path) for path in found} | {f"segment {row.split()[1]}" for row in rows if row.split()[6] == "0"}


def no_traces_but(known: set[str]) -> None:
    """Other programs of this machine come and go; what a sandbox forgot stays for ever."""
    eventually("no trace is left", lambda: traces() <= known, timedelta(seconds=5))
