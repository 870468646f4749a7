"""Enclaves: attest, and only then give the secrets again; what was sealed on another processor is never waited for."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.database import When
from flows.procedure import Run, conduct
from flows.request import Outage, require_recovered
from recoup.errors import RecoveryError
from recoup.places import ledger_path
from recoup.plan import Plan, load_plan
from recoup.records import Outcome, RecoveryRecord
from recoup.stacks import open_stack
from tasks.enclave import (
    Attested,
    Condition,
    Diagnosis,
    Enclave,
    attest_enclave,
    attestable,
    diagnose_enclave,
    look,
    prove_enclave,
    require_verifier,
    unverifiable,
)
from tasks.enclave_provision import provision_enclave
from tasks.enclave_quote import HOW_TO
from tasks.services import restart_services, services_of, start_services
from tasks.smoke import check_as_user

USER_DEADLINE = timedelta(seconds=60)
# The plan has no scenario of enclaves alone: a lost processor is a lost part of the infrastructure.
SCENARIO = "platform"
LACKING = (Condition.WITHOUT_SECRETS, Condition.UNTESTED)


class EnclaveRecovery(Outage):
    """Which enclave to recover, and what is known of the outage."""

    component: str = Field("", description="The enclave component of the plan; empty: the only one")
    provision: When = Field(When.IF_NEEDED, description="'always' gives the secrets again though the self-test passes")


@flow(name="recover-enclave", log_prints=False)
def recover_enclave(request: EnclaveRecovery) -> RecoveryRecord:
    """Recover an enclave and give the record; raises RecoveryError when the verdict is not ``recovered``."""
    plan = load_plan(request.plan)
    record = run_enclave_recovery(plan, request, ledger=ledger_path(plan))
    require_recovered(record)
    return record


def run_enclave_recovery(
    plan: Plan,
    request: EnclaveRecovery,
    *,
    ledger: Path,
    fault: str | None = None,
    declared: datetime | None = None,
    afterwards: Callable[[Run], None] | None = None,
) -> RecoveryRecord:
    """Run the enclave's procedure and give its record, which is in the ledger."""
    component = attestable(plan, request.component or None)[0]
    require_verifier()
    job = request.job(
        plan,
        "enclave",
        component,
        ledger,
        same={"component", "provision"},
        scenario=SCENARIO,
        fault=fault,
        declared=declared,
    )
    return conduct(job, lambda run: recover_secrets(run, request), afterwards=afterwards)


def recover_secrets(run: Run, request: EnclaveRecovery, *, alone: bool = True) -> None:
    """Attest the enclave, provision it where it lacks its secrets, and prove both.

    Not ``alone``: whoever runs this as a part of more sees to the services around it and to the users.
    """
    plan, step = run.job.plan, run.steps.step
    enclave = Enclave.of(plan, run.stack, run.job.component)
    if lacking := unverifiable(enclave):
        # As a part of a rebuild: nothing is done to an enclave of which nothing can be said.
        _refuse(run, enclave, lacking)
        run.next_step = f"{HOW_TO}; then recoup recover enclave --component {enclave.component}"
        return
    # 1 how it is; looked at anew by a resumed run: an enclave that was restarted since has forgotten all
    found = step("Diagnose the enclave", diagnose_enclave, enclave, fresh=True)
    # 2 a service that is down or gives no quote is started; one that serves is not, as it would lose what it has
    if found.condition in (Condition.DOWN, Condition.SILENT):
        act = start_services if found.condition is Condition.DOWN else restart_services
        step("Start the enclave's service", act, run.stack, (enclave.service,), name="start-enclave", fresh=True)
    # 3 attest, with a nonce of now: what an earlier attempt attested may be gone
    attested = step("Attest the enclave", attest_enclave, enclave, fresh=True)
    if not attested.accepted:
        _refuse(run, enclave, attested)
        return
    if enclave.spec.simulation:
        run.steps.watcher.note(f"{enclave.component} is attested in simulation mode, which proves nothing")
    # 4 only what was attested is provisioned, and only where it has not brought its secrets back by itself
    if request.provision is When.ALWAYS or _lacks(run, enclave, found):
        step("Give the enclave its secrets", provision_enclave, enclave, attested, fresh=True)
    # 5 start dependents
    if alone:
        dependents = services_of(plan, plan.dependents(run.job.component))
        step("Start the dependent services", start_services, run.stack, tuple(reversed(dependents)), fresh=True)
    # 6 the same enclave, now with its secrets
    run.checks.extend(step("Attest it again and test it", prove_enclave, enclave, fresh=True).checks)
    # 7 the user-level check through the gateway
    if alone:
        user = step("Check as a user, through the gateway", check_as_user, plan, run.stack, USER_DEADLINE, fresh=True)
        run.checks.extend(user.checks)
        run.mark("restored", user.restored)
    if enclave.spec.simulation:
        run.next_step = "simulation proves nothing: on the host with SGX say simulation: false, and run it again"
    elif any(check.outcome is not Outcome.PASSED for check in run.checks):
        run.next_step = (
            "see to what the check names; to give the secrets again: recoup recover enclave --provision always"
        )


