"""Evidence of a run where Prefect shows it: the record as a markdown artifact."""

from __future__ import annotations

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext

from recoup.records import RecoveryRecord
from recoup.report import run_report


def publish_record(record: RecoveryRecord) -> None:
    """Show the record's report as an artifact of the flow run, when there is one; the ledger has it either way."""
    if FlowRunContext.get() is None:
        return
    create_markdown_artifact(
        key="recovery-record", markdown=run_report(record), description=f"{record.procedure}: {record.verdict}"
    )
