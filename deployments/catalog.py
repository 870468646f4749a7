"""Every flow that a server offers: its name, its schedule from the plan, and how many may run at once."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Interval, Schedule
from prefect.types.entrypoint import EntrypointType
from pydantic import BaseModel

from flows.backup import DatabaseBackup, DatabaseVerification, back_up_database, verify_backup
from flows.blockchain import BlockchainRecovery, recover_blockchain
from flows.configuration import (
    ConfigurationBackup,
    ConfigurationRecovery,
    back_up_configuration,
    recover_configuration,
)
from flows.continuous import BaseRequest, back_up_base
from flows.copies import CopyBackups, copy_backups
from flows.database import DatabaseRecovery, recover_database
from flows.drill import DatabaseDrill, drill_database
from flows.drill_blockchain import BlockchainDrill, drill_blockchain
from flows.drill_platform import PlatformDrill, drill_platform
from flows.drill_redis import RedisDrill, drill_redis
from flows.drill_rollback import RollbackDrill, drill_rollback
from flows.drill_service import ServiceDrill, drill_service
from flows.enclave import EnclaveRecovery, recover_enclave
from flows.platform import PlatformRecovery, recover_platform
from flows.redis_store import RedisBackup, RedisRecovery, back_up_redis, recover_redis
from flows.restore import TableRestore, restore_part
from flows.retention import PruneBackups, prune_backups
from flows.rollback import Rollback, roll_back
from flows.service import ServiceRecovery, recover_service
from flows.standby import StandbyRequest, build_pair
from flows.validate import Validation, validate_platform
from recoup.plan import (
    ChainComponent,
    ConfigurationComponent,
    EnclaveComponent,
    Plan,
    PostgresComponent,
    RedisComponent,
)

# A fixed anchor: counted from each start of the server, a schedule could be put off for ever by restarts.
ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)
# A copy that failed is caught up by the next one.
COPIES = timedelta(minutes=5)
# Each backup and each copying removes what it makes superfluous; this catches what changed without one.
RETENTION = timedelta(days=1)
# Each time records are written through the gateway.
CHECKLIST = timedelta(hours=1)
# A second start is refused at once: the lease would refuse it later, after a process was made for it.
ONE_AT_A_TIME = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


def deployments(path: Path, plan: Plan) -> tuple[RunnerDeployment, ...]:
    """Give the deployments of a plan: recoveries, restores, backups as often as the RPO needs, copies, the drills."""
    where = path.absolute()
    offered: list[RunnerDeployment] = [
        _offer(drill_database, DatabaseDrill()),
        _offer(drill_redis, RedisDrill()),
        _offer(drill_service, ServiceDrill()),
        _offer(recover_service, ServiceRecovery(plan=where)),
        _offer(drill_blockchain, BlockchainDrill()),
        _offer(drill_platform, PlatformDrill()),
        _offer(recover_platform, PlatformRecovery(plan=where)),
        _offer(drill_rollback, RollbackDrill()),
    ]
    several = {kind for kind, count in Counter(c.kind for c in plan.components.values()).items() if count > 1}
    for name, component in plan.components.items():
        suffix = f"-{name}" if component.kind in several else ""
        if isinstance(component, PostgresComponent):
            store, policy = component.store, component.continuous
            backup = DatabaseBackup(plan=where, component=name)
            offered += [
                _offer(recover_database, DatabaseRecovery(plan=where, component=name), suffix=suffix),
                _offer(back_up_database, backup, _every(component.backup.interval, store), suffix=suffix),
                _offer(verify_backup, DatabaseVerification(plan=where, component=name), suffix=suffix),
                _offer(restore_part, TableRestore(plan=where, component=name), suffix=suffix),
            ]
            if component.standby:
                offered.append(_offer(build_pair, StandbyRequest(plan=where, component=name), suffix=suffix))
            if policy:
                base = BaseRequest(plan=where, component=name)
                offered.append(_offer(back_up_base, base, _every(policy.base.interval, f"{store}-base"), suffix=suffix))
            if policy and policy.incremental:
                since = BaseRequest(plan=where, component=name, full=False)
                every = _every(policy.incremental, f"{store}-incremental")
                offered.append(_offer(back_up_base, since, every, suffix=f"{suffix}-incremental"))
        elif isinstance(component, RedisComponent):
            offered.append(_offer(recover_redis, RedisRecovery(plan=where, component=name), suffix=suffix))
            if component.backup:
                taken = RedisBackup(plan=where, component=name)
                offered.append(
                    _offer(back_up_redis, taken, _every(component.backup.interval, component.store), suffix=suffix)
                )
        elif isinstance(component, EnclaveComponent) and component.quote:
            offered.append(_offer(recover_enclave, EnclaveRecovery(plan=where, component=name), suffix=suffix))
        elif isinstance(component, ConfigurationComponent):
            back = ConfigurationRecovery(plan=where, component=name)
            offered.append(_offer(recover_configuration, back, suffix=suffix))
            if component.backup:
                tree = ConfigurationBackup(plan=where, component=name)
                every = _every(component.backup.interval, component.store)
                offered.append(_offer(back_up_configuration, tree, every, suffix=suffix))
    if any(isinstance(component, ChainComponent) for component in plan.components.values()):
        offered.append(_offer(recover_blockchain, BlockchainRecovery(plan=where)))
    if plan.platform.release:
        offered.append(_offer(roll_back, Rollback(plan=where)))
    hourly = Interval(CHECKLIST, anchor_date=ANCHOR, slug="checklist")
    offered.append(_offer(validate_platform, Validation(plan=where), hourly))
    offered.append(_offer(prune_backups, PruneBackups(plan=where), _every(RETENTION, "retention")))
    if plan.platform.copies:
        offered.append(_offer(copy_backups, CopyBackups(plan=where), _every(COPIES, "copies")))
    return tuple(offered)


def _every(interval: timedelta, what: str) -> Schedule:
    return Interval(interval, anchor_date=ANCHOR, slug=f"rpo-{what}")


def _offer(
    flow: Flow[Any, Any], request: BaseModel, schedule: Schedule | None = None, *, suffix: str = ""
) -> RunnerDeployment:
    made = flow.to_deployment(
        f"{flow.name}{suffix}",
        parameters={"request": request.model_dump(mode="json")},
        description=flow.fn.__doc__,
        schedule=schedule,
        concurrency_limit=ONE_AT_A_TIME,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(made, RunnerDeployment), "to_deployment is asynchronous only inside an event loop"
    return made
