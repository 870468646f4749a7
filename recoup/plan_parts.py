"""What the plan is made of, first part: how durations, names and secrets are written, and everything that runs."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, StringConstraints, WithJsonSchema

from recoup.records import Frozen
from recoup.secrets import SecretRef

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_DURATION = re.compile(r"(?:\d{1,9}(?:ms|[smhd]))+")
_PART = re.compile(r"(\d+)(ms|[smhd])")
_NUMBER = re.compile(r"[+-]?[\d._:]+")
UNIT_MISSING = "unit missing"


def parse_duration(value: object) -> timedelta:
    """Give the duration of a text such as ``15m``, ``1h30m``, ``0m`` or ``500ms``; ValueError for anything else."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("not a duration; write a number with its unit, such as 15m, 1h, 2d or 500ms")
    text = str(value).strip()
    if _NUMBER.fullmatch(text):
        raise ValueError(f"{UNIT_MISSING}: {text} of what? write it with s, m, h or d, such as {text.strip('+-')}m")
    if not _DURATION.fullmatch(text):
        raise ValueError("not a duration; write a number with its unit, such as 15m, 1h, 2d or 500ms")
    return sum((int(number) * _UNITS[unit] for number, unit in _PART.findall(text)), timedelta())


def write_duration(value: timedelta) -> str:
    """Give the shortest text that ``parse_duration`` reads back to the same duration, to the millisecond."""
    for unit in ("d", "h", "m", "s"):
        if value and value % _UNITS[unit] == timedelta():
            return f"{value // _UNITS[unit]}{unit}"
    return f"{value // _UNITS['ms']}ms" if value else "0m"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(write_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^(\d{1,9}(ms|[smhd]))+$", "examples": ["15m", "1h", "0m", "1d"]}),
]
# The default handling would let an editor accept a password; the schema says the same as the validator does.
Secret = Annotated[
    SecretRef,
    WithJsonSchema(
        {"type": "string", "pattern": "^(env:|file:/|dotenv:/)", "description": "where the secret is, never the secret"}
    ),
]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+\S*$")]
UrlPath = Annotated[str, StringConstraints(pattern=r"^/\S*$")]
Tier = Literal["critical", "non-critical"]
Number = Annotated[int, Field(strict=True, ge=0)]
Size = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,6}(MB|GB|TB)$")]


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
    """A service of the platform itself: the gateway or a microservice. It keeps no data of its own."""

    kind: Literal["service"] = "service"
    service: Text
    container: Text | None = None
    port: Port | None = None
    health: UrlPath | None = None


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


class DirectoryCopy(Frozen):
    """Another directory that every backup set is copied to, such as a mounted disk; ``offsite``: it is elsewhere.

    ``removes``: see S3Copy.
    """

    kind: Literal["directory"] = "directory"
    name: Name
    path: Path
    offsite: bool = False
    removes: bool = True
    recipients: tuple[Text, ...] = ()
    identity: Secret | None = None


class S3Copy(Frozen):
    """A bucket that every backup set is copied to; ``endpoint`` None: AWS itself.

    ``recipients`` are the public age keys the sets are encrypted to before they leave this machine, ``identity`` where
    the private key is, needed to restore only and so held apart. ``lock``: how long Object Lock (COMPLIANCE) forbids
    anybody to delete what was copied. ``removes`` false: this host may not remove anything there, so retention is only
    applied by ``recoup backup prune``, run with other rights.
    """

    kind: Literal["s3"] = "s3"
    name: Name
    bucket: Text
    prefix: str = ""
    endpoint: Url | None = None
    region: Text = "us-east-1"
    access_key: Secret | None = None
    secret_key: Secret | None = None
    kms_key: Text | None = None
    lock: Duration | None = None
    offsite: bool = True
    removes: bool = True
    recipients: tuple[Text, ...] = ()
    identity: Secret | None = None


Copy = Annotated[DirectoryCopy | S3Copy, Field(discriminator="kind")]


class ComposeSite(Frozen):
    """A stack run by Docker Compose: the platform's own files, used as they are."""

    kind: Literal["compose"] = "compose"
    file: Path
    project: Name
    env_file: Path | None = None
    overrides: tuple[Path, ...] = ()


class ProcessSite(Frozen):
    """A stack of plain child processes, described by the ``stack.json`` in ``directory``."""

    kind: Literal["process"] = "process"
    directory: Path


class Login(Frozen):
    """How a user logs in; ``token_field`` is the key of the answer that holds the token."""

    path: UrlPath
    username: Secret
    password: Secret
    token_field: Text = "token"


class Request(Frozen):
    """One request of the user-level check. ``{unique}`` in path and body is a fresh id per run.

    ``status`` is the HTTP status expected, ``contains`` the keys the JSON answer must have, ``login`` says that
    it is made as a logged-in user.
    """

    name: Text
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]
    path: UrlPath
    body: dict[str, str] | None = None
    status: Annotated[int, Field(strict=True, ge=100, le=599)] = 200
    login: bool = False
    timeout: Duration = timedelta(seconds=5)
    contains: tuple[Text, ...] = ()


class Gateway(Frozen):
    """The door users come through. ``url`` None: the stack is asked where it is."""

    component: Name
    port: Port
    url: Url | None = None
    health: UrlPath
    verify_tls: bool = True
    login: Login | None = None
    requests: tuple[Request, ...] = ()


class Platform(Frozen):
    """What is to be recovered. ``state`` holds ledger, journals and lease; ``repository`` the backup sets.

    ``scratch`` has room for a whole database: restore tests are made there.
    """

    name: Name
    address: Url | None = None
    stack: Annotated[ComposeSite | ProcessSite, Field(discriminator="kind")]
    state: Path = Path("/var/lib/recoup")
    repository: Path
    scratch: Path = Path("/var/tmp")
    copies: tuple[Copy, ...] = ()
    gateway: Gateway
