"""The command that makes the plan's requests once: recoup smoke."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from deployments.options import AsJson, PlanPath
from deployments.screen import COLOURS, table_console
from recoup.plan import load_plan
from recoup.records import Outcome
from recoup.stacks import open_stack
from tasks.smoke import Door, round_of_requests


def smoke(
    plan: PlanPath,
    url: Annotated[str, typer.Option(help="Ask this address instead of the plan's gateway.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make the plan's requests once through the gateway: status, content, shape and time of every answer.

    Exit codes: 0 all passed; 1 one did not; 2 they could not be made.
    """
    found = load_plan(plan)
    door = Door.at(url, found) if url else Door.of(found, open_stack(found))
    checks = round_of_requests(door)
    good = bool(checks) and all(check.outcome is Outcome.PASSED for check in checks)
    if as_json:
        typer.echo(json.dumps({"url": door.url, "passed": good, "checks": [c.model_dump(mode="json") for c in checks]}))
        raise typer.Exit(0 if good else 1)
    table = Table()
    for name in ("", "request", "expected", "what was seen"):
        table.add_column(name, no_wrap=name != "what was seen", overflow="fold")
    for check in checks:
        name = check.name.removeprefix("gateway: ")
        table.add_row(str(check.outcome), name, check.expected, check.seen, style=COLOURS.get(check.outcome, "yellow"))
    table_console().print(table)
    typer.echo(f"{door.url}: {sum(c.outcome is Outcome.PASSED for c in checks)} of {len(checks)} requests passed")
    raise typer.Exit(0 if good else 1)
