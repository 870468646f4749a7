"""How recoup serve puts the state of a run into words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from deployments.served import said

BEGAN = datetime(2026, 11, 30, 3, tzinfo=UTC)
ADDRESS = "http://127.0.0.1:4200/runs/flow-run/1"


def a_run(kind: StateType, message: str = "", seconds: float = 2) -> FlowRun:
    state: State[None] = State(type=kind, message=message)
    took = timedelta(seconds=seconds)
    return FlowRun(
        id=UUID(int=1), flow_id=UUID(int=2), state=state, state_type=kind, start_time=BEGAN, total_run_time=took
    )


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (a_run(StateType.RUNNING), f"began ({ADDRESS})"),
        (a_run(StateType.COMPLETED), "completed in 2 s"),
        (a_run(StateType.CANCELLED, "Deployment concurrency limit reached.", 0), "not begun: Deployment concurrency"),
        (a_run(StateType.CANCELLED, "by hand"), f"CANCELLED after 2 s: by hand\nIts log: {ADDRESS}"),
        (a_run(StateType.CRASHED, "killed"), f"CRASHED after 2 s: killed\nIts log: {ADDRESS}"),
    ],
)
def test_each_end_has_its_words(run: FlowRun, words: str) -> None:
    assert said(run, ADDRESS).startswith(words)


def test_a_failure_is_in_its_own_words_and_cannot_paint_over_the_terminal() -> None:
    message = "Flow run encountered an exception: RecoveryError: it is \x1b[2J\rlost\nNext: look: there"
    assert said(a_run(StateType.FAILED, message), ADDRESS) == (
        f"FAILED after 2 s: it is  [2J\nlost\nNext: look: there\nIts log: {ADDRESS}"
    )
