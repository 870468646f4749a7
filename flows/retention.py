"""Retention by schedule: what the plan no longer keeps is removed here and in every copy, or only named."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.copies import prune_everywhere
from flows.procedure import current_watcher
from recoup.errors import RecoveryError
from recoup.plan import load_plan
from recoup.records import Frozen
from tasks.copies_sync import rules


class PruneBackups(Frozen):
    """Which plan's retention to apply."""

    plan: Path = Field(description="The plan's YAML file, on the machine that holds the backup sets")
    dry_run: bool = Field(False, description="Only say what would go, and why the rest stays")


class Applied(Frozen):
    """What went, or would go, as ``place: set``; everything else stays."""

    gone: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{len(self.gone)} sets beyond what the plan keeps" + "".join(f"\n  {one}" for one in self.gone)


@flow(name="prune-backups", log_prints=False)
def prune_backups(request: PruneBackups) -> Applied:
    """Remove what the plan no longer keeps; raises RecoveryError, when all was tried, if something could not be."""
    plan, tell = load_plan(request.plan), current_watcher().note
    gone: list[str] = []
    failed: list[str] = []
    for pruned in prune_everywhere(plan, tuple(rules(plan)), dry_run=request.dry_run, by_schedule=True):
        for one in pruned.decisions:
            tell(f"{pruned.where}: {one.set_id} {'stays' if one.kept else 'goes'}: {one.reason}")
        gone += [f"{pruned.where}: {one.set_id}" for one in pruned.decisions if not one.kept]
        failed += [f"{pruned.where}: {failure}" for failure in pruned.failed]
    if failed:
        raise RecoveryError(
            f"retention could not be applied everywhere: {'; '.join(failed)}",
            state="what is named is still there; the rest was done",
            next_step="see to what is named; the next run tries it again",
        )
    return Applied(gone=tuple(gone))
