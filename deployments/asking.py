"""What the acting commands share: asking before they act, reading a moment, leaving with the verdict's exit code."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import typer

from recoup.errors import PreconditionError
from recoup.records import RecoveryRecord, Verdict


def leave(record: RecoveryRecord) -> None:
    raise typer.Exit(0 if record.verdict is Verdict.RECOVERED else 1)


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


def confirm(name: str, what: str) -> None:
    if not sys.stdin.isatty():
        raise PreconditionError(
            f"to {what} must be confirmed, and there is no terminal to ask at", next_step="add --yes"
        )
    if typer.prompt(f"About to {what}. Type the platform's name to go on").strip() != name:
        raise PreconditionError("that is not the platform's name")
