"""Steps run directly, without a Prefect server."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from recoup.errors import RecoveryError
from tasks.step import Watched, perform, step
from tests.step_behaviour import Heard, Run, StepBehaviour, failing, perform_directly


class TestDirectly(StepBehaviour):
    @pytest.fixture
    def run(self) -> Run:
        return perform_directly


def test_it_says_why_it_tries_again_and_when() -> None:
    heard = Heard()
    perform(failing(1, RecoveryError("no answer\nand more", state="s"), retries=1, seen=[]), Watched(heard))
    (said,) = heard.notes
    assert said.startswith("attempt 1 failed (no answer); again in 0.")


def test_arguments_are_passed_on_and_the_name_is_the_functions() -> None:
    @step(timeout=timedelta(seconds=5))
    def put_together(first: str, *, second: str) -> str:
        return first + second

    assert put_together.name == "put-together"
    assert perform(put_together, Watched(), "a", second="b") == "ab"


def test_a_time_out_holds_in_any_thread() -> None:
    @step(timeout=timedelta(seconds=0.3))
    def spin() -> str:
        while True:
            pass

    raised: list[BaseException] = []

    def work() -> None:
        try:
            perform(spin, Watched())
        except RecoveryError as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert "did not end within" in str(raised[0])
