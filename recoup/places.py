"""Where recoup keeps what outlives a run: ledger, journals, leases, sandboxes."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recoup.plan import Plan

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def state_home() -> Path:
    """Give this user's state directory: ``RECOUP_STATE``, else /var/lib/recoup for root, else the XDG state home."""
    if named := os.environ.get("RECOUP_STATE"):
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/recoup")
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "recoup"


def ledger_path(plan: Plan) -> Path:
    """Give the ledger of a plan: in its state directory, or in ``RECOUP_STATE`` where that is set."""
    root = state_home() if os.environ.get("RECOUP_STATE") else plan.platform.state
    return root / "ledger.jsonl"


def drill_ledger() -> Path:
    """Give the ledger that drills write to: drills run as any user, on sandboxes that are gone afterwards."""
    return state_home() / "ledger.jsonl"


def note_file(plan: Plan, what: str) -> Path:
    """Give the file in which something is noted of a plan's platform."""
    return plan.platform.state / f"{_UNSAFE.sub('-', plan.platform.name).lstrip('.')}.{what}.json"


def write_note(path: Path, text: str) -> None:
    """Write a note whole or not at all: made beside, flushed, renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
