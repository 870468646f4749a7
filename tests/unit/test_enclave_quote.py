"""What is believed of a quote: real samples, the same tampered with, and quotes of a processor that the tests made."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dcap_qvl
import pytest

from recoup.errors import RecoveryError
from recoup.plan import EnclaveComponent
from recoup.records import Check, Outcome
from tasks import enclave_quote
from tasks.enclave_quote import Refused, Verified, checks, read_report, verify
from tests.enclave_hardware import MRENCLAVE, MRSIGNER, PRODUCT, SVN, Hardware, simulated

DATA = Path(__file__).with_name("data") / "enclave"
QUOTE = (DATA / "sgx_quote").read_bytes()
COLLATERAL = (DATA / "sgx_quote_collateral.json").read_text(encoding="utf-8")
VALID = datetime(2025, 7, 1, tzinfo=UTC)
NONCE = b"Hello, world!".ljust(32, b"\0")
REAL = EnclaveComponent(
    tier="critical",
    mrenclave="33d8736db756ed4997e04ba358d27833188f1932ff7b1d156904d3f560452fbb",
    mrsigner="815f42f11cf64430c30bab7816ba596a1da0130c3b028b673133a66cf9a3e0e6",
    product_id=0,
    min_svn=0,
    tcb=("UpToDate", "ConfigurationAndSWHardeningNeeded"),
    advisories=("INTEL-SA-00289", "INTEL-SA-00615"),
)
MADE = EnclaveComponent(
    tier="critical", mrenclave=MRENCLAVE.hex(), mrsigner=MRSIGNER.hex(), product_id=PRODUCT, min_svn=SVN
)
FRESH = bytes(range(32))
# Where the fields of the quote are: "SGX ECDSA quote library reference", appendix A.4.
FIELDS = {
    "header: version": (0, 2),
    "header: kind of attestation key": (2, 4),
    "header: TEE type": (4, 8),
    "header: QE SVN": (8, 10),
    "header: PCE SVN": (10, 12),
    "header: QE vendor": (12, 28),
    "header: user data": (28, 48),
    "report: CPU SVN": (48, 64),
    "report: MISCSELECT": (64, 68),
    "report: reserved 1": (68, 96),
    "report: attributes": (96, 112),
    "report: MRENCLAVE": (112, 144),
    "report: reserved 2": (144, 176),
    "report: MRSIGNER": (176, 208),
    "report: reserved 3": (208, 304),
    "report: product id": (304, 306),
    "report: SVN": (306, 308),
    "report: reserved 4": (308, 368),
    "report: report data": (368, 432),
    "signature: of the report": (436, 500),
    "signature: attestation key": (500, 564),
    "signature: QE report": (564, 948),
    "signature: of the QE report": (948, 1012),
    "signature: size of the QE's data": (1012, 1014),
    "signature: the QE's data": (1014, 1046),
    "certification: kind": (1046, 1048),
    "certification: processor's certificate": (1090, 2700),
    "certification: CA's certificate": (2800, 3600),
}


def made(hardware: Hardware, **body: object) -> tuple[Check, ...]:
    """Give the checks of a quote of a processor that the tests made, the root being its own."""
    quote = hardware.quote(FRESH, **body)
    return checks(MADE, "vault", read_report(quote), FRESH, verify(quote, hardware.collateral(), hardware.at))


def is_believed(quote: bytes) -> bool:
    try:
        read_report(quote)
    except RecoveryError:
        return False
    return isinstance(verify(quote, COLLATERAL, VALID), Verified)


def wrong(found: tuple[Check, ...]) -> dict[str, Outcome]:
    return {one.name.removeprefix("vault: "): one.outcome for one in found if one.outcome is not Outcome.PASSED}


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> Hardware:
    return believed(monkeypatch, Hardware())


def believed(monkeypatch: pytest.MonkeyPatch, hardware: Hardware) -> Hardware:
    monkeypatch.setattr(enclave_quote, "ROOT", hardware.root)
    return hardware


def test_a_real_quote_is_verified_up_to_intels_root_and_is_what_is_pinned() -> None:
    found = verify(QUOTE, COLLATERAL, VALID)
    assert found == Verified("ConfigurationAndSWHardeningNeeded", ("INTEL-SA-00289", "INTEL-SA-00615"))
    all_of_them = checks(REAL, "vault", read_report(QUOTE), NONCE, found)
    assert wrong(all_of_them) == {}
    assert len(all_of_them) == 9


def test_a_processor_that_is_not_up_to_date_is_not_put_up_with_unless_the_plan_says_so() -> None:
    strict = REAL.model_copy(update={"tcb": ("UpToDate",), "advisories": ("INTEL-SA-00289",)})
    found = checks(strict, "vault", read_report(QUOTE), NONCE, verify(QUOTE, COLLATERAL, VALID))
    assert wrong(found) == {"TCB status": Outcome.FAILED, "advisories": Outcome.FAILED}
    told = {one.name: (one.expected, one.seen) for one in found}
    assert told["vault: TCB status"] == ("UpToDate", "ConfigurationAndSWHardeningNeeded")
    assert told["vault: advisories"] == ("none but INTEL-SA-00289", "INTEL-SA-00289, INTEL-SA-00615")


@pytest.mark.parametrize("field", FIELDS)
def test_a_real_quote_with_a_changed_field_is_refused(field: str) -> None:
    certificate = field.startswith("certification:")
    for place in range(*FIELDS[field]):
        # A line's end in a certificate is a matter of how it is written, as which it reads the same.
        if certificate and QUOTE[place] == ord("\n"):
            continue
        changed = bytearray(QUOTE)
        changed[place] ^= 1 << place % 8
        assert not is_believed(bytes(changed)), f"byte {place}"


def test_what_may_be_changed_in_a_quote_changes_nothing_that_is_believed() -> None:
    """The copy of Intel's root in a quote is signed by nobody, and nobody believes it."""
    before = verify(QUOTE, COLLATERAL, VALID), read_report(QUOTE)
    for place in range(432, len(QUOTE), 37):
        changed = bytearray(QUOTE)
        changed[place] ^= 0x01
        try:
            found = verify(bytes(changed), COLLATERAL, VALID), read_report(bytes(changed))
        except RecoveryError:
            continue
        assert found == before or isinstance(found[0], Refused), f"byte {place}"


