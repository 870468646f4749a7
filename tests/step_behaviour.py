"""What a step does, whoever runs it: directly, or as a task run of a Prefect flow run. Both inherit these tests."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from prefect import Task

from recoup.errors import BusyError, PreconditionError, ProgramError, RecoupError, RecoveryError
from recoup.progress import Silent
from tasks.step import Watched, note, perform, step

SHORT = timedelta(seconds=0.05)
LONG = timedelta(seconds=30)
Run = Callable[[Task[[], str], Watched], str]


class Heard(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def failing(times: int, error: BaseException, *, retries: int, seen: list[float]) -> Task[[], str]:
    """Give a step that fails so many times before it succeeds, noting when it was tried."""

    @step(timeout=LONG, retries=retries, backoff=SHORT)
    def try_it() -> str:
        seen.append(time.monotonic())
        if len(seen) <= times:
            raise error
        return "done"

    return try_it


class StepBehaviour:
    """Inherited by the tests of each runner, whose ``run`` fixture performs a step its way."""

    def test_gives_what_the_function_gives_and_counts_one_attempt(self, run: Run) -> None:
        watched = Watched()
        assert run(failing(0, RecoveryError(""), retries=2, seen=[]), watched) == "done"
        assert watched.attempts == 1

    @pytest.mark.parametrize(
        "error",
        [RecoveryError("no answer"), ProgramError("failed", returncode=1, stderr=""), ConnectionResetError("reset")],
        ids=lambda error: type(error).__name__,
    )
    def test_tries_again_what_may_mend_itself_and_waits_longer_each_time(self, run: Run, error: Exception) -> None:
        seen: list[float] = []
        watched = Watched()
        assert run(failing(2, error, retries=2, seen=seen), watched) == "done"
        assert watched.attempts == len(seen) == 3
        first, second = seen[1] - seen[0], seen[2] - seen[1]
        # The jitter takes away less than half.
        assert first >= SHORT.total_seconds() / 2
        assert second >= SHORT.total_seconds()

    def test_gives_up_when_the_retries_are_used_and_raises_the_last_error(self, run: Run) -> None:
        seen: list[float] = []
        watched = Watched()
        error = RecoveryError("no answer", state="as it was", next_step="look")
        with pytest.raises(RecoveryError, match="no answer") as raised:
            run(failing(9, error, retries=1, seen=seen), watched)
        assert watched.attempts == len(seen) == 2
        assert (raised.value.state, raised.value.next_step) == ("as it was", "look")

    @pytest.mark.parametrize(
        "error",
        [PreconditionError("wrong password"), BusyError("held"), ValueError("a mistake in the program")],
        ids=lambda error: type(error).__name__,
    )
    def test_never_tries_again_what_waiting_cannot_mend(self, run: Run, error: Exception) -> None:
        seen: list[float] = []
        watched = Watched()
        with pytest.raises(type(error), match=str(error.args[0])):
            run(failing(9, error, retries=3, seen=seen), watched)
        assert watched.attempts == len(seen) == 1

    def test_without_retries_it_is_tried_once(self, run: Run) -> None:
        seen: list[float] = []
        with pytest.raises(RecoveryError):
            run(failing(9, RecoveryError("no answer"), retries=0, seen=seen), Watched())
        assert len(seen) == 1

    def test_is_ended_at_its_time_out_and_says_so(self, run: Run) -> None:
        @step(timeout=timedelta(seconds=1))
        def hang() -> str:
            time.sleep(30)
            return "never"

        begun = time.monotonic()
        with pytest.raises(RecoveryError, match="did not end within its 1 s") as raised:
            run(hang, Watched())
        assert time.monotonic() - begun < 20
        assert raised.value.state

    def test_each_attempt_has_the_whole_time_out_and_a_late_one_is_tried_again(self, run: Run) -> None:
        tried: list[int] = []

        @step(timeout=timedelta(seconds=1), retries=1, backoff=SHORT)
        def late_once() -> str:
            tried.append(1)
            time.sleep(30 if len(tried) == 1 else 0.6)
            return "in time"

        watched = Watched()
        assert run(late_once, watched) == "in time"
        assert watched.attempts == 2

    def test_a_time_out_of_something_inside_is_not_called_the_steps_own(self, run: Run) -> None:
        # What asyncio and sockets raise has no message at all.
        with pytest.raises(RecoupError) as raised:
            run(failing(9, TimeoutError(), retries=1, seen=[]), Watched())
        assert "did not end within its" not in raised.value.what

    def test_its_notes_reach_whoever_watches_that_step_and_nobody_else(self, run: Run) -> None:
        @step(timeout=LONG)
        def speak() -> str:
            note("half of it is done")
            return "done"

        heard, other = Heard(), Heard()
        run(failing(0, RecoveryError(""), retries=0, seen=[]), Watched(other))
        run(speak, Watched(heard))
        note("said by nobody")
        assert heard.notes == ["half of it is done"]
        assert other.notes == []


def perform_directly(task: Task[[], str], watched: Watched) -> str:
    return perform(task, watched)
