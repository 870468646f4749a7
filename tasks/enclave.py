"""An enclave on the stack: asked for a fresh quote, attested by it, and asked whether it has its secrets."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from recoup.errors import PreconditionError, RecoupError, first_line
from recoup.plan import EnclaveComponent, Plan
from recoup.plan_enclave import QuoteSource
from recoup.records import Check, Frozen, Outcome, Subject, now
from recoup.stacks import Stack
from tasks.enclave_fetch import Unanswered, ask, collateral_for, keep, quote_in
from tasks.enclave_quote import HOW_TO, NONCE_BYTES, Refused, Verified, checks, read_report, unable, verify
from tasks.step import note, step

DEVICE = "/dev/sgx_enclave"
_SIMULATION = "simulation mode, as the plan says: it proves nothing"
_PAUSE = 0.3


class Condition(StrEnum):
    """What an enclave was found to be."""

    DOWN = "its service does not run"
    SILENT = "its service gives no quote"
    SERVING = "its self-test passes, but its service gives no quote"
    REFUSED = "not what the plan pins, or not proven to be"
    WITHOUT_SECRETS = "attested, but its self-test fails"
    UNTESTED = "attested; the plan has no self-test that would tell whether it has its secrets"
    WELL = "attested, and its self-test passes"


class Attested(Frozen):
    """What attestation found, check by check; ``mrenclave`` and ``report_data`` are the quote's own, hexadecimal.

    ``passing``: there was no quote, and the service may only just have been started.
    """

    checks: tuple[Check, ...]
    simulation: bool = False
    mrenclave: str = ""
    report_data: str = ""
    passing: bool = False

    @property
    def accepted(self) -> bool:
        """Whether secrets may be given to it: all is proven, or nothing is wrong in a plan that says simulation."""
        bad = (Outcome.FAILED,) if self.simulation else (Outcome.FAILED, Outcome.UNPROVEN)
        return bool(self.mrenclave) and not any(check.outcome in bad for check in self.checks)

    @property
    def wrong(self) -> str:
        """What keeps it from being accepted, in one line."""
        found = [one for one in self.checks if one.outcome is Outcome.FAILED]
        found += [one for one in self.checks if one.outcome is Outcome.UNPROVEN and not self.simulation]
        return "; ".join(f"{one.name}: expected {one.expected}, seen {one.seen}" for one in found)

    def __str__(self) -> str:
        if not self.accepted:
            return self.wrong
        how = "simulation mode, unproven" if self.simulation else f"{len(self.checks)} checks passed"
        return f"MRENCLAVE {self.mrenclave[:16]}…: {how}"


class Tested(Frozen):
    """What the self-test found; no check where the plan has none."""

    checks: tuple[Check, ...] = ()

    @property
    def failed(self) -> bool:
        return any(one.outcome is Outcome.FAILED for one in self.checks)

    def __str__(self) -> str:
        wrong = [one for one in self.checks if one.outcome is not Outcome.PASSED]
        return "; ".join(f"{one.name}: {one.seen}" for one in wrong) or f"{len(self.checks)} checks passed"


class Diagnosis(Frozen):
    """The condition of an enclave, with what was seen."""

    condition: Condition
    seen: str

    def __str__(self) -> str:
        return f"{self.condition}: {self.seen}" if self.seen else f"{self.condition}"


@dataclass(frozen=True)
class Enclave:
    """An enclave of the plan that can be attested: the stack it is on, its service, where its quotes come from."""

    component: str
    spec: EnclaveComponent
    stack: Stack
    service: str
    source: QuoteSource

    @classmethod
    def of(cls, plan: Plan, stack: Stack, name: str | None = None) -> Enclave:
        """Give the named enclave, or the plan's only one; PreconditionError when it cannot be attested by the plan."""
        component, spec, service, source = attestable(plan, name)
        return cls(component, spec, stack, service, source)


