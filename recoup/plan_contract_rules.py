"""What must hold of the contracts that a plan pins: each is on one chain, its pins mean something there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from recoup.plan_chain import ChainComponent, ContractComponent, PinnedContract, Protocol
from recoup.plan_text import Place, Problem

if TYPE_CHECKING:
    from recoup.plan import Plan


def contracts_can_be_proven(plan: Plan) -> Iterator[Problem]:
    """Each contract is on one chain that its component depends on, has only that chain's pins, and is named once."""
    names: dict[str, Place] = {}
    spots: dict[tuple[str, str], Place] = {}
    for component_name, component in plan.components.items():
        if not isinstance(component, ContractComponent):
            continue
        for n, pinned in enumerate(component.contracts):
            at: Place = ("components", component_name, "contracts", n)
            if (first := names.setdefault(pinned.name, at)) != at:
                why = "a finding must say which contract it is of"
                yield Problem((*at, "name"), f"the contract '{pinned.name}' is there twice", why, (first,))
            chain = component.chain_of(pinned, plan.components)
            if chain is None or chain not in component.depends_on:
                yield _no_chain(plan, component, pinned, at)
                continue
            if (first := spots.setdefault((chain, pinned.hash.lower()), at)) != at:
                why = "two pins of one contract can contradict each other"
                yield Problem((*at, "hash"), f"{pinned.hash} on {chain} is there twice", why, (first,))
            yield from _pins_fit(plan, chain, pinned, at)


def _no_chain(plan: Plan, component: ContractComponent, pinned: PinnedContract, at: Place) -> Problem:
    known = [name for name in component.depends_on if isinstance(plan.components.get(name), ChainComponent)]
    why = f"nobody would know which node to ask for it; chains that it depends on: {', '.join(known) or 'none'}"
    if pinned.chain is None:
        return Problem(at, f"on which chain is {pinned.name}? name it with chain", why, ((*at[:2], "depends_on"),))
    return Problem((*at, "chain"), f"{pinned.chain} is no chain that it depends on", why, ((*at[:2], "depends_on"),))


def _pins_fit(plan: Plan, chain: str, pinned: PinnedContract, at: Place) -> Iterator[Problem]:
    component = plan.components[chain]
    assert isinstance(component, ChainComponent)
    other: Protocol = "evm" if component.protocol == "neo-n3" else "neo-n3"
    for pin in pinned.pins_of(other):
        why = f"{chain} speaks {component.protocol}: it would never be compared"
        yield Problem((*at, pin), f"{pin} is a pin of {other} chains", why, ((*at, "chain"), ("components", chain)))
