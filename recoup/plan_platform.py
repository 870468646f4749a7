"""What the plan is made of, second part: the platform, where it runs, its copies and its door."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from recoup.plan_release import Release
from recoup.plan_words import Duration, Name, Number, Port, Secret, Text, Url, UrlPath, VariableName
from recoup.records import Frozen


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
    """A stack of plain child processes, described by the ``stack.json`` in ``directory``.

    ``code``: the services' programs are taken from there, and not from where the description has them.
    """

    kind: Literal["process"] = "process"
    directory: Path
    code: Path | None = None


class Login(Frozen):
    """How a user logs in; ``token_field`` is the key of the answer that holds the token."""

    path: UrlPath
    username: Secret
    password: Secret
    token_field: Text = "token"


JsonType = Literal["string", "number", "integer", "boolean", "object", "array", "null"]


class Request(Frozen):
    """One request of the user-level check. ``{unique}`` in path and body is a fresh id per run.

    ``status`` is the HTTP status expected, ``contains`` the keys the JSON answer must have, ``shape`` the types of
    keys, ``within`` the longest it may take, ``login`` says that it is made as a logged-in user. It is made when those
    named in ``after`` have passed; where none is named, after every earlier one that writes or has the same path.
    """

    name: Text
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]
    path: UrlPath
    body: dict[str, str] | None = None
    status: Annotated[int, Field(strict=True, ge=100, le=599)] = 200
    login: bool = False
    timeout: Duration = timedelta(seconds=5)
    contains: tuple[Text, ...] = ()
    shape: dict[Text, JsonType] | None = None
    within: Duration | None = None
    after: tuple[Text, ...] | None = None


class Gateway(Frozen):
    """The door users come through. ``url`` None: the stack is asked where it is. ``ca``: what alone signs its TLS."""

    component: Name
    port: Port
    url: Url | None = None
    health: UrlPath
    verify_tls: bool = True
    ca: Path | None = None
    login: Login | None = None
    requests: tuple[Request, ...] = ()


class Monitoring(Frozen):
    """Who watches the platform: the address of its Prometheus, as this machine reaches it."""

    prometheus: Url


class Certificates(Frozen):
    """How many days a certificate must still be valid to pass the checklist."""

    min_days: Number = 14


class Terraform(Frozen):
    """The Terraform root that makes what the platform runs on; its own files say what, and where its state is.

    ``var_file`` and ``backend`` (settings of the back end) are files, relative to the root; ``plugins`` a directory of
    providers for a host that reaches no registry. ``secrets`` become TF_VAR_… in Terraform's environment, by name.
    ``timeout`` is how long an apply may take.
    """

    root: Path
    var_file: Path | None = None
    backend: Path | None = None
    plugins: Path | None = None
    program: Text = "terraform"
    secrets: dict[VariableName, Secret] = Field(default_factory=dict)
    timeout: Duration = timedelta(hours=1)


class Platform(Frozen):
    """What is to be recovered. ``state`` holds ledger, journals and lease; ``repository`` the backup sets.

    ``scratch`` has room for a whole database: restore tests are made there. ``version`` is what is deployed on a new
    host: a Compose file reads it as PLATFORM_VERSION.
    """

    name: Name
    address: Url | None = None
    stack: Annotated[ComposeSite | ProcessSite, Field(discriminator="kind")]
    state: Path = Path("/var/lib/recoup")
    repository: Path
    scratch: Path = Path("/var/tmp")
    copies: tuple[Copy, ...] = ()
    terraform: Terraform | None = None
    version: Text | None = None
    release: Release | None = None
    gateway: Gateway
    monitoring: Monitoring | None = None
    certificates: Certificates = Certificates()
