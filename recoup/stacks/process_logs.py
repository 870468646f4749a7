"""The end of a service's log, from a moment on."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

# What the stack itself writes into the log at each start and stop.
STARTING = " recoup: starting "
ENDED = " recoup: stopped "
_KEPT = 8 * 1024 * 1024
# "2026-01-31 09:00:00.123 UTC" or "2026-01-31T09:00:00+00:00" near the line's beginning; Redis: "12:M 31 Jan 2026 …".
_ISO = re.compile(r"^.{0,24}?(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d(?:[.,]\d{1,6})?)\s?(Z|UTC|[+-]\d\d:?\d\d)?")
_REDIS = re.compile(r"^\d+:[A-Z] (\d\d \w{3} \d{4} \d\d:\d\d:\d\d\.\d+)")


def excerpt(path: Path, *, tail: int, since: datetime | None) -> str:
    """Give the last ``tail`` lines, of those written at ``since`` or later; empty when there is no log yet.

    A line without a time belongs to the service's line before it. Of a service that writes no times at all, only
    its starts are known: nothing that may be recent is left out. Times without a zone are UTC.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _KEPT))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    lines = text.splitlines()
    if since:
        lines = [
            line for line, written in zip(lines, _written(lines), strict=True) if written is None or written >= since
        ]
    return "\n".join(lines[-tail:] if tail > 0 else [])


def ended_in_order(path: Path) -> bool:
    """Say whether the last thing that the stack did to the service was to stop it."""
    lines = excerpt(path, tail=_KEPT, since=None).splitlines()
    last = next((line for line in reversed(lines) if STARTING in line or ENDED in line), "")
    return ENDED in last


def _written(lines: list[str]) -> list[datetime | None]:
    """Give for each line the latest moment at which it can have been written, None for now."""
    moments: list[datetime | None] = []
    before: datetime | None = None
    for line in lines:
        own = _moment(line)
        moments.append(own or before)
        before = None if STARTING in line else own or before
    after: datetime | None = None
    for index in range(len(moments) - 1, -1, -1):
        moments[index] = after = moments[index] or after
    return moments


def _moment(line: str) -> datetime | None:
    try:
        if match := _ISO.match(line):
            zone = match[3] or "+00:00"
            text = f"{match[1]}T{match[2].replace(',', '.')}{'+00:00' if zone in ('Z', 'UTC') else zone}"
            return datetime.fromisoformat(text).astimezone(UTC)
        if match := _REDIS.match(line):
            return datetime.strptime(match[1], "%d %b %Y %H:%M:%S.%f").replace(tzinfo=UTC)
    except ValueError:
        return None
    return None
