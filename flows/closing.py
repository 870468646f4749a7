"""What a recovery ends with: the plan's checklist, and its actions for afterwards with what the run itself knows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from recoup.clock import human, phases
from recoup.plan import Plan
from recoup.records import FollowUpResult, ItemResult, RecoveryRecord
from recoup.stacks import Stack
from tasks.checklist import go_through

# The verdict is ready by then: an item that takes longer is unproven.
PATIENCE = timedelta(seconds=10)


def after_recovery(plan: Plan, stack: Stack) -> tuple[ItemResult, ...]:
    """Give what is found of every item of the checklist within ten seconds."""
    return go_through(plan, stack, PATIENCE).items


def follow_ups(plan: Plan, record: RecoveryRecord) -> tuple[FollowUpResult, ...]:
    """Give the plan's actions after a recovery with their owners, and what the run itself knows of them."""
    return tuple(
        FollowUpResult(action=one.action, owner=plan.owner(one), known=" ".join(_known(one.action.casefold(), record)))
        for one in plan.post_recovery
    )


def _known(action: str, record: RecoveryRecord) -> Iterator[str]:
    if "timeline" in action:
        clock = record.clock
        yield f"began {clock.began:%Y-%m-%d %H:%M:%S} UTC ({clock.began_source});" if clock.began else "began: unknown;"
        yield ", ".join(f"{phase.name} {human(phase.took)}" for phase in phases(clock)) + ";"
        yield "steps: " + (", ".join(f"{one.started:%H:%M:%S} {one.title}" for one in record.steps) or "none")
    elif "post-mortem" in action:
        yield f"{record.verdict}: {record.why}" if record.why else f"{record.verdict}"
    elif "runbook" in action and (again := [one.title for one in record.steps if one.attempts > 1]):
        yield f"steps that needed more than one attempt: {', '.join(again)}"
    elif "preventive" in action and record.backup and record.backup.skipped:
        yield f"backup sets that could not be used: {', '.join(one.set_id for one in record.backup.skipped)}"
    elif "test" in action and record.fault:
        yield f"drilled with the fault {record.fault}"
