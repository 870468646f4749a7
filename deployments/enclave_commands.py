"""recoup recover enclave."""

from __future__ import annotations

from typing import Annotated

import typer

from deployments.asking import act, agreed, moment
from deployments.options import AsJson, Began, DryRun, Fresh, PlanPath, Reason, Yes
from flows.database import When
from flows.enclave import EnclaveRecovery, preview, recover_enclave
from recoup.plan import load_plan


def recover_enclave_command(
    plan: PlanPath,
    component: Annotated[str, typer.Option(help="The enclave component of the plan; default: its only one.")] = "",
    provision: Annotated[
        When, typer.Option(help="'always' gives the secrets again though the self-test passes.")
    ] = When.IF_NEEDED,
    began: Began = "",
    reason: Reason = "",
    fresh: Fresh = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Recover an enclave: attest it by a fresh quote, only then give it its secrets again, prove it.

    Without SGX hardware, and in simulation, nothing is proven: exit code 1. Exit codes: 0 recovered; 1 ran, not
    recovered or unproven; 2 could not run; 130 interrupted.
    """
    request = EnclaveRecovery(
        plan=plan, component=component, provision=provision, began=moment(began), reason=reason, fresh=fresh
    )
    loaded = load_plan(plan)
    name, _ = loaded.enclave(component or None)
    what = f"recover {name} of {loaded.platform.name}"
    if agreed(loaded.platform.name, what, lambda: preview(loaded, request), dry_run=dry_run, yes=yes, as_json=as_json):
        act(recover_enclave, request, as_json=as_json)
