"""Contracts: that each pinned one is on its chain, is what it was pinned as, and responds.

The chain keeps them, so nothing is restored; it is proven that nothing has to be.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from recoup.plan import Plan
from recoup.plan_chain import ChainComponent, ContractComponent, PinnedContract
from recoup.records import Check, Frozen, Outcome, Subject
from tasks import contract_evm, contract_n3
from tasks.chain import address_of
from tasks.rpc import Asked, RpcError, connection
from tasks.step import step

PATIENCE = timedelta(seconds=5)
# Of everything together; public nodes refuse whoever asks much at once.
_WHOLE = timedelta(seconds=20)
_AT_ONCE = 8
_SHOWN = 200


class ContractsSeen(Frozen):
    """What was seen of the contracts: of each, that it is what it was and that it responds."""

    checks: tuple[Check, ...]

    def __str__(self) -> str:
        return "; ".join(f"{check.name}: {check.outcome}, {check.seen}" for check in self.checks)


@dataclass(frozen=True)
class Pinned:
    """A contract, and its chain; ``store`` is what the plan's objectives call it."""

    store: str
    contract: PinnedContract
    chain: str
    component: ChainComponent


@dataclass(frozen=True)
class _Seen:
    outcome: Outcome
    expected: str
    seen: str


@step(timeout=timedelta(minutes=1), retries=1)
def check_contracts(plan: Plan, endpoints: Mapping[str, str]) -> ContractsSeen:
    """Check every pinned contract whose chain has its URL in ``endpoints``; see ``prove``."""
    return ContractsSeen(checks=prove(plan, endpoints))


def prove(plan: Plan, endpoints: Mapping[str, str], patience: timedelta = PATIENCE) -> tuple[Check, ...]:
    """Look at every pinned contract of the chains in ``endpoints``, all at the same time, and give two checks of each.

    ``endpoints`` has, by the name of the chain, the URL that the services are told, or any other.
    Failed: it is missing, differs from a pin, ends in FAULT, is reverted, or answers otherwise than expected.
    Unproven: its node did not answer within ``patience``, or in a way that cannot be read; or nothing is pinned
    that would show it. Contracts of other chains are left out.
    """
    return asyncio.run(_prove([one for one in pinned_in(plan) if one.chain in endpoints], endpoints, patience))


def pinned_in(plan: Plan) -> Iterator[Pinned]:
    """Give the contracts that the plan pins."""
    for component in plan.components.values():
        if isinstance(component, ContractComponent):
            for contract in component.contracts:
                name = component.chain_of(contract, plan.components)
                chain = plan.components.get(name) if name else None
                # The plan's rules let none be without one.
                if name and isinstance(chain, ChainComponent):
                    yield Pinned(component.store, contract, name, chain)


def names_of(of: Pinned) -> tuple[str, str]:
    """Give the names of the two checks of a contract."""
    where = f"{of.contract.name} on {of.chain}"
    return f"{where}: it is what was pinned", f"{where}: it responds"


async def _prove(pinned: list[Pinned], endpoints: Mapping[str, str], patience: timedelta) -> tuple[Check, ...]:
    until = asyncio.get_running_loop().time() + _WHOLE.total_seconds()
    places = asyncio.Semaphore(_AT_ONCE)
    async with connection() as client:

        async def one(of: Pinned) -> tuple[Check, ...]:
            ask = Asked(client, address_of(of.component, endpoints[of.chain]), patience)
            found = []
            for name, look in zip(names_of(of), (_unchanged, _responds), strict=True):
                try:
                    async with asyncio.timeout_at(until), places:
                        seen = await look(ask, of)
                except RpcError as error:
                    seen = _Seen(Outcome.UNPROVEN, "an answer", f"could not be asked for: {error.what}")
                except RecursionError:
                    seen = _Seen(Outcome.UNPROVEN, "an answer", "the answer is nested too deep to be read")
                except TimeoutError:
                    seen = _Seen(Outcome.UNPROVEN, "an answer", f"not found out within {_WHOLE.total_seconds():g} s")
                found.append(
                    Check(
                        name=name,
                        subject=Subject.DATA,
                        outcome=seen.outcome,
                        expected=seen.expected,
                        seen=seen.seen,
                    )
                )
            return tuple(found)

        return tuple(check for checks in await asyncio.gather(*map(one, pinned)) for check in checks)


async def _unchanged(ask: Asked, of: Pinned) -> _Seen:
    return await (_unchanged_n3 if of.component.protocol == "neo-n3" else _unchanged_evm)(ask, of.contract)