def attestable(plan: Plan, name: str | None = None) -> tuple[str, EnclaveComponent, str, QuoteSource]:
    """Give the named enclave, or the only one, its service and where its quotes come from.

    Raises PreconditionError when the plan does not say these.
    """
    component, spec = plan.enclave(name)
    if spec.service is None or spec.quote is None:
        raise PreconditionError(
            f"the plan does not say how to attest {component}",
            next_step=f"in the plan give {component} service, quote, mrenclave or mrsigner, and collateral",
        )
    return component, spec, spec.service, spec.quote


def require_verifier() -> None:
    """Raise PreconditionError where this machine cannot verify quotes: then nothing can be said of any enclave."""
    if lacking := unable():
        raise PreconditionError(lacking, next_step=HOW_TO)


def unverifiable(enclave: Enclave) -> Attested | None:
    """Return what attestation comes to on a machine that cannot verify quotes: unproven; None where it can."""
    lacking = unable()
    return Attested(checks=(_quote(enclave, Outcome.UNPROVEN, f"{lacking}: {HOW_TO}"),)) if lacking else None


@step(timeout=timedelta(minutes=5))
def diagnose_enclave(enclave: Enclave) -> Diagnosis:
    """Find out how an enclave is: its service, its attestation, its self-test; changes nothing."""
    return look(enclave)


def look(enclave: Enclave) -> Diagnosis:
    """Say how an enclave is; changes nothing."""
    state = enclave.stack.state(enclave.service)
    if not state.running:
        return Diagnosis(condition=Condition.DOWN, seen=f"{enclave.service}: {state.status}")
    attested = attest(enclave)
    if not attested.mrenclave:
        tested = self_test(enclave)
        serving = bool(tested.checks) and not tested.failed
        return Diagnosis(condition=Condition.SERVING if serving else Condition.SILENT, seen=attested.wrong)
    if not attested.accepted:
        return Diagnosis(condition=Condition.REFUSED, seen=attested.wrong)
    tested = self_test(enclave)
    if not tested.checks:
        return Diagnosis(condition=Condition.UNTESTED, seen="")
    condition = Condition.WITHOUT_SECRETS if tested.failed else Condition.WELL
    return Diagnosis(condition=condition, seen=str(tested))


@step(timeout=timedelta(minutes=10))
def attest_enclave(enclave: Enclave) -> Attested:
    """Attest an enclave, whose service may have just been started: it has ``start_timeout`` to give a quote.

    What is wrong is in the checks, and raises nothing.
    """
    end = time.monotonic() + enclave.spec.start_timeout.total_seconds()
    while True:
        found = attest(enclave)
        if not found.passing or time.monotonic() > end:
            return found
        note(f"no quote yet: {found.wrong}")
        time.sleep(_PAUSE)


@step(timeout=timedelta(minutes=2))
def prove_enclave(enclave: Enclave) -> Tested:
    """Attest an enclave once more and call its self-test: what has the secrets now is what was attested before."""
    return Tested(checks=(*attest(enclave).checks, *(self_test(enclave).checks or (_untested(enclave),))))


def attest(enclave: Enclave, *, nonce: bytes | None = None, at: datetime | None = None) -> Attested:
    """Ask for a quote with a fresh nonce and hold it against the plan; what is wrong is in the checks.

    ``nonce`` (32 bytes) and ``at``, the moment that collateral must be valid at, are given by tests alone.
    """
    spec, nonce = enclave.spec, nonce or secrets.token_bytes(NONCE_BYTES)
    if lacking := unverifiable(enclave):
        return lacking
    try:
        quote = quote_in(_ask(enclave, enclave.source.path, nonce, enclave.source.patience))
        report = read_report(quote)
    except RecoupError as error:
        passing = not isinstance(error, Unanswered) or error.passing
        return Attested(checks=(_no_quote(enclave, error),), simulation=spec.simulation, passing=passing)
    found = _verified(spec, quote, at or now())
    return Attested(
        checks=checks(spec, enclave.component, report, nonce, found),
        simulation=spec.simulation,
        mrenclave=report.mrenclave,
        report_data=report.data,
    )


