"""Plans that pin contracts, and what is found of them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import recoup
from recoup.plan import ChainComponent, ContractComponent, Endpoint, Plan, load_plan
from recoup.plan_chain import PinnedContract
from recoup.records import Check, Outcome
from tasks.contract import prove

N3, X = "neo-n3", "neo-x"
PATIENT = timedelta(seconds=20)
_PLAN = load_plan(Path(recoup.__file__).parent.parent / "infra" / "plan.yaml")


def pinning(*contracts: PinnedContract) -> Plan:
    """Give the platform's plan with these contracts pinned."""
    component = _PLAN.components["contracts"]
    assert isinstance(component, ContractComponent)
    pinned = component.model_copy(update={"contracts": contracts})
    return _PLAN.model_copy(update={"components": {**_PLAN.components, "contracts": pinned}})


def asking(plan: Plan, **endpoints: str) -> Plan:
    """Give the plan with one endpoint for each of these chains, - written as _."""
    components = dict(plan.components)
    for name, url in endpoints.items():
        chain = components[name.replace("_", "-")]
        assert isinstance(chain, ChainComponent)
        components[name.replace("_", "-")] = chain.model_copy(update={"endpoints": (Endpoint(url=url),)})
    return plan.model_copy(update={"components": components})


def looked_at(
    pinned: PinnedContract, endpoints: Mapping[str, str], patience: timedelta = PATIENT
) -> tuple[Check, Check]:
    """Give what is found of one contract: whether it is what was pinned, and whether it responds."""
    unchanged, responds = prove(pinning(pinned), endpoints, patience)
    assert unchanged.name.endswith("it is what was pinned")
    assert responds.name.endswith("it responds")
    return unchanged, responds


def outcomes(checks: tuple[Check, ...]) -> list[Outcome]:
    return [check.outcome for check in checks]
