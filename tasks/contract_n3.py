"""A contract of Neo N3 as a node tells it: what was deployed, and what a read-only call leaves on the stack."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from recoup.plan_chain import Invocation, Parameter
from tasks.rpc import Asked, Json, RpcError, Trouble, member, number, text

# "Unknown contract" is -102, and was -100 before version 3.7:
# https://github.com/neo-project/neo-modules/blob/master/src/RpcServer/RpcError.cs
_UNKNOWN = (-100, -102)


@dataclass(frozen=True)
class N3State:
    """What is deployed; None where the node does not tell it in a way that could be read."""

    checksum: int | None
    manifest: str | None
    updates: int | None


@dataclass(frozen=True)
class Answered:
    """How a call ended, in the node's word, its stack, and what it says went wrong."""

    state: str
    stack: Json
    exception: str


async def state_of(ask: Asked, script_hash: str) -> N3State | None:
    """Give what is deployed under a script hash; None where nothing is. Raises RpcError."""
    try:
        found = await ask("getcontractstate", script_hash)
    except RpcError as error:
        if error.trouble is Trouble.ERROR and error.code in _UNKNOWN:
            return None
        raise
    # Some versions answer with null: "contract?.ToJson().NotNull_Or(…)" ends at the question mark.
    if found is None:
        return None
    if text(member(found, "hash"), 20) != script_hash.lower():
        raise RpcError(Trouble.NOT_RPC, ask.url, "getcontractstate is answered with something else than that contract")
    manifest = member(found, "manifest")
    return N3State(
        checksum=number(member(found, "nef", "checksum")),
        manifest=manifest_hash(manifest) if isinstance(manifest, dict) else None,
        updates=number(member(found, "updatecounter")),
    )


async def invoke(ask: Asked, script_hash: str, invocation: Invocation) -> Answered:
    """Make a read-only call. Raises RpcError."""
    args = [written(one) for one in invocation.args]
    found = await ask("invokefunction", script_hash, invocation.operation, args)
    state, exception = member(found, "state"), member(found, "exception")
    if not isinstance(state, str):
        raise RpcError(Trouble.NOT_RPC, ask.url, "invokefunction is answered without a state of the VM")
    return Answered(state, _plain(member(found, "stack")), "" if exception is None else str(exception))


def manifest_hash(manifest: Json) -> str:
    """Give the SHA-256 of a manifest; ``PinnedContract`` says of which bytes."""
    whole = json.dumps(_without_points(manifest), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "0x" + hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


def written(parameter: Parameter) -> Json:
    """Give a parameter as a node takes it and tells it; an integer may be a number in the plan, and is a text here."""
    return _plain(parameter.model_dump(mode="json", exclude_none=True))


def _plain(item: Json) -> Json:
    """Leave of stack items what is theirs: their type and value."""
    if isinstance(item, list):
        return [_plain(one) for one in item]
    if not isinstance(item, dict):
        return item
    kind, value = item.get("type"), item.get("value")
    if kind is None:
        return {name: _plain(one) for name, one in item.items()}
    if kind == "Integer" and isinstance(value, int):
        value = str(int(value))
    return {"type": kind} if value is None else {"type": kind, "value": _plain(value)}


def _without_points(value: Json) -> Json:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_without_points(one) for one in value]
    return {name: _without_points(one) for name, one in value.items()} if isinstance(value, dict) else value
