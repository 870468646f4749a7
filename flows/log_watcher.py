"""Tells the Prefect flow run's log what a run does."""

from __future__ import annotations

from prefect.logging import get_run_logger

from recoup.records import RecoveryRecord, StepRecord


class LogWatcher:
    """Tells the Prefect flow run's log."""

    def begin(self, record: RecoveryRecord) -> None:
        get_run_logger().info("run %s on %s began", record.run_id, record.stack)

    def step(self, step: StepRecord) -> None:
        get_run_logger().info("%s: %s %s", step.title, step.outcome, step.detail)

    def note(self, text: str) -> None:
        get_run_logger().info(text)

    def end(self, record: RecoveryRecord) -> None:
        get_run_logger().info("verdict: %s: %s", record.verdict, record.why)
