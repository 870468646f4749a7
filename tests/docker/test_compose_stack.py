"""The Compose stack on a real engine: what every stack must do, and what is special about containers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import docker
import pytest

from recoup.errors import PreconditionError, RecoveryError
from recoup.plan import ComposeSite
from recoup.stacks import Health, Stack
from recoup.stacks.compose import ASIDE_LABEL, ComposeStack
from recoup.stacks.compose_project import SIDECAR_LABEL
from tests.docker.conftest import Sandbox
from tests.stack_behaviour import POSTGRES, REDIS, SERVICES, SOON, StackBehaviour, eventually, ready, sql

ROOT = Path(__file__).resolve().parents[2]
IN_VOLUME = ("find", "/var/lib/postgresql/data", "-printf", "%p %s %U:%G %m\n")


class TestComposeStack(StackBehaviour):
    """Nothing more: what is said of Docker alone is below."""


@pytest.fixture
def whole(stack: ComposeStack) -> ComposeStack:
    for service in (POSTGRES, REDIS):
        stack.start(service)
    eventually("the database answers", lambda: ready(stack))
    return stack


def sidecars(engine: docker.DockerClient, stack: Stack) -> list[str]:
    marked: dict[str, str | list[str] | bool] = {"label": f"{SIDECAR_LABEL}={stack.name}"}
    return [str(one.name) for one in engine.containers.list(all=True, filters=marked, ignore_removed=True)]


def test_data_put_aside_is_whole_in_a_labelled_volume(
    whole: ComposeStack, engine: docker.DockerClient, sandbox: Sandbox
) -> None:
    whole.stop(POSTGRES)
    before = sorted(whole.beside(POSTGRES, IN_VOLUME, timeout=SOON).text.splitlines())
    assert any("/PG_VERSION " in line for line in before)
    said = whole.put_aside(POSTGRES, label="whole")
    name = f"{sandbox.site.project}_postgres-data_aside_whole"
    assert name in said
    assert engine.volumes.get(name).attrs["Labels"][ASIDE_LABEL] == "whole"
    left = whole.beside(POSTGRES, IN_VOLUME, timeout=SOON).text.splitlines()
    assert [line.split()[0] for line in left] == [IN_VOLUME[1]]
    assert left[0].split()[2:] == before[0].split()[2:]
    image = engine.containers.get(f"{sandbox.identity}-neo-postgres").attrs["Image"]
    aside = engine.containers.run(
        image, list(IN_VOLUME[1:]), entrypoint="find", remove=True, user="0", volumes={name: {"bind": IN_VOLUME[1]}}
    )
    assert sorted(aside.decode().strip().splitlines()) == before


def test_putting_aside_goes_on_where_a_crash_cut_it_short(whole: ComposeStack, engine: docker.DockerClient) -> None:
    whole.stop(POSTGRES)
    whole.put_aside(POSTGRES, label="cut")
    name = f"{whole.name}_postgres-data_aside_cut"
    moved, place = (
        Path(engine.volumes.get(volume).attrs["Mountpoint"]) for volume in (name, f"{whole.name}_postgres-data")
    )
    if not moved.exists():
        pytest.skip("the engine's directories are not this machine's")
    owner = (moved.stat().st_uid, moved.stat().st_mode)
    (moved.parent / "moved-by-recoup").unlink()
    place.rmdir()
    whole.put_aside(POSTGRES, label="cut")
    assert (moved / "PG_VERSION").is_file()
    assert list(place.iterdir()) == []
    assert (place.stat().st_uid, place.stat().st_mode) == owner
    (moved.parent / "moved-by-recoup").unlink()
    whole.put_aside(POSTGRES, label="cut")
    assert (moved / "PG_VERSION").is_file()


def test_redis_is_put_aside_too(whole: ComposeStack) -> None:
    redis = ("redis-cli",)
    assert whole.execute(REDIS, (*redis, "set", "old", "1"), timeout=SOON).text == "OK"
    whole.stop(REDIS)
    whole.put_aside(REDIS, label="cache")
    whole.start(REDIS)
    eventually(
        "redis answers", lambda: whole.execute(REDIS, (*redis, "ping"), timeout=SOON, check=False).text == "PONG"
    )
    assert whole.execute(REDIS, (*redis, "dbsize"), timeout=SOON).text == "0"


def test_a_service_without_a_container_is_made_by_start(whole: ComposeStack, engine: docker.DockerClient) -> None:
    engine.containers.get(f"{whole.name.removeprefix('recoup-')}-neo-x-rpc").remove(force=True)
    state = whole.state("neo-x-rpc")
    assert (state.running, state.status) == (False, "never created")
    assert "neo-x-rpc" in {state.service for state in whole.services()}
    with pytest.raises(RecoveryError, match="neo-x-rpc"):
        whole.execute("neo-x-rpc", ("true",), timeout=SOON)
    whole.start("neo-x-rpc")
    assert whole.state("neo-x-rpc").running
    assert {state.service for state in whole.services() if state.running} == SERVICES | {"prometheus"}


@pytest.mark.parametrize("how", ["execute", "beside"])
def test_an_interrupted_run_leaves_nothing_running(
    whole: ComposeStack, engine: docker.DockerClient, sandbox: Sandbox, how: str, tmp_path: Path
) -> None:
    site = tmp_path / "site.json"
    site.write_text(sandbox.site.model_dump_json(), encoding="utf-8")
    program = (
        "import sys; from datetime import timedelta; from pathlib import Path; from recoup.plan import ComposeSite;"
        "from recoup.stacks.compose import ComposeStack;"
        "stack = ComposeStack.open(ComposeSite.model_validate_json(Path(sys.argv[1]).read_text()));"
        f"stack.{how}('postgres', ('sleep', '6543'), timeout=timedelta(minutes=5))"
    )
    script = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done 2>/dev/null || true"

    def sleeping() -> bool:
        inside = whole.execute(POSTGRES, ("sh", "-c", script), timeout=SOON).text.splitlines()
        return "sleep 6543 " in inside or bool(sidecars(engine, whole))

    child = subprocess.Popen([sys.executable, "-c", program, str(site)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        eventually("it runs", sleeping)
        child.send_signal(signal.SIGINT)
        assert child.wait(20) != 0
    finally:
        child.kill()
        child.wait()
    assert not sleeping()


def test_a_sidecar_out_of_time_is_removed(whole: ComposeStack, engine: docker.DockerClient) -> None:
    with pytest.raises(RecoveryError, match="sh in a sidecar of postgres"):
        whole.beside(POSTGRES, ("sh", "-c", "trap '' TERM; sleep 600 & wait; sleep 600"), timeout=timedelta(seconds=1))
    assert sidecars(engine, whole) == []


def test_the_platform_comes_back_by_itself_after_its_database(whole: ComposeStack) -> None:
    def healthy() -> bool:
        return whole.state("api-gateway").health is Health.HEALTHY

    eventually("the gateway is well", healthy)
    whole.kill(POSTGRES)
    eventually("the gateway is not well", lambda: not healthy())
    whole.start(POSTGRES)
    eventually("the gateway is well again", healthy)
    assert sql(whole, "SELECT 1") == "1"


def test_an_engine_a_file_or_a_variable_that_is_not_there_is_said_before_anything_is_done(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = ComposeSite(file=tmp_path / "nowhere.yaml", project="nothing")
    with pytest.raises(PreconditionError, match=r"nowhere\.yaml"):
        ComposeStack.open(missing)
    without = ComposeStack.open(ComposeSite(file=sandbox.site.file, project="nothing"))
    for name in ("DB_PASSWORD", "DB_NAME", "DB_USER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PreconditionError, match="DB_"):
        without.state(POSTGRES)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    began = time.monotonic()
    with pytest.raises(PreconditionError, match=r"no\.sock"):
        ComposeStack.open(sandbox.site)
    assert time.monotonic() - began < 10
