"""What the plan is made of, first part: everything that runs, and how it is backed up."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from recoup.plan_words import Count, Duration, Name, Number, Port, Secret, Size, Text, Tier, Url, UrlPath
from recoup.records import Frozen


class BackupPolicy(Frozen):
    """How often a store is backed up, with how many parallel jobs, and which sets are kept.

    ``keep`` counts the newest; ``daily``, ``weekly`` and ``monthly`` say for how many days, ISO weeks and months, each
    counted back from the newest set, the last set of that time is kept besides.
    """

    interval: Duration
    jobs: Count = 2
    keep: Count
    daily: Number = 0
    weekly: Number = 0
    monthly: Number = 0


WalPolicy = Literal["async", "zero-loss"]


class ContinuousPolicy(Frozen):
    """How the WAL of a PostgreSQL server is received as it is written, and what it is replayed on.

    ``receiver`` is the service that runs pg_receivewal, ``wal`` the directory of this machine it writes to.
    ``zero-loss``: the server waits for the receiver at each commit; when the receiver has been away for ``patience``
    the server is told to ``serve`` without it (a loss becomes possible), or goes on to ``wait``. ``base`` says how
    often a full copy is taken and how many are kept, ``incremental`` how often one of what changed since (17 and
    later). ``heartbeat`` is how often a row is written by which the recovery point is read; null: never.
    """

    receiver: Text = "wal-receiver"
    wal: Path
    policy: WalPolicy = "async"
    without_receiver: Literal["serve", "wait"] = "serve"
    patience: Duration = timedelta(seconds=10)
    slot: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,63}$")] = "recoup"
    slot_keep: Size = "16GB"
    base: BackupPolicy
    incremental: Duration | None = None
    heartbeat: Duration | None = timedelta(seconds=2)


class Standby(Frozen):
    """A warm standby: a service of the stack that follows the database by streaming replication, to take its place.

    Both share the directory of their sockets, each with a ``port`` of its own; ``slot`` keeps the WAL for whichever
    follows. ``patience`` is how long a recovery waits for what was received to be replayed on it. Which of the two is
    in charge now is read from them, and not from the plan.
    """

    service: Text
    container: Text | None = None
    port: Port = 5433
    slot: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,63}$")] = "recoup_standby"
    patience: Duration = timedelta(minutes=1)


class _Component(Frozen):
    tier: Tier
    depends_on: tuple[Name, ...] = ()
    description: str = ""


class PostgresComponent(_Component):
    """A PostgreSQL database. ``service`` is its name in the stack, ``container`` the name an operator sees."""

    kind: Literal["postgres"] = "postgres"
    service: Text
    container: Text | None = None
    port: Port = 5432
    database: Text
    user: Text
    password: Secret
    maintenance_database: Text = "postgres"
    store: Name = "database"
    scan_timeout: Duration = timedelta(minutes=10)
    restart_timeout: Duration = timedelta(minutes=2)
    backup: BackupPolicy
    continuous: ContinuousPolicy | None = None
    standby: Standby | None = None


class RedisReplica(Frozen):
    """A service that follows a Redis (REPLICAOF) and has its password; clients keep to the primary."""

    service: Text
    port: Port = 6379


class RedisComponent(_Component):
    """A Redis cache. ``replica``, where there is one, is the freshest source of a restore; it is no backup."""

    kind: Literal["redis"] = "redis"
    service: Text
    container: Text | None = None
    port: Port = 6379
    password: Secret | None = None
    store: Name = "redis"
    backup: BackupPolicy | None = None
    replica: RedisReplica | None = None


class ServiceComponent(_Component):
    """A service of the platform itself: the gateway or a microservice. It keeps no data of its own.

    ``health`` is asked on ``port`` and answers 200 when it is well. ``roll_back``: where neither a restart nor a
    redeployment helps, it may be made from the last image that was healthy, which the data must suit.
    """

    kind: Literal["service"] = "service"
    service: Text
    container: Text | None = None
    port: Port | None = None
    health: UrlPath | None = None
    roll_back: bool = False


class Endpoint(Frozen):
    """One RPC endpoint; the first of a chain's list is the primary, of several healthy ones the heaviest is taken."""

    url: Url
    weight: Count = 1


class ChainComponent(_Component):
    """A blockchain as the platform reaches it: by RPC endpoints, of which one stands in an environment variable.

    ``network`` is the network magic (Neo N3, ``getversion``) or the chain id (Neo X, ``eth_chainId``).
    """

    kind: Literal["chain"] = "chain"
    protocol: Literal["neo-n3", "evm"]
    network: Count
    variable: Annotated[str, StringConstraints(pattern=r"^[A-Z_][A-Z0-9_]*$")]
    endpoints: tuple[Endpoint, ...] = Field(min_length=1)
    max_lag_blocks: Count = 10
    max_latency: Duration = timedelta(seconds=2)
    service: Text | None = None


class PinnedContract(Frozen):
    """One contract and what it must be; a pin that is None is not compared."""

    name: Text
    hash: Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{40}$")]
    code_hash: Annotated[str, StringConstraints(pattern=r"^0x[0-9a-fA-F]{64}$")] | None = None


class ContractComponent(_Component):
    """Smart contracts. The chain keeps them, so recovery means proving that they are what is pinned."""

    kind: Literal["contract"] = "contract"
    store: Name = "contracts"
    contracts: tuple[PinnedContract, ...] = ()


class EnclaveComponent(_Component):
    """Intel SGX enclaves. Sealed data does not travel, so recovery means attestation, then provisioning anew."""

    kind: Literal["enclave"] = "enclave"
    service: Text | None = None
    mrsigner: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    mrenclave: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    simulation: bool = False


class ConfigurationComponent(_Component):
    """Configuration under version control; ``paths`` are what a restore brings back, relative to the checkout.

    Files, directories (all that is below) or globs. ``secret`` are those, among them or besides, that hold secrets:
    they leave this machine only sealed to the ``recipients`` (public age keys). ``identity`` is where the private key
    is, needed to restore and to prove the sets.
    """

    kind: Literal["configuration"] = "configuration"
    store: Name = "configuration"
    checkout: Path
    paths: tuple[Text, ...] = ()
    secret: tuple[Text, ...] = ()
    recipients: tuple[Text, ...] = ()
    identity: Secret | None = None
    backup: BackupPolicy | None = None


Component = Annotated[
    PostgresComponent
    | RedisComponent
    | ServiceComponent
    | ChainComponent
    | ContractComponent
    | EnclaveComponent
    | ConfigurationComponent,
    Field(discriminator="kind"),
]
