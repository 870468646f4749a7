"""The plan's recovery validation on its own: every item of its checklist looked at, now."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from pydantic import Field

from recoup.errors import RecoveryError
from recoup.plan import load_plan
from recoup.records import Frozen, Outcome
from recoup.stacks import open_stack
from tasks.checklist import Checklist, go_through
from tasks.evidence import publish_checklist


class Validation(Frozen):
    """Which platform to validate."""

    plan: Path = Field(description="The plan's YAML file, on a machine that reaches the platform")


class ChecklistFailed(RecoveryError):
    """An item of the checklist failed; ``checklist`` has them all."""

    def __init__(self, checklist: Checklist) -> None:
        failed = checklist.of(Outcome.FAILED)
        super().__init__(
            f"{len(failed)} of {len(checklist.items)} items failed: "
            + "; ".join(f"{one.item}: {one.seen}" for one in failed),
            state="nothing was changed",
            next_step="see to what each item names, then run: recoup validate",
        )
        self.checklist = checklist


@flow(name="validate", log_prints=False)
def validate_platform(request: Validation) -> Checklist:
    """Look at every item of the plan's checklist; raises ChecklistFailed, so that no failed item looks completed."""
    plan = load_plan(request.plan)
    found = go_through(plan, open_stack(plan))
    publish_checklist(found)
    if found.of(Outcome.FAILED):
        raise ChecklistFailed(found)
    return found
