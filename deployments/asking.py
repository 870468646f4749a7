"""What the acting commands share: asking before they act, reading a moment, leaving with the verdict's exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import typer
from pydantic import BaseModel

from deployments.orchestrator import run_flow
from deployments.screen import open_screen
from flows.procedure import recording, watched_by
from recoup.errors import PreconditionError, RecoveryError
from recoup.records import RecoveryRecord, Verdict

if TYPE_CHECKING:
    # Not before the orchestrator has set what Prefect reads when it is imported.
    from prefect import Flow

Q = TypeVar("Q", bound=BaseModel)


def act(flow: Flow[[Q], RecoveryRecord], request: Q, *, as_json: bool) -> None:
    """Run a procedure or drill before somebody's eyes and leave with its verdict's exit code."""
    screen = open_screen(json=as_json)
    with watched_by(screen), recording() as records:
        try:
            run_flow(flow, request, screen.note)
        except RecoveryError:
            if not records:
                raise
    raise typer.Exit(0 if records[-1].verdict is Verdict.RECOVERED else 1)


def moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise PreconditionError(f"{text!r} is not a time", next_step="write it as 2026-11-23T03:12:05Z") from None
    if moment.tzinfo is None:
        raise PreconditionError(f"{text} has no time zone", next_step=f"write {text}Z for UTC, or add the offset")
    if moment > datetime.now(UTC):
        raise PreconditionError(f"{text} is in the future: an outage cannot begin after its recovery")
    return moment


def agreed(
    name: str, what: str, would: Callable[[], Iterable[str]], *, dry_run: bool, yes: bool, as_json: bool
) -> bool:
    """Show what a run would do, have it confirmed, and say whether it is to be made; ``yes`` asks and shows nothing."""
    if dry_run or not yes:
        for line in would():
            typer.echo(line, err=as_json)
    if not dry_run and not yes:
        confirm(name, what)
    return not dry_run


def confirm(name: str, what: str) -> None:
    if not sys.stdin.isatty():
        raise PreconditionError(
            f"to {what} must be confirmed, and there is no terminal to ask at", next_step="add --yes"
        )
    if typer.prompt(f"About to {what}. Type the platform's name to go on").strip() != name:
        raise PreconditionError("that is not the platform's name")