def self_test(enclave: Enclave) -> Tested:
    """Call the plan's self-test; no check where there is none."""
    test, name = enclave.spec.self_test, enclave.component
    if test is None:
        return Tested()
    try:
        answer = _ask(enclave, test.path, secrets.token_bytes(NONCE_BYTES), test.patience, test.port)
    except RecoupError as error:
        called = _check(enclave, f"{name}: self-test", Subject.STATUS, False, "status 200", first_line(error))
        return Tested(checks=(called,))
    called = _check(enclave, f"{name}: self-test", Subject.STATUS, True, "status 200", "status 200")
    return Tested(checks=(called, _proven(enclave, answer)))


def _proven(enclave: Enclave, answer: bytes) -> Check:
    """Compare what only an enclave with the right secrets can answer: the data check of an enclave."""
    test, what = enclave.spec.self_test, f"{enclave.component}: its secrets"
    if test is None or not test.proves:
        return _untested(enclave)
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        found = None
    told = found if isinstance(found, dict) else {}
    seen = {key: str(told[key])[:200] if key in told else "nothing" for key in test.proves}
    good = all(key in told and str(told[key]) == value for key, value in test.proves.items())
    return _check(enclave, what, Subject.DATA, good, _pairs(test.proves), _pairs(seen))


def _untested(enclave: Enclave) -> Check:
    return Check(
        name=f"{enclave.component}: its secrets",
        subject=Subject.DATA,
        outcome=Outcome.UNPROVEN,
        expected="an answer that only an enclave with the right secrets can give",
        seen="the plan names none (self_test.proves)",
    )


def _check(enclave: Enclave, name: str, subject: Subject, good: bool, expected: str, seen: str) -> Check:
    outcome = Outcome.FAILED if not good else Outcome.PASSED
    if good and enclave.spec.simulation:
        outcome, seen = Outcome.UNPROVEN, f"{seen}, in {_SIMULATION}"
    return Check(name=name, subject=subject, outcome=outcome, expected=expected, seen=seen)


def _ask(enclave: Enclave, path: str, nonce: bytes, patience: timedelta, port: int | None = None) -> bytes:
    asked = path.replace("{nonce}", nonce.hex())
    return ask(enclave.stack, enclave.service, port or enclave.source.port, asked, patience)


def _verified(spec: EnclaveComponent, quote: bytes, at: datetime) -> Verified | Refused:
    if spec.simulation:
        return Refused(_SIMULATION, judged=False)
    if spec.collateral is None:
        return Refused("the plan names no collateral to verify it with", judged=False)
    try:
        given = collateral_for(quote, spec.collateral)
    except RecoupError as error:
        return Refused(f"there is no collateral: {first_line(error)}", judged=False)
    found = verify(quote, given.text, at)
    if isinstance(found, Refused):
        return Refused(f"{found.why} [collateral: {given.source}]", found.judged)
    try:
        keep(given, spec.collateral.file)
    except RecoupError as error:
        # The next outage misses it, this one does not.
        note(first_line(error))
    return found


def _no_quote(enclave: Enclave, error: RecoupError) -> Check:
    seen = first_line(error)
    if isinstance(error, Unanswered) and not enclave.spec.simulation and _has_no_hardware(enclave):
        without = f"{seen}; it has no {DEVICE}: there is no SGX hardware, or the service was not given it"
        return _quote(enclave, Outcome.UNPROVEN, without)
    return _quote(enclave, Outcome.FAILED, seen)


def _quote(enclave: Enclave, outcome: Outcome, seen: str) -> Check:
    name = f"{enclave.component}: quote"
    return Check(name=name, subject=Subject.STATUS, outcome=outcome, expected="a fresh quote", seen=seen)


def _has_no_hardware(enclave: Enclave) -> bool:
    """Say whether the service surely lacks the device of SGX; where that cannot be told, not."""
    try:
        done = enclave.stack.execute(enclave.service, ("ls", DEVICE), timeout=timedelta(seconds=5), check=False)
    except RecoupError:
        return False
    return done.returncode != 0 and "No such file" in done.stderr


def _pairs(fields: dict[str, str]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in fields.items())
