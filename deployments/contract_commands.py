"""The commands about smart contracts: recoup contract pins."""

from __future__ import annotations

import typer
import yaml

from deployments.options import PlanPath
from recoup.errors import PreconditionError
from recoup.plan import load_plan
from tasks.contract_pins import pins_now

contract = typer.Typer(no_args_is_help=True, help="Write down what the plan's contracts are now.")


@contract.callback()
def _contract() -> None:
    """Keeps the command's name in front of what it does, though there is only one."""


@contract.command("pins")
def contract_pins(plan: PlanPath) -> None:
    """Print the plan's contracts with everything pinned as the chains have it now, to be read before it is believed.

    The first endpoint of each chain is asked. In the plan a contract needs its name and hash, and its call, where it
    has one, any expected answer. Exit codes: 0 printed; 1 a contract is missing or refuses its call, a node does not
    answer; 2 none is in the plan.
    """
    loaded = load_plan(plan)
    pinned = pins_now(loaded)
    if not pinned:
        raise PreconditionError(
            "the plan has no contract",
            next_step="add each to its component with a name and a hash; docs/writing-a-plan.md",
        )
    typer.echo("# As the chains have it now. Whether it is what it should be, compare with what you deployed.")
    typer.echo(yaml.safe_dump([one.model_dump(mode="json", exclude_defaults=True) for one in pinned], sort_keys=False))
