"""Complete infrastructure failure: provision, configure, deploy, bring the data back, start, and prove the whole."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.configuration import ConfigurationRecovery
from flows.configuration import recover_files as bring_back_configuration
from flows.database import DatabaseRecovery, When
from flows.database import recover_data as bring_back_database
from flows.enclave import EnclaveRecovery
from flows.enclave import recover_secrets as bring_back_enclave
from flows.parts import conclude, gather, part, together
from flows.procedure import Run, conduct
from flows.redis_store import RedisRecovery
from flows.redis_store import recover_data as bring_back_redis
from flows.request import Recovery, require_recovered
from recoup.catalog import Repository
from recoup.errors import PreconditionError, RecoupError, RecoveryError
from recoup.places import ledger_path
from recoup.plan import ConfigurationComponent, EnclaveComponent, Plan, PostgresComponent, RedisComponent, load_plan
from recoup.records import RecoveryRecord
from tasks.configuration import Configuration
from tasks.configuration_diff import compare
from tasks.configuration_restore import choose_configuration
from tasks.platform import deploy_platform, look_at_services, start_order
from tasks.services import restart_services, start_services
from tasks.smoke import check_as_user
from tasks.terraform import apply_infrastructure, plan_infrastructure, terraform_of

USER_DEADLINE = timedelta(seconds=60)
FIRST_LOOK = timedelta(seconds=15)
# What users need. Backups that are older than the outage, or an alarm that is not up yet, do not keep them waiting.
SERVING = (
    "services-running",
    "health-checks",
    "database-connectivity",
    "redis-connectivity",
    "chain-rpc",
    "contracts-responding",
    "authentication",
    "api-endpoints",
)
Settle = Callable[[], None]


class PlatformRecovery(Recovery):
    """What may be done to bring the whole platform back, and what is known of the outage."""

    restore: When = Field(When.IF_NEEDED, description="'always' restores stores that seem healthy, too")
    allow_destroy: bool = Field(False, description="Whether Terraform may destroy what is there")


@flow(name="recover-platform", log_prints=False)
def recover_platform(request: PlatformRecovery) -> RecoveryRecord:
    """Bring the whole platform back and give the record; raises RecoveryError when it is not ``recovered``."""
    plan = load_plan(request.plan)
    record = run_platform_recovery(plan, request, ledger=ledger_path(plan))
    require_recovered(record)
    return record


def run_platform_recovery(
    plan: Plan,
    request: PlatformRecovery,
    *,
    ledger: Path,
    fault: str | None = None,
    declared: datetime | None = None,
    afterwards: Callable[[Run], None] | None = None,
) -> RecoveryRecord:
    """Run the platform's procedure and give its record, which is in the ledger."""
    if request.backup != "latest":
        raise PreconditionError(
            "a platform has several stores, and one set cannot be named for all of them",
            next_step="let each take its newest good set, or recover one: recoup recover database --backup SET",
        )
    # On an empty host the stack's own files come back only with the configuration.
    job = request.job(
        plan,
        "platform",
        plan.platform.name,
        ledger,
        same={"restore", "allow_destroy"},
        fault=fault,
        declared=declared,
        bare=True,
        counted=SERVING,
    )
    return conduct(job, lambda run: _procedure(run, request), afterwards=afterwards)


def _procedure(run: Run, request: PlatformRecovery) -> None:
    step = run.steps.step
    # 1 provision: what it stands on
    _provision(run, request.allow_destroy)
    # 2 configuration, where files are missing: what is deployed next reads it
    files = _configuration(run, request)
    # 3 deploy at the plan's version, and start nothing: what is started on nothing would make new, empty data
    deployed = step("Deploy the platform", deploy_platform, run.job.plan, run.stack, fresh=True)
    # 4 the data of all stores at the same time
    stores, settle = _stores(run, request, files)
    # 5 start all services, each after what it depends on, and wait until they are ready
    order = start_order(run.job.plan, deployed.services)
    step("Start the services and wait for them", start_services, run.stack, order, fresh=True)
    # 6 as users: the plan's requests through the gateway
    _as_user(run, order)
    # 7 what later recoveries need; then how each service is, followers too
    for one in settle:
        one()
    run.checks.extend(step("Look at every service", look_at_services, run.stack, fresh=True).checks)
    # 8 the enclaves: what was sealed on the lost processor is gone, so each is attested and given its secrets again
    conclude(run, (*stores, *_enclaves(run, request)))


