"""What the plan is made of: the enclaves, what they must be, and how they are attested and provisioned again."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from recoup.plan_words import ComponentBase, Count, Duration, Port, Secret, Text, Url, UrlPath, VariableName
from recoup.records import Frozen

Measurement = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Short = Annotated[int, Field(strict=True, ge=0, le=65535)]
Advisory = Annotated[str, StringConstraints(pattern=r"^INTEL-SA-\d{5}$")]
# Intel's words (PCS API v4, "TCB info"), without Revoked: of such a processor the keys are known.
TcbStatus = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
]


# The variables in which the provisioning command is told what was attested: its measurement, its report data.
TOLD = ("RECOUP_MRENCLAVE", "RECOUP_REPORT_DATA")


class QuoteSource(Frozen):
    """Where the enclave's service gives a fresh quote: a GET of ``path`` on ``port``.

    ``{nonce}`` in the path is replaced by our nonce, 32 bytes as 64 hexadecimal digits, which the enclave puts at the
    beginning of its report data. The answer is the quote itself, or a JSON object that has it in base64 as ``quote``.
    """

    port: Port
    path: UrlPath = "/quote?nonce={nonce}"
    patience: Duration = timedelta(seconds=10)


class Collateral(Frozen):
    """Where Intel's word on processors comes from: a PCCS, or a file kept offline (JSON, as dcap-qvl writes it).

    With both the PCCS is asked, and what it gave is kept in the file for the day that it is away.
    """

    pccs: Url | None = None
    file: Path | None = None
    patience: Duration = timedelta(seconds=20)


class Shares(Frozen):
    """A secret in SLIP-39 shares, each a reference to its words; ``threshold`` of them are needed."""

    threshold: Count
    references: tuple[Secret, ...]


class Provisioning(Frozen):
    """The command, run in the enclave's service, that gives the enclave its secrets again.

    ``secret``, or what the ``shares`` give together, is fed to its standard input; ``environment`` are variables that
    are references. Of the attestation it is told in RECOUP_MRENCLAVE and RECOUP_REPORT_DATA, hexadecimal.
    """

    command: Annotated[tuple[Text, ...], Field(min_length=1)]
    secret: Secret | None = None
    shares: Shares | None = None
    environment: dict[VariableName, Secret] = Field(default_factory=dict)
    timeout: Duration = timedelta(minutes=1)


class SelfTest(Frozen):
    """A GET that the enclave's service answers with 200 when the enclave has what it needs.

    ``proves`` are fields of the JSON answer, and what they must be, that only an enclave with the right secrets can
    give: the fingerprint of a public key, say. ``{nonce}`` in the path is fresh each time.
    """

    path: UrlPath
    port: Port | None = None
    proves: dict[Text, Text] = Field(default_factory=dict)
    patience: Duration = timedelta(seconds=10)


class EnclaveComponent(ComponentBase):
    """Intel SGX enclaves. Sealed data does not travel, so recovery means attestation, then provisioning anew.

    An enclave is pinned by MRENCLAVE, or by MRSIGNER with its product id and least SVN. ``tcb`` and ``advisories`` are
    what of Intel's findings on the processor is put up with. ``simulation``: quotes that no hardware signed are taken,
    and prove nothing. ``start_timeout`` is how long the service may take to give a quote after a restart.
    """

    kind: Literal["enclave"] = "enclave"
    service: Text | None = None
    mrenclave: Measurement | None = None
    mrsigner: Measurement | None = None
    product_id: Short | None = None
    min_svn: Short | None = None
    tcb: Annotated[tuple[TcbStatus, ...], Field(min_length=1)] = ("UpToDate",)
    advisories: tuple[Advisory, ...] = ()
    simulation: bool = False
    quote: QuoteSource | None = None
    collateral: Collateral | None = None
    provision: Provisioning | None = None
    self_test: SelfTest | None = None
    start_timeout: Duration = timedelta(minutes=1)
