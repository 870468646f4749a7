"""Checklist: whether the chains answer by the endpoint in use, on the right network, and know the pinned contracts."""

from __future__ import annotations

from recoup.plan import ChainComponent, Plan
from recoup.records import Check, Outcome
from recoup.stacks import Stack
from tasks.chain import address_of
from tasks.chain_switch import chains_of, endpoint_in_use
from tasks.checklist_found import PATIENCE, Found, failed, passed, together
from tasks.contract import prove
from tasks.rpc import RpcError, ask, member, number


def chains_answer(plan: Plan, stack: Stack) -> Found:
    """The endpoint in use of each chain tells the plan's network and a height."""
    return together((_chain(stack, name, one) for name, one in chains_of(plan).items()), "the plan has no chain")


def contracts_respond(plan: Plan, stack: Stack) -> Found:
    """Each pinned contract is what it was pinned as, and its call gives what is expected, by the endpoint in use."""
    in_use = {name: endpoint_in_use(stack, chain) for name, chain in chains_of(plan).items()}
    return together(map(_found, prove(plan, in_use, PATIENCE)), "no contract is pinned in the plan: nothing to ask for")


def _chain(stack: Stack, name: str, chain: ChainComponent) -> Found:
    url = address_of(chain, endpoint_in_use(stack, chain))
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