def test_another_quotes_signature_is_not_taken(hardware: Hardware) -> None:
    one, other = hardware.quote(FRESH), hardware.quote(bytes(32))
    grafted = one[:432] + other[432:]
    found = verify(grafted, hardware.collateral(), hardware.at)
    assert isinstance(found, Refused)
    assert found.judged
    assert "signature is invalid" in found.why


@pytest.mark.parametrize(
    ("at", "why"),
    [
        (datetime(2025, 7, 20, tzinfo=UTC), "the collateral has expired, valid until 2025-07-19T10:01:18Z"),
        (datetime(2026, 11, 25, tzinfo=UTC), "the collateral has expired, valid until 2025-07-19T10:01:18Z"),
        (datetime(2060, 1, 1, tzinfo=UTC), "expired"),
        (datetime(2025, 6, 1, tzinfo=UTC), "the collateral is of a time still to come"),
    ],
)
def test_collateral_of_another_time_leaves_a_good_quote_unproven(at: datetime, why: str) -> None:
    found = verify(QUOTE, COLLATERAL, at)
    assert isinstance(found, Refused)
    assert not found.judged
    assert why in found.why
    left = wrong(checks(REAL, "vault", read_report(QUOTE), NONCE, found))
    assert set(left.values()) == {Outcome.UNPROVEN}
    assert "signature" in left


@pytest.mark.parametrize("collateral", ["", "[]", "{}", "\0", "{" * 10_000, COLLATERAL[:9000], COLLATERAL * 2])
def test_collateral_that_cannot_be_read_judges_nothing(collateral: str) -> None:
    found = verify(QUOTE, collateral, VALID)
    assert isinstance(found, Refused)
    assert not found.judged
    assert "collateral cannot be read" in found.why


@pytest.mark.parametrize("change", ["tcb_info", "qe_identity"])
def test_collateral_that_somebody_changed_is_not_intels(change: str) -> None:
    changed = COLLATERAL.replace("SWHardeningNeeded", "UpToDate", 1) if change == "tcb_info" else COLLATERAL
    if change == "qe_identity":
        place = COLLATERAL.index("isvsvn", COLLATERAL.index('"qe_identity"')) + len('isvsvn\\":')
        changed = COLLATERAL[:place] + str((int(COLLATERAL[place]) + 1) % 10) + COLLATERAL[place + 1 :]
    assert changed != COLLATERAL
    found = verify(QUOTE, changed, VALID)
    assert isinstance(found, Refused)
    assert not found.judged
    assert "not Intel's" in found.why


