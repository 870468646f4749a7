"""A Neo X node's answers.

Neo X is a fork of geth (bane-labs/go-ethereum): results as of ethereum/execution-apis, errors as of go-ethereum's
rpc/errors.go ("the method %s does not exist/is not available"), rpc/json.go (arguments) and internal/ethapi (code 3,
"execution reverted"). Chain id 47763 is the main net.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from app.rpc_node import Line, Node, RpcFault

MAIN_NET = 47763
_BASE = 2_100_000
_INVALID_PARAMS, _REVERTED = -32602, 3
# Of no transactions and of no uncles, as every EVM chain has them.
_NO_TRIE = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"
_NO_UNCLES = "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347"
# https://eips.ethereum.org/EIPS/eip-1967
IMPLEMENTATION_SLOT = "0x360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc"
TOKEN = "0x5a1e70c0ffee0000000000000000000000000001"
PROXY = "0x5a1e70c0ffee0000000000000000000000000002"
IMPLEMENTATION = "0x5a1e70c0ffee0000000000000000000000000003"


@dataclass(frozen=True)
class Contract:
    """A contract's code, its storage, and what calls of it return, by the four bytes they begin with."""

    code: str
    returns: dict[str, int]
    storage: dict[str, str] = field(default_factory=dict)


_VERSION = {"0x54fd4d50": 3}
CONTRACTS = {
    # Answers decimals(), 8, to everything.
    TOKEN: Contract("0x600860005260206000f3", {"0x313ce567": 8, "0x18160ddd": 10**14}),
    # The smallest proxy of EIP-1967: it hands every call on to the address in its slot.
    PROXY: Contract(
        f"0x363d3d373d3d363d7f{IMPLEMENTATION_SLOT[2:]}545af43d6000803e6038573d6000fd5b3d6000f3",
        _VERSION,
        {IMPLEMENTATION_SLOT: "0x" + "0" * 24 + IMPLEMENTATION[2:]},
    ),
    # Answers version(), 3, to everything.
    IMPLEMENTATION: Contract("0x600360005260206000f3", _VERSION),
}


class XNode(Node):
    """A node of Neo X."""

    chain = "neo-x"
    invalid = "invalid request"
    unparsable = "parse error"

    def __init__(self, network: int | None = None, lag: int = 0, fork: int = 0) -> None:
        identity = network or MAIN_NET
        methods = {
            "eth_chainId": lambda _: hex(identity),
            "net_version": lambda _: str(identity),
            "eth_blockNumber": lambda _: hex(self.line.height()),
            "eth_syncing": lambda _: False,
            "eth_getBlockByNumber": self._block,
            "eth_getCode": self._code,
            "eth_getStorageAt": self._storage,
            "eth_call": self._call,
        }
        super().__init__(Line(f"x {identity}", _BASE, None, lag, fork), methods)

    def missing(self, method: str) -> RpcFault:
        return RpcFault(-32601, f"the method {method} does not exist/is not available")

    def _block(self, params: list[object]) -> object:
        height = self._height(_argument(params, 0))
        if not isinstance(_argument(params, 1), bool):
            raise _invalid(1, "json: cannot unmarshal non-boolean into Go value of type bool")
        if height > self.line.height():
            return None
        parent = self.line.hash(height - 1) if height else "0x" + "0" * 64
        return {
            "baseFeePerGas": "0x4a817c800",
            "difficulty": "0x2",
            "extraData": "0x",
            "gasLimit": "0x1c9c380",
            "gasUsed": "0x0",
            "hash": self.line.hash(height),
            "logsBloom": "0x" + "0" * 512,
            "miner": "0x1212000000000000000000000000000000000003",
            "mixHash": self.line.hash(height, "mix"),
            "nonce": "0x0000000000000000",
            "number": hex(height),
            "parentHash": parent,
            "receiptsRoot": _NO_TRIE,
            "sha3Uncles": _NO_UNCLES,
            "size": "0x25e",
            "stateRoot": self.line.hash(height, "state"),
            "timestamp": hex(self.line.time(height)),
            "transactions": [],
            "transactionsRoot": _NO_TRIE,
            "uncles": [],
        }

    def _code(self, params: list[object]) -> object:
        address = _address(params, 0)
        self._height(_argument(params, 1))
        return CONTRACTS[address].code if address in CONTRACTS else "0x"

    def _storage(self, params: list[object]) -> object:
        address, slot = _address(params, 0), int(_hex(params, 1), 16)
        self._height(_argument(params, 2))
        known = CONTRACTS[address].storage if address in CONTRACTS else {}
        return known.get(f"0x{slot:064x}", "0x" + "0" * 64)

    def _call(self, params: list[object]) -> object:
        request = _argument(params, 0)
        if not isinstance(request, dict):
            raise _invalid(0, "json: cannot unmarshal into Go value of type ethapi.TransactionArgs")
        address = _address([request.get("to")], 0)
        if len(params) > 1:
            self._height(params[1])
        if address not in CONTRACTS:
            return "0x"
        data = str(request.get("input") or request.get("data") or "0x").lower()
        value = CONTRACTS[address].returns.get(data[:10])
        if value is None:
            raise RpcFault(_REVERTED, "execution reverted", "0x")
        return f"0x{value:064x}"

    def _height(self, block: object) -> int:
        if block in ("latest", "safe", "finalized", "pending"):
            return self.line.height()
        if block == "earliest":
            return 0
        return int(_hex([block], 0), 16)


def _argument(params: list[object], place: int) -> object:
    if place >= len(params) or params[place] is None:
        raise RpcFault(_INVALID_PARAMS, f"missing value for required argument {place}")
    return params[place]


def _hex(params: list[object], place: int) -> str:
    value = _argument(params, place)
    if not isinstance(value, str) or not value.startswith("0x"):
        raise _invalid(place, "hex string without 0x prefix")
    if len(value) < 3 or len(value) > 66 or set(value[2:].lower()) - set("0123456789abcdef"):
        raise _invalid(place, "invalid hex string")
    return value.lower()


def _address(params: list[object], place: int) -> str:
    value = _hex(params, place)
    if len(value) != 42:
        raise _invalid(place, f"hex string has length {len(value) - 2}, want 40 for common.Address")
    return value


def _invalid(place: int, why: str) -> RpcFault:
    return RpcFault(_INVALID_PARAMS, f"invalid argument {place}: {why}")
