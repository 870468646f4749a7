"""recoup plan: check the plan, show it to a person, describe it to an editor."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from deployments.options import PlanPath
from recoup.clock import human
from recoup.plan import Plan, WrittenStep, json_schema, load_plan
from recoup.plan_rules import backup_of, store_of

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})

Asked = Annotated[Path | None, typer.Argument(metavar="[PATH]", help="The plan to read instead of --plan.")]


@app.command()
def check(plan: PlanPath, path: Asked = None) -> None:
    """Check the plan: every problem at once, each with its place, the rule it breaks, and why the rule is there.

    Exit codes: 0 the plan is right; 2 it is not.
    """
    found = load_plan(path or plan)
    counts = (
        (len(found.components), "component"),
        (len(found.scenarios), "scenario"),
        (len(found.drills), "drill"),
        (len(found.checklist), "checklist item"),
        (len(found.contacts), "contact"),
    )
    told = ", ".join(f"{count} {what}" + ("s" if count != 1 else "") for count, what in counts)
    typer.echo(f"plan ok: {told}")


@app.command()
def show(plan: PlanPath, path: Asked = None) -> None:
    """Show the plan as a person reads it. Exit codes: 0 shown; 2 the plan is wrong."""
    found = load_plan(path or plan)
    console = Console(highlight=False)
    for part in (_head, _components, _objectives, _scenarios, _procedures, _drills, _people, _validation, _appendix):
        console.print(part(found))


@app.command()
def schema() -> None:
    """Print the JSON Schema of a plan's file, for editors."""
    typer.echo(json_schema())


def _head(plan: Plan) -> RenderableType:
    lines = Table.grid(padding=(0, 2))
    for name, value in (
        ("Version", f"{plan.version}, last updated {plan.updated}, next review: {plan.review.lower()}"),
        ("Platform", plan.platform.name + (f", {plan.platform.address}" if plan.platform.address else "")),
        ("Stack", _stack(plan)),
        ("Backups", f"{plan.platform.repository}, and in the bucket {plan.locations.bucket}"),
        ("Scripts", str(plan.locations.scripts)),
        ("Records", str(plan.platform.state)),
    ):
        lines.add_row(Text(name, "bold"), escape(value))
    return Group(Text(plan.title, "bold underline"), Text(plan.purpose.strip()), "", lines)


def _stack(plan: Plan) -> str:
    stack = plan.platform.stack
    return f"Compose, {stack.file}" if stack.kind == "compose" else f"processes, {stack.directory}"


def _components(plan: Plan) -> RenderableType:
    rows = []
    for name, component in plan.components.items():
        store, backup = store_of(component), backup_of(component)
        rpo = human(plan.rpo(store)) if store else ""
        every = f"every {human(backup.interval)}, {backup.keep} kept" if backup else ""
        needs = ", ".join(component.depends_on)
        rows.append((name, component.kind, component.tier, human(plan.rto(name)), rpo, every, needs))
    return _table("Components", ("Component", "Kind", "Tier", "RTO", "RPO", "Backups", "Depends on"), rows)


def _objectives(plan: Plan) -> RenderableType:
    rto = plan.objectives.rto
    rows = [
        ("RTO", "critical services", human(rto.critical)),
        ("RTO", "non-critical services", human(rto.non_critical)),
        ("RTO", "full platform", human(rto.platform)),
        *(("RPO", store, human(rpo)) for store, rpo in plan.objectives.rpo.items()),
    ]
    return _table("Recovery objectives", ("", "Of", "At most"), rows)


def _scenarios(plan: Plan) -> RenderableType:
    parts: list[RenderableType] = [_title("Disaster scenarios")]
    for number, scenario in enumerate(plan.scenarios, 1):
        parts += [
            Text(f"{number}. {scenario.title}", "bold"),
            _inset(Text(f"Detected by: {'; '.join(scenario.detection)}")),
            _inset(Text(f"Covers: {', '.join(scenario.covers)}")),
            _inset(_steps(scenario.steps)),
        ]
    return Group(*parts)


def _procedures(plan: Plan) -> RenderableType:
    parts: list[RenderableType] = [_title("Recovery procedures")]
    for procedure in plan.procedures:
        parts += [Text(f"{procedure.title} ({procedure.script})", "bold"), _inset(_steps(procedure.steps))]
    return Group(*parts)


def _steps(steps: Iterable[WrittenStep]) -> RenderableType:
    lines = Table.grid(padding=(0, 1))
    for number, step in enumerate(steps, 1):
        lines.add_row(f"{number}.", Text(step.title))
        if step.command:
            lines.add_row("", Text(step.command, "cyan"))
        if step.unsafe:
            lines.add_row("", Text(f"do not run it as it stands: {step.unsafe}", "red"))
        if step.recoup:
            lines.add_row("", Text(f"recoup: {step.recoup}", "green"))
    return lines


def _drills(plan: Plan) -> RenderableType:
    rows = [(d.every, d.name, d.schedule, d.scenario or d.what, d.fault or "") for d in plan.drills]
    return _table(f"Testing schedule ({plan.time_zone})", ("Every", "Test", "Schedule", "Rehearses", "Fault"), rows)


def _people(plan: Plan) -> RenderableType:
    return Group(
        _table(
            "Primary contacts",
            ("Role", "Name", "Phone", "Email"),
            [(c.role, c.name, c.phone, c.email) for c in plan.contacts],
        ),
        _table(
            "Escalation path",
            ("Level", "Who", "By", "Called after"),
            [(str(e.level), e.who, e.via or "", human(e.after) if e.after else "at once") for e in plan.escalation],
        ),
        _table(
            "External contacts",
            ("Service", "Contact", "Phone", "Email"),
            [(c.service, c.contact, c.phone or "-", c.email) for c in plan.external_contacts],
        ),
    )


def _validation(plan: Plan) -> RenderableType:
    rows = [(str(n), item.item, item.check) for n, item in enumerate(plan.checklist, 1)]
    after = Group(*(Text(f"{n}. {one.action}: {plan.owner(one)}") for n, one in enumerate(plan.post_recovery, 1)))
    return Group(_table("Validation checklist", ("", "Item", "Check"), rows), _title("Post-recovery actions"), after)


def _appendix(plan: Plan) -> RenderableType:
    steps = (WrittenStep(title=c.title, command=c.command, recoup=c.recoup, unsafe=c.unsafe) for c in plan.commands)
    return Group(_title("Useful commands"), _steps(steps))


def _title(text: str) -> RenderableType:
    return Text(f"\n{text}", "bold underline")


def _inset(what: RenderableType) -> RenderableType:
    return Padding(what, (0, 0, 0, 3))


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for number, column in enumerate(columns):
        # Names are there to be typed again, so the first column is never broken.
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        # A plan's text may hold brackets, which rich would take for its own markup.
        table.add_row(*(escape(cell) for cell in row))
    return Group(_title(title), table)
