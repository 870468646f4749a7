"""A quote of an enclave (SGX DCAP, version 3): read, verified with dcap-qvl, held against what the plan pins.

Nothing of it is believed before the signature was verified: its own, the quoting enclave's, the PCK chain up to
Intel's root, with collateral of Intel's that is valid now.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel, ValidationError

from recoup.errors import RecoveryError, first_line
from recoup.plan import EnclaveComponent
from recoup.records import Check, Outcome, Subject

try:
    import dcap_qvl
except ImportError:
    # An extra: there is no wheel of it for every machine that runs the rest.
    dcap_qvl = None

HOW_TO = 'pip install -e ".[enclave]" in the checkout; on Linux arm64 it is built from source, with Rust'
# None: Intel's own root certificate, which dcap-qvl has built in.
ROOT: bytes | None = None
NONCE_BYTES = 32
_VERSION, _TEE_SGX, _DEBUG = 3, 0, 0x02
_REPORT = slice(48, 432)
# What dcap-qvl says where the collateral, and not the quote, keeps it from judging; it has no codes for its errors.
_STALE = ("TCBInfo expired", "QE Identity expired", "CrlExpired")
_TO_COME = ("issue date is in the future", "CertNotValidYet")
_OTHER = (
    "Fmspc mismatch",
    "Failed to parse root CA CRL",
    "TCB info in the collateral",
    "for tcb_info",
    "for qe_identity",
)
_UNREADABLE = ("Failed to decode TcbInfo", "Failed to decode QeIdentity", "Failed to parse CRL", "for TCB Info")


@dataclass(frozen=True)
class Report:
    """What an enclave's report says, of whatever worth; bytes as hexadecimal digits."""

    mrenclave: str
    mrsigner: str
    product_id: int
    svn: int
    debug: bool
    data: str


@dataclass(frozen=True)
class Verified:
    """What verification found: the processor's TCB status and the advisories that stand against it."""

    status: str
    advisories: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """Why a quote was not verified; ``judged`` False: it could not be, and it may be good or bad."""

    why: str
    judged: bool = True


class _Findings(BaseModel):
    status: str
    # No default: were it ever left out or named otherwise, every advisory would be put up with.
    advisory_ids: tuple[str, ...]


def unable() -> str:
    """Return why no quote can be verified on this machine; empty where nothing stands against it."""
    return "" if dcap_qvl else "the package dcap-qvl, which verifies quotes, is not installed here"


def brings_its_certificates(quote: bytes) -> bool:
    """Return whether a quote holds the certificates of its processor; raises ValueError for what is no quote."""
    return bool(dcap_qvl.parse_quote(quote).cert_chain_pem_bytes())


def read_report(quote: bytes) -> Report:
    """Give what a quote's report of the enclave says, unverified; RecoveryError for what is no SGX quote, version 3."""
    try:
        parsed = dcap_qvl.parse_quote(quote)
        header, report = parsed.header, parsed.report
    except ValueError as error:
        raise RecoveryError(f"what it gives is no quote: {_said(error)}") from None
    if header.version != _VERSION or header.tee_type != _TEE_SGX:
        kind = "SGX" if header.tee_type == _TEE_SGX else f"TEE type {header.tee_type:#x}"
        raise RecoveryError(f"what it gives is a quote of version {header.version} ({kind}), not of version 3 of SGX")
    # dcap-qvl tells product id and SVN only of a quote that it has verified. Offsets in the report: Intel SDM, 38.15.
    body = quote[_REPORT]
    return Report(
        mrenclave=report.mr_enclave.hex(),
        mrsigner=report.mr_signer.hex(),
        product_id=int.from_bytes(body[256:258], "little"),
        svn=int.from_bytes(body[258:260], "little"),
        debug=bool(report.attributes[0] & _DEBUG),
        data=report.report_data.hex(),
    )


def verify(quote: bytes, collateral: str, at: datetime) -> Verified | Refused:
    """Verify a quote as of a moment with collateral (JSON); gives what was found, or why it is not to be believed."""
    try:
        known = dcap_qvl.QuoteCollateralV3.from_json(collateral)
    except ValueError as error:
        return Refused(f"the collateral cannot be read: {_said(error)}", judged=False)
    seconds = int(at.timestamp())
    try:
        if ROOT is None:
            found = dcap_qvl.verify(quote, known, seconds)
        else:
            found = dcap_qvl.verify_with_root_ca(quote, known, ROOT, seconds)
        findings = _Findings.model_validate_json(found.to_json())
    except ValidationError as error:
        return Refused(f"the answer of dcap-qvl was not understood: {first_line(error)}", judged=False)
    except ValueError as error:
        return _refusal(_said(error), known)
    return Verified(findings.status, findings.advisory_ids)