def preview(plan: Plan, request: EnclaveRecovery) -> tuple[str, ...]:
    """Look at the enclave and give, line by line, what a recovery would do; changes nothing, gives nothing away."""
    # Said before the stack is looked for, which may not be there.
    component = attestable(plan, request.component or None)[0]
    require_verifier()
    enclave = Enclave.of(plan, open_stack(plan), component)
    found = look(enclave)
    lines = [f"{enclave.component}: {found}"]
    if found.condition in (Condition.REFUSED, Condition.SERVING):
        return (*lines, "it would be given nothing")
    if found.condition in (Condition.DOWN, Condition.SILENT):
        verb = "start" if found.condition is Condition.DOWN else "restart"
        lines += [f"{verb} {enclave.service}, ask it for a quote with a fresh nonce, and hold that against the plan"]
    if request.provision is When.IF_NEEDED and found.condition is Condition.WELL:
        return (*lines, "nothing would be given to it; the gateway would be checked")
    provision = enclave.spec.provision
    if provision is None:
        return (*lines, "the plan has no command to give it its secrets: if it lacks them, the run would end there")
    source = "nothing" if provision.secret is None else provision.secret
    if provision.shares:
        source = f"{provision.shares.threshold} of {len(provision.shares.references)} shares put together"
    when = "" if request.provision is When.ALWAYS else ", if its self-test fails or there is none"
    return (
        *lines,
        f"run in {enclave.service}, once it is attested{when}: {' '.join(provision.command)}",
        f"  on its standard input: {source}; variables: {', '.join(provision.environment) or 'none'}",
        "attest it again, call its self-test, make the plan's requests through the gateway",
    )


def _lacks(run: Run, enclave: Enclave, found: Diagnosis) -> bool:
    # Whatever kept it from being attested then is over now: whether it has its secrets was not seen yet.
    if found.condition not in (Condition.WELL, *LACKING):
        found = run.steps.step("Look again", diagnose_enclave, enclave, name="diagnose-enclave-again", fresh=True)
    if found.condition is Condition.UNTESTED and enclave.spec.provision is None:
        return False
    return found.condition in LACKING


def _refuse(run: Run, enclave: Enclave, attested: Attested) -> None:
    """Say that it is given nothing: raises RecoveryError, but where it could not be looked at, which is unproven."""
    run.checks.extend(attested.checks)
    run.state_left = "nothing was given to the enclave"
    run.next_step = "see to what the check names; what the plan pins and allows is changed only by who knows why"
    if any(check.outcome is Outcome.FAILED for check in attested.checks):
        raise RecoveryError(f"{enclave.component} is not attested: {attested.wrong}")
