"""What a recovery of the whole platform would do now, line by line: it looks and plans, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from flows.configuration import preview_configuration
from flows.database import DatabaseRecovery
from flows.database_preview import preview as preview_database
from flows.enclave import EnclaveRecovery
from flows.enclave import preview as preview_enclave
from flows.platform import PlatformRecovery
from flows.redis_preview import preview as preview_redis
from flows.redis_store import RedisRecovery
from recoup.errors import RecoupError
from recoup.plan import ConfigurationComponent, EnclaveComponent, Plan, PostgresComponent, RedisComponent
from tasks.terraform import plan_infrastructure, terraform_of


def preview(plan: Plan, request: PlatformRecovery) -> Iterator[str]:
    """Give, line by line, what a recovery would do; Terraform plans for it, and its saved plan is thrown away.

    Raises PreconditionError where the infrastructure cannot be planned: nothing after it could begin either.
    """
    if (spec := terraform_of(plan)) is None:
        yield "infrastructure: the plan names no Terraform root; what is there is used"
    else:
        with TemporaryDirectory() as place:
            planned = plan_infrastructure.fn(spec, Path(place) / "preview.tfplan", request.allow_destroy)
        yield f"infrastructure: {planned.changes}"
        yield from (f"infrastructure: {line}" for line in planned.changes.lines)
    version = plan.platform.version
    yield "deploy what is not there" + (f", at version {version}" if version else "") + "; start nothing yet"
    for name, one in plan.components.items():
        try:
            for line in _of(plan, request, name, one):
                yield f"{name}: {line}"
        except RecoupError as error:
            # On a host that has nothing there is nothing to look at; that is for the recovery itself.
            yield f"{name}: cannot be looked at now: {error.what}"
    yield "start the services in order; make the plan's requests through the gateway; go through the checklist"


def _of(plan: Plan, request: PlatformRecovery, name: str, one: object) -> tuple[str, ...]:
    if isinstance(one, PostgresComponent):
        return preview_database(plan, DatabaseRecovery(plan=request.plan, component=name, restore=request.restore))
    if isinstance(one, RedisComponent) and one.backup:
        return preview_redis(plan, RedisRecovery(plan=request.plan, component=name, restore=request.restore))
    if isinstance(one, ConfigurationComponent) and one.backup:
        return preview_configuration(plan, name)
    if isinstance(one, EnclaveComponent) and one.quote:
        return preview_enclave(plan, EnclaveRecovery(plan=request.plan, component=name))
    if isinstance(one, EnclaveComponent):
        return ("the plan does not say how it is attested; it would be left to be provisioned by hand",)
    return ()