def test_a_made_processor_is_as_good_as_its_root(hardware: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wrong(made(hardware)) == {}
    monkeypatch.setattr(enclave_quote, "ROOT", None)
    assert wrong(made(hardware))["signature"] is Outcome.UNPROVEN
    believed(monkeypatch, Hardware())
    assert "signature" in wrong(made(hardware))


@pytest.mark.parametrize(
    ("body", "check", "expected", "seen"),
    [
        ({"mrenclave": bytes(32)}, "MRENCLAVE", MRENCLAVE.hex(), "00" * 32),
        ({"mrsigner": bytes(32)}, "MRSIGNER", MRSIGNER.hex(), "00" * 32),
        ({"product": PRODUCT + 1}, "product id", str(PRODUCT), str(PRODUCT + 1)),
        ({"svn": SVN - 1}, "SVN", f"{SVN} or higher", str(SVN - 1)),
    ],
)
def test_a_good_quote_of_another_enclave_is_told_by_its_pin(
    hardware: Hardware, body: dict[str, object], check: str, expected: str, seen: str
) -> None:
    found = made(hardware, **body)
    assert wrong(found) == {check: Outcome.FAILED}
    assert [(one.expected, one.seen) for one in found if one.name == f"vault: {check}"] == [(expected, seen)]


def test_a_higher_svn_is_as_good(hardware: Hardware) -> None:
    assert wrong(made(hardware, svn=SVN + 300)) == {}


def test_a_debug_enclave_is_refused_though_its_quote_is_signed(hardware: Hardware) -> None:
    found = wrong(made(hardware, debug=True))
    assert (found["debug"], found["signature"]) == (Outcome.FAILED, Outcome.FAILED)


def test_a_debug_enclave_is_put_up_with_in_simulation_alone() -> None:
    quote = simulated(FRESH, debug=True)
    found = Refused("simulation", judged=False)
    for simulation, outcome in ((True, Outcome.UNPROVEN), (False, Outcome.FAILED)):
        spec = MADE.model_copy(update={"simulation": simulation})
        assert wrong(checks(spec, "vault", read_report(quote), FRESH, found))["debug"] is outcome


def test_an_old_quote_is_told_by_its_nonce(hardware: Hardware) -> None:
    quote = hardware.quote(FRESH)
    asked = bytes(reversed(FRESH))
    found = checks(MADE, "vault", read_report(quote), asked, verify(quote, hardware.collateral(), hardware.at))
    assert wrong(found) == {"fresh": Outcome.FAILED}
    (fresh,) = (one for one in found if one.name == "vault: fresh")
    assert (fresh.expected, fresh.seen) == (f"our nonce {asked.hex()}", FRESH.hex())


@pytest.mark.parametrize(
    ("hardware_of", "check", "why"),
    [
        (Hardware(tcb_status="OutOfDate"), "TCB status", "OutOfDate"),
        (Hardware(advisories=("INTEL-SA-00001",)), "advisories", "INTEL-SA-00001"),
        (Hardware(tcb_status="Revoked"), "signature", "revoked by Intel"),
        (Hardware(revoked=True), "signature", "revoked by Intel"),
    ],
    ids=["out of date", "advisory", "TCB revoked", "certificate revoked"],
)
def test_a_processor_that_intel_warns_of_is_refused(
    hardware_of: Hardware, check: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = made(believed(monkeypatch, hardware_of))
    assert wrong(found)[check] is Outcome.FAILED
    assert any(why in one.seen for one in found if one.name == f"vault: {check}")


def test_collateral_of_another_processor_judges_nothing(hardware: Hardware, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.enclave_hardware.FMSPC", bytes(6))
    found = verify(hardware.quote(FRESH), hardware.collateral(), hardware.at)
    assert isinstance(found, Refused)
    assert not found.judged
    assert "not Intel's for this processor" in found.why


def test_collateral_that_runs_out_is_good_to_the_last_moment(hardware: Hardware) -> None:
    quote, collateral = hardware.quote(FRESH), hardware.collateral()
    last = hardware.at + hardware.lasts
    assert isinstance(verify(quote, collateral, last - timedelta(minutes=1)), Verified)
    assert isinstance(verify(quote, collateral, last + timedelta(minutes=1)), Refused)


def test_a_quote_that_nobody_signed_is_refused_where_the_plan_does_not_say_simulation() -> None:
    found = verify(simulated(FRESH), COLLATERAL, VALID)
    assert isinstance(found, Refused)
    assert found.judged
    assert "without SGX hardware" in found.why


def test_a_simulated_quote_is_never_passed() -> None:
    spec = MADE.model_copy(update={"simulation": True})
    found = checks(spec, "vault", read_report(simulated(FRESH)), FRESH, Refused("simulation", judged=False))
    assert {one.outcome for one in found} == {Outcome.UNPROVEN}
    other = read_report(simulated(FRESH, mrsigner=bytes(32)))
    assert wrong(checks(spec, "vault", other, FRESH, Refused("simulation", judged=False)))["MRSIGNER"] is Outcome.FAILED


def test_a_quote_of_a_virtual_machine_is_not_one_of_an_enclave() -> None:
    with pytest.raises(RecoveryError, match="version 4"):
        read_report((DATA / "tdx_quote").read_bytes())


def test_rubbish_is_no_quote_and_no_accident() -> None:
    chance = random.Random(5)
    samples = [b"", b"<html>busy</html>", b"{}", bytes(10_000), b"\xff" * 5000, QUOTE[:-1][:2000]]
    samples += [QUOTE[: chance.randrange(len(QUOTE))] for _ in range(200)]
    for _ in range(300):
        changed = bytearray(QUOTE)
        for _ in range(chance.randrange(1, 60)):
            # Beyond that lies the copy of the root, which nobody believes.
            changed[chance.randrange(3600)] ^= chance.randrange(1, 256)
        samples.append(bytes(changed))
    assert [sample for sample in samples if is_believed(sample)] == []


class _Silent:
    """What a later dcap-qvl may give, which calls the advisories otherwise."""

    def to_json(self) -> str:
        return '{"status": "UpToDate", "advisoryIds": ["INTEL-SA-00615"]}'


def test_advisories_that_are_not_told_are_not_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcap_qvl, "verify", lambda *_: _Silent())
    found = verify(QUOTE, COLLATERAL, VALID)
    assert isinstance(found, Refused)
    assert not found.judged
