"""Blockchain node failure: probe every endpoint, switch to a healthy one, and prove through the gateway that it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.procedure import Run, conduct
from flows.request import Outage, require_recovered
from recoup.causes import waves
from recoup.clock import store_loss
from recoup.errors import RecoveryError
from recoup.places import ledger_path
from recoup.plan import ContractComponent, Plan, load_plan
from recoup.records import Outcome, RecoveryRecord, StoreLoss
from tasks.chain_check import check_chains
from tasks.chain_switch import (
    Choices,
    Renewed,
    Switched,
    chains_of,
    choose_endpoints,
    component_of,
    diagnose_chains,
    put_back,
    renew_service,
    switch_endpoints,
    users_of,
)
from tasks.contract import ContractsSeen, check_contracts, names_of, pinned_in
from tasks.service_data import check_stores
from tasks.service_look import depends_on
from tasks.smoke import check_as_user

USER_DEADLINE = timedelta(seconds=30)


class BlockchainRecovery(Outage):
    """Which chains to recover, and what is known of the outage."""

    chains: tuple[str, ...] = Field((), description="Chains by their names in the plan; empty: all")
    back: bool = Field(False, description="Go back to a heavier endpoint that is healthy again, its cool-down over")


@flow(name="recover-blockchain", log_prints=False)
def recover_blockchain(request: BlockchainRecovery) -> RecoveryRecord:
    """Recover the access to chains and give the record; raises RecoveryError when its verdict is not ``recovered``."""
    plan = load_plan(request.plan)
    record = run_blockchain_recovery(plan, request, ledger=ledger_path(plan))
    require_recovered(record)
    return record


def run_blockchain_recovery(
    plan: Plan,
    request: BlockchainRecovery,
    *,
    ledger: Path,
    fault: str | None = None,
    declared: datetime | None = None,
    afterwards: Callable[[Run], None] | None = None,
) -> RecoveryRecord:
    """Run the blockchain procedure and give its record, which is in the ledger."""
    names = tuple(chains_of(plan, request.chains))
    job = request.job(
        plan,
        "blockchain",
        ",".join(names),
        ledger,
        same={"chains", "back"},
        fault=fault,
        declared=declared,
        covers=names,
    )
    return conduct(job, lambda run: _procedure(run, names, request.back), afterwards=afterwards)


def _procedure(run: Run, names: tuple[str, ...], back: bool) -> None:
    plan, step, run_id = run.job.plan, run.steps.step, run.journal.header.run_id
    # What was found holds once the file is rewritten: from then on other endpoints are in use.
    anew = run.steps.done_before(switch_endpoints) is None
    # 1 which chains are ill, which of their endpoints, and why
    found = step("Diagnose the chains", diagnose_chains, plan, run.stack, names, fresh=anew)
    run.failed = tuple(one.chain for one in found.chains if not one.well)
    # 2 the best healthy endpoint of each; the one in use while it is healthy
    chosen = step("Choose the endpoints", choose_endpoints, plan, found, back, fresh=anew)
    _require_a_choice(run, chosen)
    # 3 the environment file, whole or not at all; the old one stays beside
    switched = step("Switch the endpoints", switch_endpoints, plan, run.stack, chosen, run_id)
    # 4 only the services that use them, in dependency order
    variables = {one.chain: chains_of(plan)[one.chain].variable for one in chosen.choices}
    wanted = {variables[one.chain]: one.use for one in chosen.choices if one.use}
    ill = _renew(run, "Make anew", "", wanted, switched.left)
    # 5 users are served, and the chains move for them by the new endpoints
    user = step("Check as a user, through the gateway", check_as_user, plan, run.stack, USER_DEADLINE, fresh=True)
    by_chain = {one.chain: one.use for one in chosen.choices if one.use}
    checked = step("Check the chains", check_chains, plan, run.stack, by_chain, fresh=True)
    # 6 what got worse is undone
    worse = [*(one.wrong for one in ill), *([str(checked)] if checked.wrong else [])]
    if switched.after and (ill or any(variables[name] in switched.after for name in checked.wrong)):
        _undo(run, switched, "; ".join(worse))
    # What a killed run was undoing is undone to the end: the file is the old one by now, or soon.
    if switched.after and run.steps.opened_before(put_back):
        _undo(run, switched, "; ".join(worse) or "so the run found that was killed while it put the old ones back")
    # 7 the contracts by those endpoints, and what the stores hold
    contracts = step("Prove the contracts", check_contracts, plan, by_chain, fresh=True)
    stores = step("Look at what the stores hold", check_stores, plan, run.stack, run.began, fresh=True)
    run.checks.extend((*checked.checks, *contracts.checks, *stores.checks, *user.checks))
    run.stores.extend((*stores.losses, *_of_contracts(plan, contracts, run.began)))
    run.mark("restored", user.restored)
    run.state_left = _left(switched)
    _require_every_chain(run, chosen)
    if any(check.outcome is not Outcome.PASSED for check in run.checks):
        run.next_step = "see to what the check names; recoup chain status shows every endpoint"


def _require_a_choice(run: Run, chosen: Choices) -> None:
    """Raise RecoveryError where there is no healthy endpoint and nothing to be switched either."""
    if chosen.without and not chosen.switching:
        _none_healthy(chosen, "nothing was changed: the environment file and the services are as they were")


def _require_every_chain(run: Run, chosen: Choices) -> None:
    if chosen.without:
        _none_healthy(chosen, run.state_left)


def _none_healthy(chosen: Choices, state: str) -> None:
    raise RecoveryError(
        "; ".join(one.why for one in chosen.without),
        state=state,
        next_step="add an endpoint that works to the plan, or see to a node of your own; then the same command again",
    )


def _renew(run: Run, verb: str, part: str, wanted: Mapping[str, str], old: Mapping[str, str]) -> tuple[Renewed, ...]:
    """Make the services anew that use these endpoints, independent ones at the same time; gives those not well."""
    plan, stack = run.job.plan, run.stack
    of = {component_of(plan, service) or service: service for service in users_of(plan, stack, wanted, old)}
    ill: list[Renewed] = []
    for wave in waves(depends_on(plan), tuple(of)):
        steps = [
            (f"{verb} {of[name]}", f"{renew_service.name}-{of[name]}{part}", (plan, stack, of[name], wanted, old))
            for name in wave
        ]
        ill += [one for one in run.steps.at_once(renew_service, steps) if one.wrong]
    return tuple(ill)


def _undo(run: Run, switched: Switched, why: str) -> None:
    """Put the old file back and the services on it, then raise RecoveryError: nobody is worse off than before."""
    undone = run.steps.step("Put the old environment file back", put_back, run.job.plan, run.stack, switched)
    ill = _renew(run, "Put back", "-back", undone.after, switched.after)
    still = f"; not well since: {', '.join(one.wrong for one in ill)}" if ill else ""
    raise RecoveryError(
        f"with the new endpoints it got worse: {why}",
        state=f"{switched.file} is as it was, and the services that use it were made anew from it{still}",
        next_step="recoup chain status; then see what the services say of the endpoints: their logs",
    )


def _of_contracts(plan: Plan, seen: ContractsSeen, began: datetime | None) -> tuple[StoreLoss, ...]:
    """Give what the contracts lost: nothing where each of a store was proven to be what was pinned, else not known."""
    proven = {one.name for one in seen.checks if one.outcome is Outcome.PASSED}
    stores: dict[str, set[str]] = {}
    for component in plan.components.values():
        if isinstance(component, ContractComponent):
            stores.setdefault(component.store, set())
    for pinned in pinned_in(plan):
        stores[pinned.store].update(names_of(pinned))
    return tuple(
        store_loss(store, plan.rpo(store), began, began, "the chain keeps them: each is what was pinned")
        if names and names <= proven
        else store_loss(store, plan.rpo(store), began, None, "not every contract was proven")
        for store, names in sorted(stores.items())
    )


def _left(switched: Switched) -> str:
    return f"{switched}; a configuration backup takes the change with it" if switched.after else ""
