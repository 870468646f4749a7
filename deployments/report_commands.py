"""recoup report: what the ledger says of the runs that were made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markdown import Markdown

from deployments.options import DEFAULT_PLAN, AsJson, PlanPath
from recoup.errors import PreconditionError
from recoup.ledger import Ledger
from recoup.places import drill_ledger, ledger_path
from recoup.plan import load_plan
from recoup.records import RecoveryRecord
from recoup.report import history, run_report


def report(
    plan: PlanPath,
    run_id: Annotated[str, typer.Argument(help="The run to show, or the beginning of its id; default: the last.")] = "",
    last: Annotated[bool, typer.Option("--last", help="Show the last run (the default).")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Show all runs, and how many met RTO and RPO.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check that no record was edited or removed.")] = False,
    ledger: Annotated[Path | None, typer.Option("--ledger", help="Read this ledger and no plan.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show recovery records of the plan's platform and of the drills made here: the last, one, or all.

    Exit codes: 0 shown; 1 with --verify when a ledger is not whole; 2 when there is nothing to show.
    """
    if sum((bool(run_id), last, everything, verify)) > 1:
        raise PreconditionError("give one of RUN_ID, --last, --all and --verify")
    ledgers = [Ledger(path) for path in _paths(plan, ledger)]
    problems = [f"{one.path}: {problem}" for one in ledgers for problem in one.verify()]
    for problem in problems:
        typer.echo(f"warning: {problem}", err=True)
    records = sorted((r for one in ledgers for r in one.records()), key=lambda record: record.clock.started)
    if verify:
        typer.echo(f"{len(records)} records, {'the chain is whole' if not problems else f'{len(problems)} problems'}")
        raise typer.Exit(1 if problems else 0)
    if everything:
        _show_all(records, as_json)
    else:
        _show(_one(records, run_id, [one.path for one in ledgers]), as_json)


def _paths(plan: Path, ledger: Path | None) -> list[Path]:
    if ledger is not None:
        if not ledger.is_file():
            raise PreconditionError(f"there is no ledger at {ledger}")
        return [ledger]
    # Drills are made without a plan of one's own: the default plan may be missing or foreign to this machine.
    of_plan = [ledger_path(load_plan(plan))] if plan != DEFAULT_PLAN or plan.is_file() else []
    return list(dict.fromkeys([*of_plan, drill_ledger()]))


def _one(records: list[RecoveryRecord], run_id: str, paths: list[Path]) -> RecoveryRecord:
    if not records:
        raise PreconditionError(
            f"no run is recorded in {' or '.join(map(str, paths))}",
            next_step="make a drill: recoup drill database; or name the ledger with --ledger",
        )
    if not run_id:
        return records[-1]
    # A run that was interrupted and went on has two records; the later one is its end.
    runs = {record.run_id: record for record in records}
    found = [run_id] if run_id in runs else [name for name in runs if name.startswith(run_id)]
    if len(found) != 1:
        raise PreconditionError(
            f"{'no run has' if not found else f'{len(found)} runs have'} an id that begins with {run_id}",
            next_step="see the ids with: recoup report --all",
        )
    return runs[found[0]]


def _show(record: RecoveryRecord, as_json: bool) -> None:
    if as_json:
        typer.echo(record.model_dump_json())
    else:
        _markdown(run_report(record))


def _show_all(records: list[RecoveryRecord], as_json: bool) -> None:
    if as_json:
        typer.echo(f"[{','.join(record.model_dump_json() for record in records)}]")
    else:
        _markdown(history(records))


def _markdown(text: str) -> None:
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        typer.echo(text, nl=False)
