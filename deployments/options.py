"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_PLAN = Path(__file__).resolve().parent.parent / "infra" / "plan.yaml"

PlanPath = Annotated[
    Path,
    typer.Option(
        "--plan", "-p", envvar="RECOUP_PLAN", help="The plan's YAML file.", default_factory=lambda: DEFAULT_PLAN
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output; everything else on standard error.")]
