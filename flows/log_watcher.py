"""Reports what a run does in the Prefect flow run's log, and on the terminal of the server that started it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from recoup.progress import plain, stamped, step_end
from recoup.records import RecoveryRecord, StepOutcome, StepRecord

# Set by ``recoup serve`` for the runs it starts: their standard error is its own.
TO_TERMINAL = "RECOUP_STEPS_TO_TERMINAL"


class LogWatcher:
    """Reports in the flow run's log; steps and verdict on the terminal too, where ``recoup serve`` asks for it."""

    def begin(self, record: RecoveryRecord) -> None:
        get_run_logger().info("run %s on %s began", record.run_id, record.stack)

    def step(self, step: StepRecord) -> None:
        get_run_logger().info("%s: %s %s", step.title, step.outcome, step.detail)
        if step.outcome is not StepOutcome.RUNNING:
            _print(f"{step.title}: {step_end(step)}")

    def note(self, text: str) -> None:
        get_run_logger().info(text)

    def end(self, record: RecoveryRecord) -> None:
        get_run_logger().info("verdict: %s: %s", record.verdict, record.why)
        _print(f"verdict: {record.verdict}: {plain(record.why)}")


def _print(text: str) -> None:
    if not os.environ.get(TO_TERMINAL):
        return
    # A terminal that is gone may not stop a recovery.
    with suppress(OSError, ValueError):
        print(stamped(f"{flow_run.flow_name}: {text}"), file=sys.stderr, flush=True)
