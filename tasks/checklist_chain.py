"""Checklist: whether the endpoint in use of each chain can be trusted, and the pinned contracts are what they were."""

from __future__ import annotations

from recoup.addresses import shown
from recoup.chains import ChainSeen
from recoup.plan import Plan
from recoup.records import Check, Outcome
from recoup.stacks import Stack
from tasks.chain_switch import endpoints_in_use, see_chains
from tasks.checklist_found import PATIENCE, Found, failed, passed, together
from tasks.contract import pinned_in, prove


def chains_answer(plan: Plan, stack: Stack) -> Found:
    """The endpoint in use of each chain is healthy, by itself and before the others; see ``recoup.chains.judge``."""
    return together(map(_chain, see_chains(plan, stack).chains), "the plan has no chain")


def contracts_respond(plan: Plan, stack: Stack) -> Found:
    """Each pinned contract is what it was pinned as, and its call gives what is expected, by the endpoint in use."""
    endpoints = endpoints_in_use(plan, stack) if any(pinned_in(plan)) else {}
    checks = prove(plan, endpoints, PATIENCE)
    return together(map(_found, checks), "no contract is pinned in the plan: nothing to ask for")


def _chain(seen: ChainSeen) -> Found:
    if seen.well and seen.current:
        return passed(f"{seen.chain}: {shown(seen.in_use)} is healthy, at height {seen.current.height}")
    return failed(str(seen))


def _found(check: Check) -> Found:
    said = f"{check.seen}, expected {check.expected}" if check.outcome is Outcome.FAILED else check.seen
    return Found(check.outcome, f"{check.name}: {said}")
