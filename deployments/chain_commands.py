"""recoup chain: every endpoint of every chain, probed now."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from deployments.options import AsJson, PlanPath
from deployments.screen import table_console
from recoup.chains import ChainSeen, EndpointSeen
from recoup.clock import human
from recoup.plan import load_plan
from recoup.stacks import open_stack
from tasks.chain_switch import ChainsSeen, see_chains

app = typer.Typer(no_args_is_help=True, help="Look at the chains.")


@app.callback()
def _chain() -> None:
    """Look at the chains."""


@app.command("status")
def status(
    plan: PlanPath,
    chain: Annotated[list[str] | None, typer.Option(help="A chain by its name in the plan; default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Probe every endpoint of the plan's chains now and show which can be trusted, and why others cannot.

    Exit codes: 0 every endpoint in use is healthy; 1 one is not; 2 it could not be looked.
    """
    loaded = load_plan(plan)
    typer.echo("probing every endpoint", err=True)
    seen_now = see_chains(loaded, open_stack(loaded), tuple(chain or ()))
    found = ChainsSeen(chains=tuple(one.shown() for one in seen_now.chains))
    if as_json:
        typer.echo(found.model_dump_json())
    else:
        table = Table()
        for name in ("chain", "endpoint", "", "height", "head", "answers in", "what is wrong"):
            table.add_column(name, overflow="fold")
        for one in found.chains:
            for seen in one.endpoints:
                table.add_row(*_row(one, seen), style="" if seen.healthy else "red")
        table_console().print(table)
    raise typer.Exit(0 if all(one.well for one in found.chains) else 1)


def _row(chain: ChainSeen, seen: EndpointSeen) -> tuple[str, ...]:
    use = "in use" if seen.url == chain.in_use else ""
    moved = f" (+{seen.moved})" if seen.moved else ""
    return (
        chain.chain,
        seen.url,
        " ".join(filter(None, ("healthy" if seen.healthy else "ill", use))),
        f"{seen.height}{moved}" if seen.height is not None else "",
        f"{human(seen.age)} old" if seen.age is not None else "",
        human(seen.latency) if seen.latency is not None else "",
        "; ".join(seen.reasons),
    )
