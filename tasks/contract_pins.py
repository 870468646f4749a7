"""What is on the chains now, as pins for a plan; whether it is what it should be, somebody has to judge."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from recoup.addresses import shown
from recoup.errors import RecoveryError
from recoup.plan import Plan
from recoup.plan_chain import Invocation, Parameter, PinnedContract, PinnedImplementation
from tasks import contract_evm, contract_n3
from tasks.chain import reached_at
from tasks.contract import PATIENCE, Pinned, pinned_in
from tasks.rpc import Asked, connection


def pins_now(plan: Plan, patience: timedelta = PATIENCE) -> tuple[PinnedContract, ...]:
    """Give each contract of the plan with everything pinned as its chain has it now, the answer to its call too.

    The first endpoint of each chain is asked.
    Raises RecoveryError where a contract is missing, refuses its call, or its node does not answer.
    """

    async def read() -> tuple[PinnedContract, ...]:
        async with connection() as client:
            return tuple(
                [
                    await _pins(Asked(client, reached_at(one.component.endpoints[0]), patience), one)
                    for one in pinned_in(plan)
                ]
            )

    return asyncio.run(read())


async def _pins(ask: Asked, of: Pinned) -> PinnedContract:
    pinned = of.contract.model_copy(update={"chain": of.chain})
    return await (_pins_n3 if of.component.protocol == "neo-n3" else _pins_evm)(ask, pinned)


async def _pins_n3(ask: Asked, pinned: PinnedContract) -> PinnedContract:
    state = await contract_n3.state_of(ask, pinned.hash)
    if state is None:
        raise _missing(ask, pinned)
    invoke = pinned.invoke
    if invoke is not None:
        got = await contract_n3.invoke(ask, pinned.hash, invoke)
        if got.state != "HALT" or not isinstance(got.stack, list):
            raise _refused(ask, pinned, f"{invoke.operation} ends in {got.state}: {got.exception}")
        stack = tuple(Parameter.model_validate(item) for item in got.stack)
        invoke = Invocation(operation=invoke.operation, args=invoke.args, stack=stack)
    now = {"checksum": state.checksum, "manifest": state.manifest, "updates": state.updates, "invoke": invoke}
    return pinned.model_copy(update=now)


async def _pins_evm(ask: Asked, pinned: PinnedContract) -> PinnedContract:
    state = await contract_evm.state_of(ask, pinned.hash)
    if state is None:
        raise _missing(ask, pinned)
    call, implementation = pinned.call, None
    if call is not None:
        result = await contract_evm.returned(ask, pinned.hash, call)
        if result is None:
            raise _refused(ask, pinned, f"the call {call.data[:10]} is reverted")
        call = call.model_copy(update={"result": result})
    if state.points_to:
        there = state.implementation
        implementation = PinnedImplementation(address=state.points_to, code_hash=there and there.code_hash)
    now = {"code_hash": state.code_hash, "implementation": implementation, "call": call}
    return pinned.model_copy(update=now)


def _missing(ask: Asked, pinned: PinnedContract) -> RecoveryError:
    return RecoveryError(
        f"{pinned.name}: there is no contract at {pinned.hash} by {shown(ask.url)}",
        state="nothing was changed",
        next_step="look at its hash and chain in the plan",
    )


def _refused(ask: Asked, pinned: PinnedContract, said: str) -> RecoveryError:
    return RecoveryError(
        f"{pinned.name}: {said}, by {shown(ask.url)}",
        state="nothing was changed",
        next_step="look at its call in the plan",
    )
