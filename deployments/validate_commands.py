"""The command that looks at every item of the plan's checklist: recoup validate."""

from __future__ import annotations

import typer
from rich.table import Table

from deployments.options import AsJson, PlanPath
from deployments.orchestrator import run_flow
from deployments.screen import COLOURS, table_console
from flows.validate import ChecklistFailed, Validation, validate_platform
from recoup.clock import human


def validate(plan: PlanPath, as_json: AsJson = False) -> None:
    """Look at the platform by the plan's checklist: each item passed, failed, or unproven where it cannot be looked at.

    Exit codes: 0 all passed; 1 something failed or is unproven; 2 it could not be gone through.
    """
    try:
        found = run_flow(validate_platform, Validation(plan=plan), lambda text: typer.echo(text, err=True))
    except ChecklistFailed as failed:
        found = failed.checklist
    if as_json:
        typer.echo(found.model_dump_json())
        raise typer.Exit(0 if found.passed else 1)
    table = Table()
    for name in ("", "item", "what was seen", "took"):
        table.add_column(name, no_wrap=name != "what was seen", overflow="fold")
    for one in found.items:
        table.add_row(str(one.outcome), one.item, one.seen, human(one.took), style=COLOURS.get(one.outcome, "yellow"))
    table_console().print(table)
    typer.echo(f"{found.platform}: {found}")
    raise typer.Exit(0 if found.passed else 1)
