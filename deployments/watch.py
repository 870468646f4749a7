"""recoup watch: heartbeats into the database, and an eye on the receiver of its WAL."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Annotated

import typer

from deployments.options import PlanPath
from recoup.plan import load_plan
from recoup.stacks import open_stack
from tasks.heartbeat import keep_watch
from tasks.postgres import Server
from tasks.wal_receiver import continuous_of


def watch(
    plan: PlanPath,
    component: Annotated[str, typer.Option(help="The postgres component; default: the plan's only one.")] = "",
) -> None:
    """Write the heartbeat by which recovery points are read, and hold the server to the plan's WAL policy.

    Runs until interrupted; recoup serve does the same. Says on one line each what changes.
    """
    loaded = load_plan(plan)
    server = Server.of(loaded, open_stack(loaded), component or None)
    continuous_of(server)
    keep_watch(server, threading.Event(), _tell)


def _tell(text: str) -> None:
    typer.echo(f"{datetime.now(UTC):%H:%M:%SZ}  {text}", err=True)