def _provision(run: Run, allow_destroy: bool) -> None:
    spec = terraform_of(run.job.plan)
    if spec is None:
        run.steps.watcher.note("the plan names no Terraform root: what is there is used")
        return
    step, label = run.steps.step, f"{run.journal.marks['started']:%Y%m%dT%H%M%SZ}"
    saved = run.job.plan.platform.state / "terraform" / f"{label}.tfplan"
    # Looked at anew by a resumed run: what a killed apply had made is in Terraform's state, and is not made twice.
    planned = step("Look at the infrastructure and plan", plan_infrastructure, spec, saved, allow_destroy, fresh=True)
    if planned.changes.any:
        applied = step("Apply the saved plan", apply_infrastructure, spec, planned, fresh=True)
        run.checks.extend(applied.checks)


def _configuration(run: Run, request: PlatformRecovery) -> tuple[Run, ...]:
    """Bring back each configuration of which files are missing; one that is whole is left as it is deployed."""
    plan = run.job.plan
    parts = []
    for name, spec in plan.components.items():
        if not isinstance(spec, ConfigurationComponent) or spec.backup is None:
            continue
        configuration, repository = Configuration.of(plan, name), Repository(plan.platform.repository)
        one = part(run, name)
        began = one.steps.opened_before(choose_configuration)
        if not began and not _missing(configuration, repository):
            run.steps.watcher.note(f"{name}: no file is missing; it is left as it is")
            continue
        asked = ConfigurationRecovery(plan=request.plan, component=name)
        bring_back_configuration(one, asked, alone=False)
        parts.append(one)
    return tuple(parts)


def _missing(configuration: Configuration, repository: Repository) -> bool:
    newest = next(iter(repository.sets(configuration.spec.store)), None)
    if newest is None:
        # No set to tell by: only a host that has nothing is known to miss something.
        return not configuration.root.is_dir() or not any(configuration.root.iterdir())
    try:
        return bool(compare(configuration, newest).new)
    except RecoveryError:
        return True


def _stores(run: Run, request: PlatformRecovery, files: tuple[Run, ...]) -> tuple[tuple[Run, ...], tuple[Settle, ...]]:
    bodies: dict[str, Callable[[Run], Settle]] = {}
    for name, spec in run.job.plan.components.items():
        if isinstance(spec, PostgresComponent):
            asked = DatabaseRecovery(plan=request.plan, component=name, restore=request.restore)
            bodies[name] = partial(bring_back_database, request=asked, alone=False)
        elif isinstance(spec, RedisComponent) and spec.backup:
            cache = RedisRecovery(plan=request.plan, component=name, restore=request.restore)
            bodies[name] = partial(bring_back_redis, request=cache, alone=False)
    parts = {name: part(run, name) for name in bodies}
    everything = (*parts.values(), *files)
    try:
        return everything, together(run, bodies, parts)
    finally:
        gather(run, everything)


def _enclaves(run: Run, request: PlatformRecovery) -> tuple[Run, ...]:
    """Attest and provision each enclave, after users are served: a refused one does not keep them waiting."""
    parts = []
    for name, spec in run.job.plan.components.items():
        if not isinstance(spec, EnclaveComponent):
            continue
        parts.append(one := part(run, name))
        if spec.quote is None:
            one.next_step = f"provision {name} by hand: the plan does not say how it is attested"
            continue
        try:
            bring_back_enclave(one, EnclaveRecovery(plan=request.plan, component=name), alone=False)
        except RecoupError as error:
            # What was wrong is a step or a check that failed, and judges the run; the others are seen to all the same.
            one.state_left, one.next_step = error.state or one.state_left, error.next_step or one.next_step
        finally:
            run.checks.extend(one.checks)
    return tuple(parts)


def _as_user(run: Run, order: tuple[str, ...]) -> None:
    plan, step = run.job.plan, run.steps.step
    title = "Check as a user, through the gateway"
    seen = step(title, check_as_user, plan, run.stack, FIRST_LOOK, fresh=True)
    if seen.restored is None:
        # The data are proven by now: what still fails may be a service that holds dead connections.
        gateway = plan.service(plan.platform.gateway.component)
        users = tuple(one for one in order if one in _between(plan) or one == gateway)
        step("Restart the services in between", restart_services, run.stack, users)
        name = "check-as-user-again"
        seen = step("Check as a user again", check_as_user, plan, run.stack, USER_DEADLINE, name=name, fresh=True)
    run.checks.extend(seen.checks)
    run.mark("restored", seen.restored)


def _between(plan: Plan) -> set[str]:
    """Give the services that stand between the stores and the users."""
    stores = [name for name, one in plan.components.items() if isinstance(one, PostgresComponent | RedisComponent)]
    return {plan.service(name) for store in stores for name in plan.dependents(store)}
