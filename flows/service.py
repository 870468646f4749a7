"""Service outage: find the cause, keep the logs, restart, redeploy, roll back, and prove it through the gateway."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from prefect import Task, flow
from pydantic import Field

from flows.database import DatabaseRecovery, run_recovery
from flows.enclave import EnclaveRecovery, run_enclave_recovery
from flows.procedure import Run, conduct
from flows.redis_store import RedisRecovery, run_redis_recovery
from flows.request import Outage, require_recovered
from recoup.causes import Ailment, Seen, free_of, rests_on, waves
from recoup.errors import RecoveryError
from recoup.places import ledger_path
from recoup.plan import EnclaveComponent, Plan, PostgresComponent, RedisComponent, ServiceComponent, load_plan
from recoup.records import Outcome, RecoveryRecord
from tasks.images import short
from tasks.service_data import check_stores
from tasks.service_logs import keep_logs
from tasks.service_look import Identified, asked_for, check_services, depends_on, diagnose_services, is_store, running
from tasks.service_treatment import Treated, redeploy_service, restart_service, roll_back_service
from tasks.smoke import check_as_user

USER_DEADLINE = timedelta(seconds=60)
# What a Redis that is merely down or slow has; anything else is a matter of its data.
MERELY_DOWN = (Ailment.DOWN, Ailment.LOOPING, Ailment.REFUSING, Ailment.STARTING)


class ServiceRecovery(Outage):
    """Which services to recover, and what is known of the outage."""

    services: tuple[str, ...] = Field((), description="Components or services by name; empty: all that are not well")


@dataclass
class HandOver:
    """The store or enclave that is the cause, and whose procedure recovers it; empty: nothing is handed over."""

    component: str = ""
    procedure: str = ""
    seen: str = ""


@flow(name="recover-service", log_prints=False)
def recover_service(request: ServiceRecovery) -> RecoveryRecord:
    """Recover failed services and give the last record; raises RecoveryError when its verdict is not ``recovered``."""
    plan = load_plan(request.plan)
    record = run_service_recovery(plan, request, ledger=ledger_path(plan))
    require_recovered(record)
    return record


def run_service_recovery(
    plan: Plan,
    request: ServiceRecovery,
    *,
    ledger: Path,
    fault: str | None = None,
    declared: datetime | None = None,
    afterwards: Callable[[Run], None] | None = None,
) -> RecoveryRecord:
    """Run the service procedure and give its record, which is in the ledger.

    Where the cause is a store or an enclave, the record says so, and its own procedure is run under a lease of its own:
    that one's record is given then, and it is the one that says whether the platform is back.
    """
    named = asked_for(plan, request.services)
    job = request.job(
        plan,
        "service",
        ",".join(named) or "services",
        ledger,
        same={"services"},
        fault=fault,
        declared=declared,
        covers=named or running(plan),
    )
    over = HandOver()
    record = conduct(
        job,
        lambda run: _procedure(run, named, over),
        afterwards=lambda run: afterwards(run) if afterwards and not over.procedure else None,
    )
    if not over.procedure:
        return record
    known = {"plan": request.plan, "component": over.component, "began": request.began, "fresh": request.fresh}
    reason = "; ".join(filter(None, (request.reason, f"handed over by run {record.run_id}: {over.seen}")))
    known |= {"began_source": request.began_source, "reason": reason}
    if over.procedure == "database":
        asked = DatabaseRecovery.model_validate(known)
        return run_recovery(plan, asked, ledger=ledger, fault=fault, declared=declared, afterwards=afterwards)
    if over.procedure == "enclave":
        lost = EnclaveRecovery.model_validate(known)
        return run_enclave_recovery(plan, lost, ledger=ledger, fault=fault, declared=declared, afterwards=afterwards)
    wanted = RedisRecovery.model_validate(known)
    return run_redis_recovery(plan, wanted, ledger=ledger, fault=fault, declared=declared, afterwards=afterwards)


def _procedure(run: Run, named: tuple[str, ...], over: HandOver) -> None:
    plan, step, rests = run.job.plan, run.steps.step, depends_on(run.job.plan)
    # What was found holds once the logs are kept: from then on services are restarted, and look otherwise.
    anew = run.steps.done_before(keep_logs) is None
    # 1 identify the failed services: state, restart loop, hang, an unhealthy dependency; the cause is what is handled
    found = step("Identify the failed services", diagnose_services, plan, run.stack, running(plan), fresh=anew)
    in_order = waves(rests, failed_of(plan, found, named))
    run.failed = ill = tuple(name for wave in in_order for name in wave)
    elsewhere = {*left_stopped(found, named), *_stores_of_others(run, found, ill, over)}
    # 2 keep their logs, before anything is restarted
    services = tuple(plan.service(name) for name in ill)
    run.logs = step("Keep their logs", keep_logs, plan, run.stack, services, _evidence(run)).logs
    lost: list[Treated] = []
    for number, wave in enumerate(in_order):
        todo = tuple(found.of(name) for name in free_of(rests, wave, elsewhere))
        # 3 restart in dependency order, independent ones at the same time
        failing = _at_once(run, "Restart", restart_service, todo, number > 0)
        elsewhere |= _stores_without_data(run, failing, over)
        # 4 what still fails is redeployed, alone
        failing = _at_once(run, "Redeploy", redeploy_service, _ill(failing, without=elsewhere))
        # 5 still failing: back to the last image that was healthy, where the plan allows
        failing = _roll_back(run, failing)
        lost += failing
        elsewhere |= {one.after.component for one in failing}
    _require_back(run, found, lost, left_stopped(found, named))
    if over.procedure:
        return
    # 6 each service by its own health, what the stores hold, and the platform through the gateway
    wanted = tuple(dict.fromkeys((*(named or running(plan)), *ill)))
    services = tuple(one for one in wanted if one not in left_stopped(found, named) and not is_store(plan, one))
    health = step("Check the services", check_services, plan, run.stack, services, fresh=True)
    stores = step("Look at what the stores hold", check_stores, plan, run.stack, run.began, fresh=True)
    user = step("Check as a user, through the gateway", check_as_user, plan, run.stack, USER_DEADLINE, fresh=True)
    run.checks.extend((*health.checks, *stores.checks, *user.checks))
    run.stores.extend(stores.losses)
    run.mark("restored", user.restored)
    if any(check.outcome is not Outcome.PASSED for check in run.checks):
        run.next_step = "see to what the check names; the logs that were kept are in the record"


def procedure_of(plan: Plan, seen: Seen) -> str:
    """Give the procedure to which a component that is not well belongs; empty: it is restarted like any service."""
    component = plan.component(seen.component)
    if isinstance(component, PostgresComponent):
        return "database"
    # A replica follows an emptied primary as soon as that is started, and only the Redis procedure detaches it before.
    if isinstance(component, RedisComponent) and (component.replica or seen.ailment not in MERELY_DOWN):
        return "redis"
    # Restarted like any service, it would run and have none of its secrets.
    if isinstance(component, EnclaveComponent) and component.quote:
        return "enclave"
    return ""


def failed_of(plan: Plan, found: Identified, named: tuple[str, ...]) -> tuple[str, ...]:
    """Give those that are to be brought back: all that are ill; of those asked for by name also what they rest on."""
    if not named:
        return found.ill
    below = {one for name in named for one in rests_on(depends_on(plan), name)}
    stopped = {name for name in named if name in found.stopped}
    return tuple(one.component for one in found.seen if one.component in stopped or _counts(one, named, below))


def left_stopped(found: Identified, named: tuple[str, ...]) -> frozenset[str]:
    """Give those that somebody stopped and nobody asked for: they stay as they are."""
    return frozenset(name for name in found.stopped if name not in named)


def _counts(seen: Seen, named: tuple[str, ...], below: set[str]) -> bool:
    return seen.ill and (seen.component in named or seen.component in below)


def _stores_of_others(run: Run, found: Identified, ill: tuple[str, ...], over: HandOver) -> set[str]:
    """Note the first store whose own procedure is needed, a database before a Redis; gives all such."""
    theirs = [(name, procedure) for name in ill if (procedure := procedure_of(run.job.plan, found.of(name)))]
    for name, procedure in sorted(theirs, key=lambda one: one[1] != "database")[:1]:
        _hand(run, over, name, procedure, str(found.of(name)))
        # One at a time: what the other one is then is seen when this one is back.
        run.next_step += "; then once more: recoup recover service" if len(theirs) > 1 else ""
    return {name for name, _ in theirs}


def _stores_without_data(run: Run, failing: tuple[Treated, ...], over: HandOver) -> set[str]:
    """Note a Redis that did not come back with its data by a restart; gives it."""
    plan = run.job.plan
    theirs = [one for one in failing if isinstance(plan.component(one.after.component), RedisComponent)]
    for one in theirs[:1] if not over.procedure else ():
        _hand(run, over, one.after.component, "redis", str(one.after))
    return {one.after.component for one in theirs}


def _hand(run: Run, over: HandOver, component: str, procedure: str, seen: str) -> None:
    over.component, over.procedure, over.seen = component, procedure, seen
    run.handed_to = f"the {procedure} procedure ({component})"
    run.next_step = f"if it is cut short: recoup recover {procedure}"
    run.steps.watcher.note(f"{seen}: handed over to {run.handed_to} when this run has ended")


def _at_once(
    run: Run, verb: str, task: Task[..., Treated], services: tuple[Seen, ...], *more: object
) -> tuple[Treated, ...]:
    """Do the same to several services at the same time and give those that are still not well."""
    args = run.job.plan, run.stack
    steps = [(f"{verb} {one.component}", f"{task.name}-{one.component}", (*args, one, *more)) for one in services]
    done = run.steps.at_once(task, steps)
    run.state_left = "; ".join(filter(None, (run.state_left, *(one.left for one in done))))
    return tuple(one for one in done if one.after.ailment is not Ailment.WELL)


def _roll_back(run: Run, failing: tuple[Treated, ...]) -> tuple[Treated, ...]:
    may = {one.after.component for one in failing if _may_roll_back(run.job.plan, one.after.component)}
    rest = tuple(one for one in failing if one.after.component not in may)
    allowed = _ill(failing, without={one.after.component for one in rest})
    return (*rest, *_at_once(run, "Roll back", roll_back_service, allowed))


def _ill(treated: tuple[Treated, ...], without: Collection[str]) -> tuple[Seen, ...]:
    return tuple(one.after for one in treated if one.after.component not in without)


def _may_roll_back(plan: Plan, name: str) -> bool:
    component = plan.component(name)
    return isinstance(component, ServiceComponent) and component.roll_back


def _require_back(run: Run, found: Identified, lost: list[Treated], stopped: frozenset[str]) -> None:
    """Raise RecoveryError for what did not come back, and for what rests on a service that somebody stopped."""
    plan = run.job.plan
    left = "; ".join(filter(None, (run.state_left, *(_left(run, one) for one in lost if not one.left))))
    if lost:
        names = " ".join(f"--service {one.after.component}" for one in lost)
        raise RecoveryError(
            "; ".join(f"{one.after} ({one.done})" for one in lost),
            state=f"{left}; their logs from before are in {_evidence(run)}; no data was touched",
            next_step=f"correct the image or configuration, then: recoup recover service {names}",
        )
    rests, gateway = depends_on(plan), plan.platform.gateway.component
    needed = {gateway, *(one for name in (*run.failed, gateway) for one in rests_on(rests, name))}
    missing = [one for one in stopped if one in needed]
    if missing and not run.handed_to:
        raise RecoveryError(
            "; ".join(str(found.of(name)) for name in missing),
            state=f"{left or 'nothing else is wrong'}; what somebody stopped is left stopped",
            next_step="recoup recover service " + " ".join(f"--service {name}" for name in missing),
        )


def _left(run: Run, one: Treated) -> str:
    service, may = one.after.service, _may_roll_back(run.job.plan, one.after.component)
    named = f"{service} has the image its definition names ({short(run.stack.image(service))})"
    return named if may else f"{named}, and the plan does not let it be rolled back"


def _evidence(run: Run) -> Path:
    return run.job.plan.platform.state / "evidence" / run.journal.header.run_id