async def _responds(ask: Asked, of: Pinned) -> _Seen:
    return await (_responds_n3 if of.component.protocol == "neo-n3" else _responds_evm)(ask, of.contract)


async def _unchanged_n3(ask: Asked, pinned: PinnedContract) -> _Seen:
    state = await contract_n3.state_of(ask, pinned.hash)
    if state is None:
        return _missing(pinned.hash)
    return _compared(
        {
            "NEF checksum": (pinned.checksum, state.checksum),
            "manifest": (_lower(pinned.manifest), state.manifest),
            "update counter": (pinned.updates, state.updates),
        }
    )


async def _unchanged_evm(ask: Asked, pinned: PinnedContract) -> _Seen:
    state = await contract_evm.state_of(ask, pinned.hash)
    if state is None:
        return _missing(pinned.hash)
    pins: dict[str, tuple[object, object]] = {"code": (_lower(pinned.code_hash), state.code_hash)}
    if (wanted := pinned.implementation) is not None:
        pins["implementation"] = (_lower(wanted.address), state.points_to or "none")
        there = state.implementation.code_hash if state.implementation else "none"
        pins["implementation's code"] = (_lower(wanted.code_hash), there)
    seen = _compared(pins)
    if seen.outcome is not Outcome.PASSED:
        return seen
    # The code of a proxy stays the same while what it does is exchanged.
    if state.points_to and pinned.implementation is None:
        said = f"it is a proxy to {state.points_to}, and no implementation is pinned"
    elif state.beacon:
        said = f"it does what the beacon {state.beacon} names, which cannot be pinned"
    else:
        return seen
    return _Seen(Outcome.UNPROVEN, seen.expected, said)


async def _responds_n3(ask: Asked, pinned: PinnedContract) -> _Seen:
    if (wanted := pinned.invoke) is None:
        return _nothing_pinned("no call (invoke)")
    got = await contract_n3.invoke(ask, pinned.hash, wanted)
    # As text: to Python 1, 1.0 and True are the same.
    stack = _text([contract_n3.written(one) for one in wanted.stack])
    expected = _short(f"{wanted.operation} ends in HALT with {stack}")
    if got.state != "HALT":
        return _Seen(Outcome.FAILED, expected, _short(f"{got.state}: {got.exception}".removesuffix(": ")))
    seen = _text(got.stack)
    return _Seen(Outcome.PASSED if seen == stack else Outcome.FAILED, expected, _short(f"HALT with {seen}"))


async def _responds_evm(ask: Asked, pinned: PinnedContract) -> _Seen:
    if (wanted := pinned.call) is None:
        return _nothing_pinned("no call")
    got = await contract_evm.returned(ask, pinned.hash, wanted)
    expected = _short(f"{wanted.data[:10]} returns {wanted.result}")
    if got is None:
        return _Seen(Outcome.FAILED, expected, "the call is reverted")
    return _Seen(Outcome.PASSED if got == wanted.result.lower() else Outcome.FAILED, expected, _short(f"returns {got}"))


def _compared(pins: Mapping[str, tuple[object, object]]) -> _Seen:
    """Compare what is pinned with what was seen; None on the one side is not pinned, on the other not told."""
    set_ = {name: pair for name, pair in pins.items() if pair[0] is not None}
    if not set_:
        return _nothing_pinned("nothing of what is there", "it is there; ")
    wrong = {name: pair for name, pair in set_.items() if pair[1] is not None and pair[0] != pair[1]}
    untold = [name for name, pair in set_.items() if pair[1] is None]
    told = wrong or set_
    expected = ", ".join(f"{name} {pair[0]}" for name, pair in told.items())
    if wrong:
        return _Seen(Outcome.FAILED, expected, ", ".join(f"{name} {pair[1]}" for name, pair in told.items()))
    if untold:
        return _Seen(Outcome.UNPROVEN, expected, f"the node does not tell: {', '.join(untold)}")
    return _Seen(Outcome.PASSED, expected, "the same")


def _missing(where: str) -> _Seen:
    return _Seen(Outcome.FAILED, f"a contract at {where}", "there is none")


def _nothing_pinned(what: str, before: str = "") -> _Seen:
    return _Seen(Outcome.UNPROVEN, "a pin", f"{before}{what} is pinned")


def _lower(value: str | None) -> str | None:
    return None if value is None else value.lower()


def _text(stack: object) -> str:
    return json.dumps(stack, ensure_ascii=False, sort_keys=True)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} …"
