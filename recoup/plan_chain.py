"""What the plan is made of: the chains that the platform reaches by RPC endpoints, and the contracts on them."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from recoup.plan_words import ComponentBase, Count, Duration, Name, Number, Text, Url, UrlPath
from recoup.records import Frozen

Hash32 = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{64}$")]
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


class PinnedContract(Frozen):
    """One contract and what it must be; a pin that is None is not compared."""

    name: Text
    hash: Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{40}$")]
    code_hash: Hash32 | None = None


class ContractComponent(ComponentBase):
    """Smart contracts. The chain keeps them, so recovery means proving that they are what is pinned."""

    kind: Literal["contract"] = "contract"
    store: Name = "contracts"
    contracts: tuple[PinnedContract, ...] = ()
