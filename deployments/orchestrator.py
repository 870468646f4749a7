"""Runs a flow through the Prefect server when one is configured and answers, and directly otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

# Read by Prefect when it is imported: its own lines stay off the screen unless they are asked for.
if not os.environ.get("RECOUP_PREFECT_LOGS"):
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

import httpx
from prefect import Flow
from prefect.settings import get_current_settings
from pydantic import BaseModel

Q = TypeVar("Q", bound=BaseModel)
R = TypeVar("R")


def server_answers() -> bool:
    """Say whether a Prefect API is configured and answers within two seconds; a recovery never waits for it longer."""
    url = get_current_settings().api.url
    if not url:
        return False
    try:
        return httpx.get(f"{url.rstrip('/')}/health", timeout=2.0).is_success
    except httpx.HTTPError:
        return False


def run_flow(flow: Flow[[Q], R], request: Q, tell: Callable[[str], None]) -> R:
    """Run the same flow either way and give its result, or raise what it raised."""
    if server_answers():
        return flow(request)
    if get_current_settings().api.url:
        tell("the Prefect server does not answer; running without it")
    directly: R = flow.fn(request)
    return directly
