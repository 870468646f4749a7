"""Where recoup keeps what outlives a run: ledger, journals, leases, sandboxes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recoup.plan import Plan


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
