"""What the orchestration costs beside the work itself: `python -m benchmarks.overhead [--rounds 3]`.

Overhead is the time of one whole database recovery less the time its steps' own functions took.
"""

from __future__ import annotations

# Before anything that imports Prefect: it keeps Prefect's own lines off the screen.
import deployments.orchestrator  # isort: skip

import argparse
import functools
import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from prefect import Task
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.console import Console
from rich.table import Table

import flows.database
from benchmarks.rounds import machine, rest, screen, working_place
from flows.backup import run_backup
from flows.database import DatabaseRecovery, recover_database
from flows.procedure import recording
from recoup.errors import RecoveryError
from recoup.plan import Plan, load_plan
from recoup.process import Command, background, run
from recoup.stacks import open_stack
from tasks import sandbox
from tasks.postgres import Server
from tasks.postgres_fault import Fault, inject

FAULTS = (Fault.KILL, Fault.WIPE)
START = timedelta(seconds=180)
COLD = {
    "recoup --version (imports no Prefect)": ("--version",),
    "recoup drill database --help (imports everything)": ("drill", "database", "--help"),
}


@dataclass(frozen=True)
class Taken:
    """One recovery: the flow's time as its caller saw it and that of its steps' own functions, in seconds."""

    way: str
    fault: str
    wall: float
    work: float
    steps: int
    first: bool

    @property
    def overhead(self) -> float:
        return self.wall - self.work


class Work:
    """Counts the time that steps' own functions take, whoever calls them."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def count(self, task: Task[..., Any]) -> None:
        """Have this step's function counted from now on."""
        original = task.fn

        @functools.wraps(original)
        def counted(*args: Any, **kwargs: Any) -> Any:
            started = time.monotonic()
            try:
                return original(*args, **kwargs)
            finally:
                self.seconds += time.monotonic() - started
                self.calls += 1

        task.fn = counted


def recover(plan: Plan, path: Path, identity: str, fault: Fault, work: Work, way: str, first: bool) -> Taken:
    """Break the sandbox's database, recover it, and give the times of the recovery."""
    broken = inject(Server.of(plan, open_stack(plan), None), fault, identity)
    request = DatabaseRecovery(plan=path, began=broken.at, began_source="injected fault", reason="benchmark")
    work.seconds, work.calls = 0.0, 0
    with recording() as records:
        started = time.monotonic()
        deployments.orchestrator.run_flow(recover_database, request, screen.print)
        wall = time.monotonic() - started
    if not records:
        raise RecoveryError("the recovery left no record")
    return Taken(way, fault.value, wall, work.seconds, work.calls, first)


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """Give the API address of a Prefect server of our own on SQLite, which answers; it is ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home.mkdir()
    url = f"http://127.0.0.1:{port}/api"
    argv = (sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    env = {"PREFECT_HOME": str(home), "PREFECT_API_URL": url, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    started = time.monotonic()
    with background(Command(argv, env=env), log=home / "server.log") as server:
        while not _answers(url):
            if not server.alive() or time.monotonic() - started > START.total_seconds():
                raise RecoveryError("the Prefect server did not start", state=(home / "server.log").read_text()[-2000:])
            time.sleep(0.5)
        screen.print(f"a Prefect server on SQLite answered after {time.monotonic() - started:.1f} s", style="dim")
        yield url
        # What was logged is sent behind the scenes; nobody would take it once the server has ended.
        APILogHandler().flush()


def measure(rounds: int, patience: float, place: Path) -> list[Taken]:
    """Give every recovery that was made: first without a server, then with one."""
    work, taken = Work(), []
    for task in vars(flows.database).values():
        if isinstance(task, Task):
            work.count(task)
    made = sandbox.create("process", progress=lambda text: screen.print(text, style="dim"))
    try:
        plan = load_plan(made.plan)
        run_backup(plan, open_stack(plan), verify=False)
        for way, server in (("without a server", nullcontext("")), ("with a server", prefect_server(place / "server"))):
            with server as url, temporary_settings({PREFECT_API_URL: url or None}):
                for number in range(rounds + 1):
                    for fault in FAULTS:
                        rest(patience)
                        # The first of a process pays for what is imported and connected once.
                        first = number == 0 and fault is FAULTS[0]
                        if number == 0 and not first:
                            continue
                        one = recover(plan, made.plan, made.id, fault, work, way, first)
                        taken.append(one)
                        screen.print(
                            f"{way}, {fault}{' (first)' if first else ''}: {one.wall:.2f} s, "
                            f"of which {one.steps} steps {one.work:.2f} s: overhead {one.overhead:.2f} s"
                        )
    finally:
        sandbox.destroy(made)
    return taken


def cold(rounds: int) -> dict[str, float]:
    """Give the seconds of a whole new process that does nothing but start, by what it starts."""
    return {
        name: median(_timed(("-m", "deployments.cli", *arguments)) for _ in range(rounds))
        for name, arguments in COLD.items()
    }


def table(taken: list[Taken], started: dict[str, float], title: str) -> Table:
    """Give the medians as a table."""
    shown = Table("", "flow", "its steps", "overhead", title=title, title_justify="left", title_style="bold")
    for way, fault, first in dict.fromkeys((one.way, one.fault, one.first) for one in taken):
        group = [one for one in taken if (one.way, one.fault, one.first) == (way, fault, first)]
        values = [median(getattr(one, name) for one in group) for name in ("wall", "work", "overhead")]
        shown.add_row(
            f"{fault}, {way}{', first of the process' if first else ''}", *(f"{value:.2f} s" for value in values)
        )
    shown.add_section()
    for name, seconds in started.items():
        shown.add_row(name, f"{seconds:.2f} s", "", "")
    return shown


def main() -> None:
    """Measure and print: a table, and with --json the same as JSON on standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument("--patience", type=float, default=30, help="seconds to wait for a quiet machine (30)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    where = machine()
    screen.print(str(where))
    with working_place(None) as place:
        started = cold(asked.rounds)
        taken = measure(asked.rounds, asked.patience, place)
    if asked.json:
        found = [{**asdict(one), "overhead": one.overhead} for one in taken]
        json.dump({"machine": asdict(where), "recoveries": found, "cold": started}, sys.stdout, indent=1)
        print()
        return
    Console().print(table(taken, started, f"{asked.rounds} rounds, medians ({where})"))


def _timed(arguments: tuple[str, ...]) -> float:
    return run(Command((sys.executable, *arguments)), timeout=timedelta(minutes=2)).took.total_seconds()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2.0).is_success
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    main()