def checks(
    spec: EnclaveComponent, name: str, report: Report, nonce: bytes, found: Verified | Refused
) -> tuple[Check, ...]:
    """Hold a quote against the plan: one check for each thing that must be so, with expected and seen.

    What an unverified quote says right is unproven; what it says wrong is a failure all the same.
    """
    return tuple(_checks(spec, name, report, nonce, found))


def _checks(
    spec: EnclaveComponent, name: str, report: Report, nonce: bytes, found: Verified | Refused
) -> Iterator[Check]:
    right = Outcome.PASSED if isinstance(found, Verified) else Outcome.UNPROVEN

    def check(what: str, good: bool, expected: object, seen: object, best: Outcome = right) -> Check:
        outcome = best if good else Outcome.FAILED
        return Check(
            name=f"{name}: {what}", subject=Subject.STATUS, outcome=outcome, expected=str(expected), seen=str(seen)
        )

    yield _signature(spec, name, found)
    yield check("fresh", report.data.startswith(nonce.hex()), f"our nonce {nonce.hex()}", _nonce_of(report))
    if spec.mrenclave is not None:
        yield check("MRENCLAVE", report.mrenclave == spec.mrenclave, spec.mrenclave, report.mrenclave)
    if spec.mrsigner is not None:
        yield check("MRSIGNER", report.mrsigner == spec.mrsigner, spec.mrsigner, report.mrsigner)
    if spec.product_id is not None:
        yield check("product id", report.product_id == spec.product_id, spec.product_id, report.product_id)
    if spec.min_svn is not None:
        yield check("SVN", report.svn >= spec.min_svn, f"{spec.min_svn} or higher", report.svn)
    if report.debug and spec.simulation:
        yield check("debug", True, "no debug enclave", "a debug enclave, in simulation", Outcome.UNPROVEN)
    else:
        yield check("debug", not report.debug, "no debug enclave", "a debug enclave" if report.debug else "none")
    if isinstance(found, Verified):
        yield check("TCB status", found.status in spec.tcb, " or ".join(spec.tcb), found.status)
        against = [one for one in found.advisories if one not in spec.advisories]
        allowed = f"none but {', '.join(spec.advisories)}" if spec.advisories else "none"
        yield check("advisories", not against, allowed, ", ".join(found.advisories) or "none")


def _signature(spec: EnclaveComponent, name: str, found: Verified | Refused) -> Check:
    if isinstance(found, Verified):
        outcome, seen = Outcome.PASSED, "verified"
    else:
        outcome, seen = (Outcome.FAILED if found.judged else Outcome.UNPROVEN), found.why
    expected = (
        "anything: the plan says simulation"
        if spec.simulation
        else "signed on a processor of Intel's, up to Intel's root"
    )
    return Check(name=f"{name}: signature", subject=Subject.STATUS, outcome=outcome, expected=expected, seen=seen)


def _nonce_of(report: Report) -> str:
    given = report.data[: 2 * NONCE_BYTES]
    return given if given.strip("0") else "no nonce in the report data"


def _refusal(said: str, known: dcap_qvl.QuoteCollateralV3) -> Refused:
    if any(words in said for words in _STALE):
        until = f", valid until {ends}" if (ends := _valid_until(known)) else ""
        return Refused(f"the collateral has expired{until} ({said}): have it fetched anew", judged=False)
    if "CertExpired" in said:
        return Refused(f"a certificate has expired, the collateral's or the processor's ({said})", judged=False)
    if any(words in said for words in _TO_COME):
        return Refused(
            f"the collateral is of a time still to come ({said}): is this machine's clock right?", judged=False
        )
    if any(words in said for words in _OTHER):
        return Refused(f"the collateral is not Intel's for this processor ({said})", judged=False)
    if any(words in said for words in _UNREADABLE):
        return Refused(f"the collateral cannot be read ({said})", judged=False)
    if "CertRevoked" in said or "invalid: Revoked" in said:
        return Refused(f"revoked by Intel: the keys of this processor are not to be trusted ({said})")
    if "Certificate chain is too short in quote" in said:
        return Refused("it has no certificates of a processor: made without SGX hardware, or in simulation mode")
    return Refused(f"not to be believed: {said}")


def _valid_until(known: dcap_qvl.QuoteCollateralV3) -> str:
    try:
        ends = [str(json.loads(one)["nextUpdate"]) for one in (known.tcb_info, known.qe_identity)]
    except (ValueError, KeyError, TypeError):
        return ""
    return min(ends)


def _said(error: ValueError) -> str:
    """Give what dcap-qvl says in one line, causes behind it."""
    return ": ".join(line.strip() for line in str(error).splitlines() if line.strip() not in ("", "Caused by:")).strip()
