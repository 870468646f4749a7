"""The Compose sandbox: several at once, and nothing left of any of them, however it ended."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from uuid import uuid4

import docker
import pytest

from recoup.stacks import Health
from recoup.stacks.compose import ComposeStack
from tasks import sandbox_compose
from tests.docker.conftest import Sandbox
from tests.stack_behaviour import SOON, eventually

ROOT = Path(__file__).resolve().parents[2]


def traces(engine: docker.DockerClient, identity: str) -> list[str]:
    """Give everything on the engine whose name holds the sandbox's id, whatever its labels."""
    names = [str(one.name) for one in engine.containers.list(all=True, ignore_removed=True)]
    names += [str(one.name) for one in engine.networks.list()] + [str(one.name) for one in engine.volumes.list()]
    return [name for name in names if identity in name]


def post(url: str, body: object, token: str = "") -> tuple[int, object]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status, json.load(answer)


def test_a_user_can_log_in_and_write(sandbox: Sandbox) -> None:
    stack = ComposeStack.open(sandbox.site)
    for service in ("postgres", "redis"):
        stack.start(service)
    eventually("the gateway is well", lambda: stack.state("api-gateway").health is Health.HEALTHY)
    kept = sandbox.directory / "secrets"
    user = {"username": (kept / "smoke_user").read_text(), "password": (kept / "smoke_password").read_text()}
    status, answer = post(f"{sandbox.url}/api/v1/login", user)
    assert status == 200
    assert isinstance(answer, dict)
    record = {"id": f"r-{uuid4().hex}", "body": {"a": [1]}}
    assert post(f"{sandbox.url}/api/v1/records", record, answer["token"])[0] == 201
    assert post(f"{sandbox.url}/api/v1/records", record, answer["token"])[0] == 200
    with pytest.raises(urllib.error.HTTPError, match="401"):
        post(f"{sandbox.url}/api/v1/login", {**user, "password": "guessed"})


def test_its_secrets_are_the_owners_alone(sandbox: Sandbox) -> None:
    files = [sandbox.directory / "compose.env", *(sandbox.directory / "secrets").iterdir()]
    assert len(files) == 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_second_one_runs_beside_the_first_and_leaves_nothing(
    sandbox: Sandbox, engine: docker.DockerClient, tmp_path: Path
) -> None:
    identity = f"test-{uuid4().hex[:8]}"
    first = set(traces(engine, sandbox.identity))
    try:
        site, url = sandbox_compose.bring_up(tmp_path, identity, print)
        assert url != sandbox.url
        stack = ComposeStack.open(site)
        assert stack.sandbox == identity
        assert identity in sandbox_compose.abandoned()
        stack.stop("postgres")
        stack.put_aside("postgres", label="x")
        assert any("_aside_x" in name for name in traces(engine, identity))
    finally:
        sandbox_compose.tear_down(identity, tmp_path)
    assert traces(engine, identity) == []
    assert identity not in sandbox_compose.abandoned()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert set(traces(engine, sandbox.identity)) == first
    sandbox_compose.tear_down(identity, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_one_cut_short_leaves_nothing_or_is_found_and_removed(
    engine: docker.DockerClient, sandbox: Sandbox, tmp_path: Path, number: signal.Signals
) -> None:
    identity = f"test-{uuid4().hex[:8]}"
    program = (
        "import sys; from pathlib import Path; from tasks.sandbox_compose import bring_up;"
        "bring_up(Path(sys.argv[1]), sys.argv[2], print)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), identity], cwd=ROOT)
    try:
        eventually("something of it is there", lambda: len(traces(engine, identity)) > 3)
        child.send_signal(number)
        child.wait(60)
        if number == signal.SIGKILL:
            assert identity in sandbox_compose.abandoned()
            sandbox_compose.tear_down(identity, tmp_path)
        eventually("nothing is left", lambda: traces(engine, identity) == [], SOON)
    finally:
        child.kill()
        child.wait()
        sandbox_compose.tear_down(identity, tmp_path)
