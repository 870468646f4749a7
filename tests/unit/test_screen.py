from __future__ import annotations

import io
import re
import sys
import time
from datetime import timedelta

import pytest

from deployments.screen import JsonScreen, LiveScreen, PatientConsole, PlainScreen, open_screen
from recoup.progress import Watcher
from recoup.records import OutageClock, RecoveryRecord, StepOutcome, StepRecord, now
from tests.unit.samples import failed, recovered


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A terminal whose window was closed."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def beginning(rto: timedelta = timedelta(hours=1)) -> RecoveryRecord:
    moment = now()
    clock = OutageClock(began=moment - timedelta(seconds=75), started=moment)
    return recovered().model_copy(update={"clock": clock, "steps": (), "checks": (), "rto_objective": rto})


def play(screen: Watcher, end: RecoveryRecord) -> None:
    running = StepRecord(name="restore", title="Restore the newest good backup", started=now())
    screen.note("starting the sandbox")
    screen.begin(beginning())
    screen.step(running)
    screen.note("loading [bold]accounts[/bold] \x1b[31m")
    time.sleep(0.3)
    done = {"ended": now(), "outcome": StepOutcome.DONE, "attempts": 2, "detail": "from set-1"}
    screen.step(running.model_copy(update=done))
    screen.end(end)


def live() -> tuple[LiveScreen, Terminal]:
    terminal = Terminal()
    return LiveScreen(PatientConsole(file=terminal, force_terminal=True, width=100)), terminal


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_each_kind_of_terminal_gets_its_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert isinstance(open_screen(json=False), LiveScreen)
    assert isinstance(open_screen(json=True), JsonScreen)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_screen(json=False), PlainScreen)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert isinstance(open_screen(json=False), PlainScreen)


def test_json_is_the_record_alone(capsys: pytest.CaptureFixture[str]) -> None:
    play(JsonScreen(), recovered())
    captured = capsys.readouterr()
    assert RecoveryRecord.model_validate_json(captured.out) == recovered()
    assert captured.err == ""


def test_plain_lines_tell_each_thing_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    play(PlainScreen(), recovered())
    out = capsys.readouterr().out
    wanted = (
        "starting the sandbox",
        "RTO 1 h",
        "Restore the newest good backup …",
        "loading [bold]accounts[/bold]",
        "Restore the newest good backup: done in",
        "2 attempts: from set-1",
        "RECOVERED",
        "1 min 40 s of at most 1 h: met",
        "database: 30 s of at most 15 min: met",
        "3 of 120 acknowledged",
        "set-2: data.zst: sha256 differs",
        "passed: row counts: 7",
    )
    places = [out.find(text) for text in wanted]
    assert -1 not in places
    assert places == sorted(places)
    assert "\x1b" not in out


def test_a_failure_is_told_with_its_reason_state_and_next_step(capsys: pytest.CaptureFixture[str]) -> None:
    play(PlainScreen(), failed())
    out = capsys.readouterr().out
    for text in (
        "NOT RECOVERED",
        "step restore failed: no good backup set",
        "the old data is untouched",
        "name a dump with",
    ):
        assert text in out


def test_the_live_view_shows_steps_time_against_the_rto_note_and_verdict() -> None:
    screen, terminal = live()
    play(screen, recovered())
    seen = plain(terminal.getvalue())
    assert "starting the sandbox" in seen
    assert re.search(r"01:15 of 1 h since outage", seen)
    assert "loading [bold]accounts[/bold]" in seen
    assert "✓" in seen
    assert "RECOVERED" in seen
    assert "3 of 120 acknowledged" in seen


def test_time_past_the_rto_is_shown_in_red() -> None:
    screen, terminal = live()
    screen.begin(beginning(rto=timedelta(seconds=30)))
    time.sleep(0.3)
    screen.end(failed())
    assert re.search(r"\x1b\[1;31m *01:15", terminal.getvalue())


def test_the_cursor_comes_back_when_the_run_is_over() -> None:
    screen, terminal = live()
    play(screen, recovered())
    text = terminal.getvalue()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0


def test_a_second_run_on_the_same_screen_begins_anew() -> None:
    screen, terminal = live()
    play(screen, recovered())
    terminal.truncate(0)
    terminal.seek(0)
    screen.begin(beginning())
    time.sleep(0.3)
    screen.end(failed().model_copy(update={"steps": ()}))
    assert "Restore the newest" not in plain(terminal.getvalue())
    assert "NOT RECOVERED" in plain(terminal.getvalue())


@pytest.mark.parametrize("screen", [JsonScreen, PlainScreen])
def test_a_closed_window_stops_no_recovery(
    screen: type[JsonScreen | PlainScreen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Gone())
    play(screen(), recovered())


def test_a_closed_live_window_stops_no_recovery() -> None:
    play(LiveScreen(PatientConsole(file=Gone(), force_terminal=True)), recovered())
