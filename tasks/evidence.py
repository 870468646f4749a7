"""Evidence of a run where Prefect shows it: the record as a markdown artifact, the checklist as a table."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.context import FlowRunContext

from recoup.clock import human
from recoup.records import RecoveryRecord
from recoup.report import run_report
from tasks.checklist import Checklist


def publish_record(record: RecoveryRecord) -> None:
    """Show the record's report as an artifact of the flow run, when there is one; the ledger has it either way."""
    if FlowRunContext.get() is None:
        return
    create_markdown_artifact(
        key="recovery-record", markdown=run_report(record), description=f"{record.procedure}: {record.verdict}"
    )


def publish_checklist(found: Checklist) -> None:
    """Show the checklist as a table of the flow run, when there is one."""
    if FlowRunContext.get() is None:
        return
    rows = [
        {"outcome": str(one.outcome), "item": one.item, "seen": one.seen, "took": human(one.took)}
        for one in found.items
    ]
    create_table_artifact(key="checklist", table=rows, description=f"{found.platform}: {found}")
