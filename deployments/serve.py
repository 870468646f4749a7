"""recoup serve: what one machine needs to be started from a browser, an API call or a clock."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import httpx
import typer

from deployments.options import PlanPath
from deployments.screen import tell
from recoup.errors import PreconditionError, RecoveryError
from recoup.places import state_home
from recoup.plan import PostgresComponent, load_plan
from recoup.process import Command, background
from recoup.stacks import open_stack

START = timedelta(seconds=120)


def serve(
    plan: PlanPath,
    host: Annotated[str, typer.Option(help="Address of the server that is started.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the server that is started.", min=1, max=65535)] = 4200,
) -> None:
    """Start a Prefect server, unless PREFECT_API_URL names one, and offer recovery, backup and drill in it.

    Runs until interrupted. The server that is started keeps its SQLite database in recoup's state directory.
    """
    loaded = load_plan(plan)
    url = os.environ.get("PREFECT_API_URL", "")
    if url:
        _wait(url, timedelta(seconds=10))
        _offer(plan, url)
        return
    with _server(host, port) as started:
        _offer(plan, started)
    tell(f"stopped; the records stay in {loaded.platform.state}")


@contextmanager
def _server(host: str, port: int) -> Iterator[str]:
    if not _free(host, port):
        raise PreconditionError(
            f"{host}:{port} is taken by another program",
            next_step=f"your Prefect server? PREFECT_API_URL=http://{host}:{port}/api recoup serve; otherwise --port",
        )
    home = state_home() / "prefect"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = home / "server.log"
    url = f"http://{host}:{port}/api"
    command = Command(
        (sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)),
        env={
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        },
    )
    tell(f"starting a Prefect server on {host}:{port} (log: {log})")
    with background(command, log=log) as child:
        _wait(url, START, alive=child.alive, log=log)
        os.environ["PREFECT_API_URL"] = url
        os.environ["PREFECT_HOME"] = str(home)
        yield url


def _free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _wait(url: str, limit: timedelta, alive: Callable[[], bool] | None = None, log: Path | None = None) -> None:
    end = time.monotonic() + limit.total_seconds()
    while True:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url.rstrip('/')}/health", timeout=2.0).is_success:
                return
        if time.monotonic() > end or (alive is not None and not alive()):
            raise RecoveryError(
                f"the Prefect server at {url} does not answer",
                state="nothing was registered",
                next_step=f"read {log}"
                if log
                else "start that server, or unset PREFECT_API_URL to have one started here",
            )
        time.sleep(0.3)


def _offer(plan: Path, url: str) -> None:
    # Prefect reads its settings when it is imported, so it is imported once the address is known.
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "1")
    # The terminal has recoup's own lines; what Prefect says of a run, with tracebacks, is in the run's log there.
    if not os.environ.get("RECOUP_PREFECT_LOGS"):
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    import prefect

    from deployments.catalog import deployments
    from deployments.served import following
    from flows.continuous import mending
    from flows.log_watcher import TO_TERMINAL
    from tasks.copies import CopyPlace
    from tasks.heartbeat import watching
    from tasks.images import noting
    from tasks.postgres import Server
    from tasks.wal_shipping import shipping

    loaded = load_plan(plan)
    offered = deployments(plan, loaded)
    tell(f"offering {', '.join(d.name for d in offered)} at {url.removesuffix('/api')}; stop with Ctrl-C")
    os.environ[TO_TERMINAL] = "yes"
    # Not paused when this ends: a backup that is not taken then shows as late instead of vanishing.
    with ExitStack() as while_it_serves:
        while_it_serves.enter_context(following(offered, tell))
        while_it_serves.enter_context(noting(loaded, tell))
        for component, spec in loaded.components.items():
            if isinstance(spec, PostgresComponent) and spec.continuous:
                stack = open_stack(loaded)
                server = Server.of(loaded, stack, component)
                copies = tuple(CopyPlace.open(one, loaded.platform.repository) for one in loaded.platform.copies)
                while_it_serves.enter_context(shipping(spec.continuous.wal, copies, tell))
                while_it_serves.enter_context(watching(server, tell, mending(loaded, stack, component, tell)))
        prefect.serve(*offered, print_starting_message=False, pause_on_shutdown=False)
