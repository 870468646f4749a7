"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_PLAN = Path(__file__).resolve().parent.parent / "infra" / "plan.yaml"

PlanPath = Annotated[
    Path,
    typer.Option(
        "--plan",
        "-p",
        envvar="RECOUP_PLAN",
        help="The plan's YAML file.",
        default_factory=lambda: DEFAULT_PLAN,
        show_default="the plan that comes with recoup",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output; everything else on standard error.")]
Began = Annotated[str, typer.Option(help="When the outage began, ISO 8601 with zone: 2026-11-23T03:12:05Z.")]
Reason = Annotated[str, typer.Option(help="Why, for the record.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Do not go on with a killed run.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Look, and show what would run; change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before acting.")]
