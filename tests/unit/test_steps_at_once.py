"""Several steps at the same time: each with its own record, all waited for, and none repeated when the run goes on."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest

from flows.steps import Steps
from recoup.errors import RecoveryError
from recoup.journal import Journal, RunHeader
from recoup.progress import Silent
from recoup.records import Frozen, StepOutcome
from tasks.step import step


class Said(Frozen):
    text: str

    def __str__(self) -> str:
        return self.text


@step(timeout=timedelta(seconds=20))
def meet(barrier: threading.Barrier, name: str) -> Said:
    """End only when as many others as the barrier asks for are under way too."""
    barrier.wait(10)
    return Said(text=name)


@step(timeout=timedelta(seconds=20))
def fail_or_not(name: str) -> Said:
    """Fail for the name that says so."""
    if name == "bad":
        raise RecoveryError("it is bad")
    return Said(text=name)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.create(tmp_path, "run", RunHeader(run_id="run", platform="p", procedure="service", component="c"))


def test_they_are_under_way_together_and_their_results_are_in_order(journal: Journal) -> None:
    barrier = threading.Barrier(3)
    steps = Steps(Silent(), journal)
    said = steps.at_once(meet, [(f"Meet {name}", f"meet-{name}", (barrier, name)) for name in "abc"])
    assert [one.text for one in said] == ["a", "b", "c"]
    ends = [record.ended for record in steps.records.values()]
    assert all(end is not None and record.started < end for end in ends for record in steps.records.values())


def test_one_that_fails_is_raised_when_all_have_ended_and_the_others_are_not_repeated(journal: Journal) -> None:
    names = ("bad", "good", "better")
    wanted = [(name, f"step-{name}", (name,)) for name in names]
    steps = Steps(Silent(), journal)
    with pytest.raises(RecoveryError, match="it is bad"):
        steps.at_once(fail_or_not, wanted)
    outcomes = {name: record.outcome for name, record in steps.records.items()}
    assert outcomes == {
        "step-bad": StepOutcome.FAILED,
        "step-good": StepOutcome.DONE,
        "step-better": StepOutcome.DONE,
    }
    left = Journal.load(journal.path)
    assert left is not None
    again = Steps(Silent(), left)
    with pytest.raises(RecoveryError, match="it is bad"):
        again.at_once(fail_or_not, wanted)
    assert {name for name, record in again.records.items() if record.resumed} == {"step-good", "step-better"}


def test_none_at_all_is_no_error() -> None:
    assert Steps(Silent()).at_once(fail_or_not, []) == ()
