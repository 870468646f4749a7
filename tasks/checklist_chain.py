"""Checklist: whether the chains answer by the endpoint in use, on the right network, and know the pinned contracts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recoup.errors import PreconditionError
from recoup.plan import ChainComponent, ComposeSite, Plan
from recoup.records import Check, Outcome
from recoup.secrets import resolve
from recoup.stacks import Stack
from tasks.checklist_found import PATIENCE, Found, failed, passed, together
from tasks.contract import prove
from tasks.rpc import RpcError, ask, member, number


def chains_answer(plan: Plan, stack: Stack) -> Found:
    """The endpoint in use of each chain tells the plan's network and a height."""
    return together((_chain(plan, name, chain) for name, chain in _chains(plan)), "the plan has no chain")


def contracts_respond(plan: Plan, stack: Stack) -> Found:
    """Each pinned contract is what it was pinned as, and its call gives what is expected, by the endpoint in use."""
    checks = prove(plan, endpoints_in_use(plan), PATIENCE)
    return together(map(_found, checks), "no contract is pinned in the plan: nothing to ask for")


def endpoints_in_use(plan: Plan) -> dict[str, str]:
    """Give the endpoint in use of each chain, by the chain's name."""
    return {name: endpoint_in_use(plan, chain) for name, chain in _chains(plan)}


def endpoint_in_use(plan: Plan, chain: ChainComponent) -> str:
    """Give the endpoint that the deployed variable names, else the plan's first."""
    site = plan.platform.stack
    if isinstance(site, ComposeSite) and site.env_file is not None:
        try:
            set_to = resolve(f"dotenv:{Path(site.env_file).absolute()}#{chain.variable}").get_secret_value()
        except PreconditionError:
            return chain.endpoints[0].url
        # One that only the containers know could not be asked from here.
        if any(set_to == one.url for one in chain.endpoints):
            return set_to
    return chain.endpoints[0].url


def _chain(plan: Plan, name: str, chain: ChainComponent) -> Found:
    url = endpoint_in_use(plan, chain)
    network, height = ("eth_chainId", "eth_blockNumber") if chain.protocol == "evm" else ("getversion", "getblockcount")
    try:
        told = ask(url, network, deadline=PATIENCE)
        at = number(ask(url, height, deadline=PATIENCE))
    except RpcError as error:
        return failed(f"{name}: {error.what}")
    of = number(told if chain.protocol == "evm" else member(told, "protocol", "network"))
    if of != chain.network:
        return failed(f"{name}: {url} is of network {of}, not {chain.network}")
    return passed(f"{name}: network {of}, height {at}") if at else failed(f"{name}: {url} tells no height")


def _found(check: Check) -> Found:
    said = f"{check.seen}, expected {check.expected}" if check.outcome is Outcome.FAILED else check.seen
    return Found(check.outcome, f"{check.name}: {said}")


def _chains(plan: Plan) -> Iterator[tuple[str, ChainComponent]]:
    return ((name, one) for name, one in plan.components.items() if isinstance(one, ChainComponent))
