from __future__ import annotations

import json
from pathlib import Path

import pytest

import recoup
from deployments import cli
from recoup.errors import BusyError, RecoveryError
from recoup.ledger import Ledger
from recoup.records import RecoveryRecord
from tests.unit.samples import failed, recovered


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECOUP_STATE", str(tmp_path))
    made = Ledger(tmp_path / "ledger.jsonl")
    made.append(recovered("run-abc"))
    made.append(failed("run-xyz"))
    return made.path


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(arguments) == 0
    return capsys.readouterr().out


def test_help_lists_every_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    told = shown(capsys, "--help")
    for name, entry in cli.COMMANDS.items():
        assert name in told
        assert entry.help.split(":")[0] in told


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "--version").strip() == f"recoup {recoup.__version__}"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"recoup {name}" in shown(capsys, name, "--help")


@pytest.mark.parametrize("arguments", [[], ["nope"], ["--nope"], ["report", "--nope"], ["report", "a", "b"]])
def test_a_wrong_command_line_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (BusyError("held by run 1", next_step="wait"), 2, "held by run 1\nState left: nothing was changed\nNext: wait"),
        (RecoveryError("disk full", state="old data kept"), 1, "disk full\nState left: old data kept"),
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device", "/var"), 1, "No space left on device (/var)"),
    ],
)
def test_errors_become_a_message_and_a_code(
    error: BaseException, code: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Ledger) -> tuple[str, ...]:
        raise error

    monkeypatch.setattr(Ledger, "verify", broken)
    assert cli.run(["report", "--all"]) == code
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.out == ""


def test_report_shows_the_last_run_unless_told_otherwise(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["report"], ["report", "--last"]):
        assert "run-xyz" in shown(capsys, *arguments, "--ledger", str(ledger))
    assert "# RECOVERED" in shown(capsys, "report", "run-a", "--ledger", str(ledger))
    both = shown(capsys, "report", "--all", "--ledger", str(ledger))
    assert "run-abc" in both
    assert "## Compliance" in both


def test_report_as_json_is_json_alone(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = shown(capsys, "report", "--json", "--ledger", str(ledger))
    assert RecoveryRecord.model_validate_json(one) == failed("run-xyz")
    everything = json.loads(shown(capsys, "report", "--all", "--json", "--ledger", str(ledger)))
    assert [record["run_id"] for record in everything] == ["run-abc", "run-xyz"]


def test_an_edited_ledger_is_warned_of_and_fails_verify(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", "--verify", "--ledger", str(ledger)]) == 0
    ledger.write_text(ledger.read_text().replace("not recovered", "recovered", 1))
    assert cli.run(["report", "--verify", "--ledger", str(ledger)]) == 1
    assert "edited" in capsys.readouterr().err
    assert cli.run(["report", "--json", "--ledger", str(ledger)]) == 0
    captured = capsys.readouterr()
    assert "edited" in captured.err
    json.loads(captured.out)


@pytest.mark.parametrize("arguments", [["run-"], ["none"], ["run-abc", "--all"], ["--last", "--verify"]])
def test_report_that_cannot_be_answered_is_2_and_says_why(
    arguments: list[str], ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["report", *arguments, "--ledger", str(ledger)]) == 2
    assert capsys.readouterr().err.startswith("recoup: ")


def test_a_run_with_two_records_is_shown_by_its_end(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Ledger(ledger).append(failed("run-abc"))
    assert "# NOT RECOVERED" in shown(capsys, "report", "run-abc", "--ledger", str(ledger))


def test_no_ledger_is_2_with_the_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["report", "--ledger", str(tmp_path / "none")]) == 2
    assert "no ledger" in capsys.readouterr().err


def test_drills_are_found_without_naming_a_ledger(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "run-xyz" in shown(capsys, "report")
