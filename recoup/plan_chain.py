"""What the plan is made of: the chains that the platform reaches by RPC endpoints, and the contracts on them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints

from recoup.plan_words import ComponentBase, Count, Duration, Name, Number, Text, Url, UrlPath
from recoup.records import Frozen

Hash32 = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{64}$")]
Hash20 = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{40}$")]
HexData = Annotated[str, StringConstraints(pattern=r"^0x(?:[0-9a-fA-F]{2})*$")]
Protocol = Literal["neo-n3", "evm"]


class Endpoint(Frozen):
    """One RPC endpoint; of several healthy ones the heaviest is taken, of equal ones the first of the list.

    ``url`` is what the services are told; ``from_host``, where it differs, how this machine reaches the same node.
    """

    url: Url
    weight: Count = 1
    from_host: Url | None = None


class GatewayHeight(Frozen):
    """Where the gateway tells users the chain's height: a path that answers a JSON object, and the field in it."""

    path: UrlPath
    field: Text = "height"


class ChainComponent(ComponentBase):
    """A blockchain as the platform reaches it: by RPC endpoints, of which one stands in an environment variable.

    ``network`` is the network magic (Neo N3, ``getversion``) or the chain id (Neo X, ``eth_chainId``), ``genesis`` the
    hash of block 0; None: not compared, only that all endpoints agree. An endpoint is healthy whose head is not more
    than ``max_lag_blocks`` behind the others and not older than ``max_age``, and that answers everything within
    ``max_latency``. ``depth`` is how many blocks below the lowest head the hashes must agree. ``cool_down``: for so
    long after it was left, an endpoint is not gone back to while another one is healthy. ``service``: an own node of
    the stack.
    """

    kind: Literal["chain"] = "chain"
    protocol: Protocol
    network: Count
    genesis: Hash32 | None = None
    variable: Annotated[str, StringConstraints(pattern=r"^[A-Z_][A-Z0-9_]*$")]
    endpoints: tuple[Endpoint, ...] = Field(min_length=1)
    max_lag_blocks: Count = 10
    max_age: Duration = timedelta(minutes=2)
    max_latency: Duration = timedelta(seconds=1)
    depth: Number = 2
    cool_down: Duration = timedelta(minutes=10)
    gateway: GatewayHeight | None = None
    service: Text | None = None


class Parameter(Frozen):
    """A value as Neo N3 nodes write them, as an argument or on the stack; bytes are in base64, integers a text.

    https://docs.neo.org/docs/n3/reference/rpc/invokefunction.html
    """

    type: Text
    value: JsonValue = None


class Invocation(Frozen):
    """A read-only call on Neo N3 (``invokefunction``): it must end in HALT and leave this on the ``stack``."""

    operation: Text
    args: tuple[Parameter, ...] = ()
    stack: tuple[Parameter, ...]


class EvmCall(Frozen):
    """A read-only call on an EVM chain (``eth_call``): ``data`` is sent to the contract, ``result`` must come back."""

    data: HexData
    result: HexData


class PinnedImplementation(Frozen):
    """What stands in the slot of a proxy (EIP-1967), and the keccak-256 of the code there."""

    address: Hash20
    code_hash: Hash32 | None = None


class PinnedContract(Frozen):
    """One contract and what it must be; a pin that is None is not compared, and what nothing pins is unproven.

    ``chain`` is the component it is on; None: the only one of ``depends_on`` whose protocol suits its pins. ``hash`` is
    the script hash (Neo N3) or the address (EVM). On Neo N3: ``checksum``, of the NEF file; ``manifest``, the SHA-256
    of the manifest as ``getcontractstate`` gives it, written as JSON with the keys of every object in order, nothing
    between the tokens, text as it is in UTF-8, and whole numbers without a point; ``updates``, the update counter.
    On an EVM chain: ``code_hash``, the keccak-256 of ``eth_getCode``; ``implementation`` of a proxy.
    """

    name: Text
    chain: Name | None = None
    hash: Hash20
    checksum: Annotated[int, Field(strict=True, ge=0, lt=2**32)] | None = None
    manifest: Hash32 | None = None
    updates: Number | None = None
    invoke: Invocation | None = None
    code_hash: Hash32 | None = None
    implementation: PinnedImplementation | None = None
    call: EvmCall | None = None

    def pins_of(self, protocol: Protocol) -> tuple[str, ...]:
        """Give the names of the pins that are set and only mean something on chains of this protocol."""
        names = (
            ("checksum", "manifest", "updates", "invoke")
            if protocol == "neo-n3"
            else ("code_hash", "implementation", "call")
        )
        return tuple(name for name in names if getattr(self, name) is not None)


class ContractComponent(ComponentBase):
    """Smart contracts. The chain keeps them, so recovery means proving that they are what is pinned."""

    kind: Literal["contract"] = "contract"
    store: Name = "contracts"
    contracts: tuple[PinnedContract, ...] = ()

    def chain_of(self, pinned: PinnedContract, components: Mapping[str, ComponentBase]) -> str | None:
        """Give the name of the chain a contract is on, as far as the plan says it without a doubt."""
        if pinned.chain is not None:
            return pinned.chain if isinstance(components.get(pinned.chain), ChainComponent) else None
        fitting = [
            name
            for name in self.depends_on
            if isinstance(chain := components.get(name), ChainComponent)
            and not pinned.pins_of("evm" if chain.protocol == "neo-n3" else "neo-n3")
        ]
        return fitting[0] if len(fitting) == 1 else None
