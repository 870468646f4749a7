"""recoup watch: heartbeats into the database, and an eye on the receiver of its WAL."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from deployments.options import PlanPath
from deployments.screen import tell
from flows.continuous import mending
from recoup.plan import load_plan
from recoup.stacks import open_stack
from tasks.copies import CopyPlace
from tasks.heartbeat import keep_watch
from tasks.images import noting
from tasks.postgres import Server
from tasks.wal_receiver import continuous_of
from tasks.wal_shipping import shipping


def watch(
    plan: PlanPath,
    component: Annotated[str, typer.Option(help="The postgres component; default: the plan's only one.")] = "",
) -> None:
    """Write the heartbeat by which recovery points are read, hold the server to the plan's WAL policy, ship its WAL.

    Takes a base backup when WAL was lost before it was received, and notes which images of the services are healthy, so
    that these can be gone back to. Runs until interrupted; recoup serve does the same.
    Says on one line each what changes.
    """
    loaded = load_plan(plan)
    stack = open_stack(loaded)
    server = Server.of(loaded, stack, component or None)
    repository = loaded.platform.repository
    copies = tuple(CopyPlace.open(spec, repository) for spec in loaded.platform.copies)
    with shipping(continuous_of(server).wal, copies, tell), noting(loaded, tell):
        keep_watch(server, threading.Event(), tell, mending(loaded, stack, server.component, tell))
