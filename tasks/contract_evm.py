"""A contract of an EVM chain as a node tells it: its code, what a proxy hands on to, and what a call returns."""

from __future__ import annotations

from dataclasses import dataclass

from Crypto.Hash import keccak

from recoup.plan_chain import EvmCall
from tasks.rpc import Asked, RpcError, Trouble, data, text

# https://eips.ethereum.org/EIPS/eip-1967
IMPLEMENTATION_SLOT = "0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc"
BEACON_SLOT = "0xa3f0ad74e5423aebfd80d3ef4346578335a9a72aeaee59ff6cb3582b35133d50"
# The first is geth's, the second was OpenEthereum's. For all but a revert there are only words, geth's of
# core/vm/errors.go, and "EVM error …" of the Rust ones.
_REVERTED = (3, -32015)
_WORDS = (
    *("revert", "invalid opcode", "invalid jump", "out of gas", "out of bounds", "stack underflow", "stack limit"),
    *("write protection", "evm error"),
)
_NONE = "0x" + "0" * 40


@dataclass(frozen=True)
class Code:
    """The code at an address, by its keccak-256."""

    address: str
    code_hash: str


@dataclass(frozen=True)
class EvmState:
    """What is deployed, and where it is a proxy, the address in its slot and the code there, if any.

    ``beacon`` is who names the implementation of a proxy that has none of its own.
    """

    code_hash: str
    points_to: str | None = None
    implementation: Code | None = None
    beacon: str | None = None


async def state_of(ask: Asked, address: str) -> EvmState | None:
    """Give what is deployed at an address; None where no code is. Raises RpcError."""
    own = await _code(ask, address)
    if own is None:
        return None
    if target := await _address_in(ask, address, IMPLEMENTATION_SLOT):
        return EvmState(own.code_hash, target, await _code(ask, target))
    return EvmState(own.code_hash, beacon=await _address_in(ask, address, BEACON_SLOT))


async def returned(ask: Asked, address: str, call: EvmCall) -> str | None:
    """Make a read-only call and give what it returns; None where the contract refuses it. Raises RpcError."""
    try:
        found = data(await ask("eth_call", {"to": address, "data": call.data}, "latest"))
    except RpcError as error:
        refused = error.code in _REVERTED or any(word in error.said.lower() for word in _WORDS)
        if error.trouble is Trouble.ERROR and refused:
            return None
        raise
    if found is None:
        raise RpcError(Trouble.NOT_RPC, ask.url, "eth_call is answered with something else than bytes")
    return found


async def _address_in(ask: Asked, address: str, slot: str) -> str | None:
    found = text(await ask("eth_getStorageAt", address, slot, "latest"), 32)
    if found is None:
        raise RpcError(Trouble.NOT_RPC, ask.url, "eth_getStorageAt is answered with something else than 32 bytes")
    there = "0x" + found[-40:]
    return None if there == _NONE else there


async def _code(ask: Asked, address: str) -> Code | None:
    code = data(await ask("eth_getCode", address, "latest"))
    if code is None:
        raise RpcError(Trouble.NOT_RPC, ask.url, "eth_getCode is answered with something else than bytes")
    if code == "0x":
        return None
    return Code(address.lower(), "0x" + keccak.new(digest_bits=256, data=bytes.fromhex(code[2:])).hexdigest())
