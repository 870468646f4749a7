"""What the plan is made of, first part: everything that runs, and how it is backed up."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from recoup.plan_chain import ChainComponent, ContractComponent
from recoup.plan_enclave import EnclaveComponent
from recoup.plan_words import ComponentBase, Count, Duration, Name, Number, Port, Secret, Size, Text, UrlPath
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


class PostgresComponent(ComponentBase):
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


class RedisComponent(ComponentBase):
    """A Redis cache. ``replica``, where there is one, is the freshest source of a restore; it is no backup."""

    kind: Literal["redis"] = "redis"
    service: Text
    container: Text | None = None
    port: Port = 6379
    password: Secret | None = None
    store: Name = "redis"
    backup: BackupPolicy | None = None
    replica: RedisReplica | None = None


class ServiceComponent(ComponentBase):
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


class ConfigurationComponent(ComponentBase):
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
