"""recoup serve: what one machine needs to be started from a browser, an API call or a clock."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import httpx
import typer

from deployments.options import PlanPath
from deployments.screen import tell
from recoup.errors import BusyError, PreconditionError, RecoveryError, first_line
from recoup.lease import lease
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
        _offer(plan, url, own=False)
        return
    with _alone(plan), _server(host, port) as started:
        _offer(plan, started, own=True)
    tell(f"stopped; the records stay in {loaded.platform.state}")


@contextmanager
def _alone(plan: Path) -> Iterator[None]:
    """Hold the server's directory: two servers on one database would each run the other's jobs."""
    home = state_home() / "prefect"
    with ExitStack() as held:
        try:
            held.enter_context(lease(home, "server", f"recoup serve of {plan.absolute()}"))
        except BusyError as error:
            raise BusyError(
                f"a recoup serve is running already: {error.what}",
                state="nothing was changed",
                next_step=f"use that one; for another plan set RECOUP_STATE to another directory than {home.parent}",
            ) from None
        yield


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
    # The login that the server is to ask for is the one that this and the runs it starts must give.
    if login := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        os.environ.setdefault("PREFECT_API_AUTH_STRING", login)
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


@contextmanager
def _prints_set_aside() -> Iterator[None]:
    """Send what Prefect's runner prints, such as tracebacks of a lost server, to a file instead of the terminal."""
    if os.environ.get("RECOUP_PREFECT_LOGS"):
        yield
        return
    place = state_home() / "prefect"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (place / "runner.log").open("a", encoding="utf-8") as log, redirect_stdout(log):
        yield


def _require_api(url: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    from deployments.served import ANSWERS_OTHERWISE

    try:
        with get_client(sync_client=True) as client:
            client.read_deployments(limit=1)
    except ANSWERS_OTHERWISE as error:
        if isinstance(error, PrefectHTTPStatusError) and error.response.status_code in (401, 403):
            raise PreconditionError(
                f"the server at {url} turned the login away",
                next_step="set PREFECT_API_AUTH_STRING to the login that it asks for",
            ) from None
        raise PreconditionError(
            f"what answers at {url} is no Prefect API: {first_line(error)[:200]}", next_step="correct PREFECT_API_URL"
        ) from None


def _offer(plan: Path, url: str, *, own: bool) -> None:
    # Prefect reads its settings when it is imported, so it is imported once the address is known.
    os.environ.setdefault("PREFECT_RUNNER_POLL_FREQUENCY", "1")
    # The terminal has recoup's own lines; what Prefect says of a run, with tracebacks, is in the run's log there.
    if not os.environ.get("RECOUP_PREFECT_LOGS"):
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    import prefect
    from prefect.client.orchestration import get_client

    from deployments.catalog import deployments
    from deployments.schedules import end_dead_runs
    from deployments.served import ANSWERS_OTHERWISE, following
    from flows.continuous import mending
    from flows.log_watcher import TO_TERMINAL
    from tasks.copies import CopyPlace
    from tasks.heartbeat import watching
    from tasks.images import noting
    from tasks.postgres import Server
    from tasks.wal_shipping import shipping

    _require_api(url)
    loaded = load_plan(plan)
    offered = deployments(plan, loaded)
    tell(f"offering {', '.join(d.name for d in offered)} at {url.removesuffix('/api')}; stop with Ctrl-C")
    os.environ[TO_TERMINAL] = "yes"
    if own:
        with get_client(sync_client=True) as client:
            end_dead_runs(client, offered, tell)
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
        try:
            while_it_serves.enter_context(_prints_set_aside())
            prefect.serve(*offered, print_starting_message=False, pause_on_shutdown=False)
        except (*ANSWERS_OTHERWISE, ExceptionGroup) as error:
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            raise RecoveryError(
                f"the Prefect server at {url} was away for too long, and nothing is run any more: {first_line(error)}",
                state="runs under way were cut off; a recovery that is started again goes on where it stopped",
                next_step="start recoup serve again; under a service manager set Restart=always",
            ) from None
