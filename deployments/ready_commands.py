"""The command that says whether the backups would carry a recovery now: recoup ready."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer
from rich.table import Table

from deployments.options import AsJson, PlanPath
from deployments.screen import table_console
from recoup.plan import load_plan
from recoup.readiness import judge
from recoup.readiness import ready as is_ready
from recoup.records import now
from tasks.standing import stores_seen


def ready(plan: PlanPath, as_json: AsJson = False) -> None:
    """Say of each store whether its backups are fresh, proven, and in three copies on two kinds of place, one offsite.

    Exit codes: 0 ready, 1 not.
    """
    findings = judge(stores_seen(load_plan(plan)), now())
    if as_json:
        typer.echo(json.dumps({"ready": is_ready(findings), "findings": [asdict(one) for one in findings]}))
        raise typer.Exit(0 if is_ready(findings) else 1)
    table = Table()
    for name in ("store", "asked", "", "what was seen"):
        table.add_column(name, no_wrap=name in ("store", "asked"), overflow="fold")
    for one in findings:
        table.add_row(one.store, one.asked, "met" if one.met else "NOT MET", one.why)
    table_console().print(table)
    missing = sum(not one.met for one in findings)
    typer.echo("ready" if is_ready(findings) else f"not ready: {missing} of {len(findings)} not met")
    raise typer.Exit(0 if is_ready(findings) else 1)
