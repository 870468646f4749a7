"""A Neo N3 node's answers.

Shapes as the RpcServer plugin gives them (neo-project/neo, src/Plugins/RpcServer before it moved to neo-node, version
3.8): RpcServer.Blockchain.cs, RpcServer.Node.cs, RpcServer.SmartContract.cs, errors of RpcError.cs; of those with
data, the data are appended to the message after " - ". Objects as of Header.ToJson, ContractState.ToJson,
NefFile.ToJson, ContractManifest.ToJson and StackItem.ToJson. Network magic 860833102 is the main net.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass

from app.rpc_node import SECONDS_PER_BLOCK, Line, Node, RpcFault

MAIN_NET = 860833102
_GENESIS = {MAIN_NET: "0x1f4d1defa46faa5e7b9b8d3f79a06bec777d7c26c4aa5f6f5899a291daa87c15"}
_BASE = 6_900_000
_INVALID_PARAMS, _UNKNOWN_BLOCK, _UNKNOWN_CONTRACT, _UNKNOWN_HEIGHT = -32602, -101, -102, -109
_VALIDATORS = "NSiVJYZej4XsxG5CUpdwn7VRQk8iiiDMPM"
_WITNESS = (bytes([0x0C, 64]) + bytes(64), bytes.fromhex("110c21") + bytes(33) + bytes.fromhex("11419ed0dc3a"))
_SYSCALL_CONTRACT_CALL = bytes.fromhex("41627d5b52")


@dataclass(frozen=True)
class Contract:
    """A contract whose methods answer with what they always answer with: a type of the VM and its value."""

    identity: int
    name: str
    standards: tuple[str, ...]
    script: str
    updates: int
    returns: dict[str, tuple[str, str, object]]

    @property
    def hash(self) -> str:
        return "0x" + hashlib.sha256(f"contract {self.name}".encode()).hexdigest()[:40]

    def state(self) -> dict[str, object]:
        return {
            "id": self.identity,
            "updatecounter": self.updates,
            "hash": self.hash,
            "nef": {
                "magic": 860243278,
                "compiler": "neo-devpack-dotnet-3.7.4",
                "source": "",
                "tokens": [],
                "script": self.script,
                "checksum": int(hashlib.sha256(self.script.encode()).hexdigest()[:8], 16),
            },
            "manifest": self._manifest(),
        }

    def _manifest(self) -> dict[str, object]:
        methods = [
            {
                "name": name,
                "parameters": [],
                "returntype": "String" if type_ == "ByteString" else type_,
                "offset": 7 * n,
                "safe": True,
            }
            for n, (name, (type_, _, _)) in enumerate(self.returns.items())
        ]
        return {
            "name": self.name,
            "groups": [],
            "features": {},
            "supportedstandards": list(self.standards),
            "abi": {"methods": methods, "events": []},
            "permissions": [{"contract": "*", "methods": "*"}],
            "trusts": [],
            "extra": {"Author": "Neo Service Layer", "Description": "a sandbox's own"},
        }


def _text(value: str) -> tuple[str, str, object]:
    return "ByteString", "value", base64.b64encode(value.encode()).decode()


CONTRACTS = (
    Contract(
        identity=211,
        name="ServiceToken",
        standards=("NEP-17",),
        script="DANOU0xA",
        updates=0,
        returns={
            "symbol": _text("NSL"),
            "decimals": ("Integer", "value", "8"),
            "totalSupply": ("Integer", "value", "100000000000000"),
        },
    ),
    Contract(
        identity=212,
        name="ServiceRegistry",
        standards=(),
        script="E0A=",
        updates=2,
        returns={"version": ("Integer", "value", "3"), "paused": ("Boolean", "value", False)},
    ),
)


class N3Node(Node):
    """A node of Neo N3."""

    chain = "neo-n3"
    invalid = "Invalid request"
    unparsable = "Bad request"

    def __init__(self, network: int | None = None, lag: int = 0, fork: int = 0) -> None:
        self._network = network or MAIN_NET
        line = Line(f"n3 {self._network}", _BASE, _GENESIS.get(self._network), lag, fork)
        methods = {
            "getversion": lambda _: self._version(),
            "getblockcount": lambda _: self.line.height() + 1,
            "getbestblockhash": lambda _: self.line.hash(self.line.height()),
            "getblockhash": self._block_hash,
            "getblockheader": self._block_header,
            "getcontractstate": self._contract_state,
            "invokefunction": self._invoke,
        }
        super().__init__(line, methods)
        self._contracts = {one.hash: one for one in CONTRACTS}

    def missing(self, method: str) -> RpcFault:
        return _fault(-32601, "Method not found", method)

    def _version(self) -> object:
        return {
            "tcpport": 10333,
            "nonce": 1930156121,
            "useragent": "/Neo:3.8.2/",
            "rpc": {"maxiteratorresultitems": 100, "sessionenabled": True},
            "protocol": {
                "addressversion": 53,
                "network": self._network,
                "validatorscount": 7,
                "msperblock": SECONDS_PER_BLOCK * 1000,
                "maxtraceableblocks": 2102400,
                "maxvaliduntilblockincrement": 5760,
                "maxtransactionsperblock": 512,
                "memorypoolmaxtransactions": 50000,
                "initialgasdistribution": 5200000000000000,
                "hardforks": [{"name": "Aspidochelone", "blockheight": 1730000}],
                "standbycommittee": [],
                "seedlist": ["seed1.neo.org:10333"],
            },
        }

    def _block_hash(self, params: list[object]) -> object:
        height = _uint(_first(params))
        if height > self.line.height():
            raise _fault(_UNKNOWN_HEIGHT, "Unknown height")
        return self.line.hash(height)

    def _block_header(self, params: list[object]) -> object:
        key = _first(params)
        found = self.line.height_of(_hex(key, 32)) if isinstance(key, str) and len(key) > 10 else _uint(key)
        if found is None or found > self.line.height():
            raise _fault(_UNKNOWN_BLOCK, "Unknown block")
        verbose = len(params) > 1 and bool(params[1])
        return self._header(found) if verbose else base64.b64encode(self._header_bytes(found)).decode()

    def _header(self, height: int) -> object:
        invocation, verification = (base64.b64encode(one).decode() for one in _WITNESS)
        header: dict[str, object] = {
            "hash": self.line.hash(height),
            "size": len(self._header_bytes(height)),
            "version": 0,
            "previousblockhash": self._before(height),
            "merkleroot": "0x" + "0" * 64,
            "time": self.line.time(height) * 1000,
            "nonce": self._nonce(height),
            "index": height,
            "primary": height % 7,
            "nextconsensus": _VALIDATORS,
            "witnesses": [{"invocation": invocation, "verification": verification}],
            "confirmations": self.line.height() - height + 1,
        }
        if height < self.line.height():
            header["nextblockhash"] = self.line.hash(height + 1)
        return header

    def _header_bytes(self, height: int) -> bytes:
        """Give a header as Header.cs writes it; a hash is written with its last byte first."""
        previous = bytes.fromhex(self._before(height)[2:])[::-1]
        nonce = int(self._nonce(height), 16)
        fixed = struct.pack("<QQIB", self.line.time(height) * 1000, nonce, height, height % 7)
        witness = b"".join(bytes([len(one)]) + one for one in _WITNESS)
        return bytes(4) + previous + bytes(32) + fixed + bytes(20) + b"\x01" + witness

    def _before(self, height: int) -> str:
        return self.line.hash(height - 1) if height else "0x" + "0" * 64

    def _nonce(self, height: int) -> str:
        return self.line.hash(height, "nonce")[2:18].upper()

    def _contract_state(self, params: list[object]) -> object:
        known = self._contracts.get(_hex(_first(params), 20))
        if known is None:
            raise _fault(_UNKNOWN_CONTRACT, "Unknown contract")
        return known.state()

    def _invoke(self, params: list[object]) -> object:
        contract = _hex(_first(params), 20)
        operation = params[1] if len(params) > 1 else None
        args = params[2] if len(params) > 2 else []
        if not isinstance(operation, str) or not isinstance(args, list):
            raise _fault(_INVALID_PARAMS, "Invalid params")
        known = self._contracts.get(contract)
        stack: list[object] = []
        if known is None:
            wrong = f"Called Contract Does Not Exist: {contract}"
        elif operation not in known.returns or args:
            wrong = f'Method "{operation}" with {len(args)} parameter(s) doesn\'t exist in the contract {contract}.'
        else:
            wrong = None
            type_, key, value = known.returns[operation]
            stack = [{"type": type_, key: value}]
        return {
            "script": base64.b64encode(_script(contract, operation)).decode(),
            "state": "FAULT" if wrong else "HALT",
            "gasconsumed": "1017810" if wrong is None else "32768010",
            "exception": wrong,
            "notifications": [],
            "stack": stack,
        }


def _script(contract: str, operation: str) -> bytes:
    """Give the call without arguments as ScriptBuilder.EmitDynamicCall writes it."""
    name, target = operation.encode(), bytes.fromhex(contract[2:])[::-1]
    pushed = b"".join(bytes([0x0C, len(one) % 256]) + one for one in (name, target))
    return b"\xc2\x1f" + pushed + _SYSCALL_CONTRACT_CALL


def _fault(code: int, message: str, data: str | None = None) -> RpcFault:
    return RpcFault(code, message if data is None else f"{message} - {data}", data)


def _first(params: list[object]) -> object:
    if not params:
        raise _fault(_INVALID_PARAMS, "Invalid params", "Required parameter is missing.")
    return params[0]


def _uint(value: object) -> int:
    digits = str(value)
    if isinstance(value, bool) or not digits.isascii() or not digits.isdigit() or int(digits) >= 2**32:
        raise _fault(_INVALID_PARAMS, "Invalid params", f"Invalid uint32 value: {value}")
    return int(digits)


def _hex(value: object, size: int) -> str:
    digits = str(value).lower().removeprefix("0x")
    if len(digits) != 2 * size or set(digits) - set("0123456789abcdef"):
        raise _fault(_INVALID_PARAMS, "Invalid params", f"Invalid UInt{8 * size} value: {value}")
    return f"0x{digits}"
