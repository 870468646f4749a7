from __future__ import annotations

import json
import os
import resource
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recoup.errors import PreconditionError, RecoveryError
from recoup.journal import Journal, RunHeader
from recoup.records import StepOutcome, StepRecord, now


def header(run_id: str = "r1", component: str = "database") -> RunHeader:
    return RunHeader(run_id=run_id, platform="neo", procedure="recover-database", component=component)


def step(name: str, outcome: StepOutcome = StepOutcome.RUNNING) -> StepRecord:
    ended = None if outcome is StepOutcome.RUNNING else now()
    return StepRecord(name=name, title=name.title(), started=now(), ended=ended, outcome=outcome)


def unfinished(state: Path, component: str = "database", max_age: timedelta = timedelta(hours=24)) -> Journal | None:
    return Journal.unfinished(state, "neo", "recover-database", component, max_age)


def killed_after_two_steps(state: Path) -> Journal:
    journal = Journal.create(state, "r1", header())
    journal.mark("started", datetime(2026, 1, 1, tzinfo=UTC))
    for name in ("diagnose", "restart"):
        journal.opened(step(name))
        journal.finished(step(name, StepOutcome.DONE), json.dumps({"of": name}))
    journal.opened(step("restore"))
    return journal


def test_a_killed_run_is_found_with_what_it_had_finished(tmp_path: Path) -> None:
    killed_after_two_steps(tmp_path)
    found = unfinished(tmp_path)
    assert found is not None
    assert found.header == header()
    assert [(s.name, s.outcome) for s in found.steps] == [
        ("diagnose", StepOutcome.DONE),
        ("restart", StepOutcome.DONE),
        ("restore", StepOutcome.RUNNING),
    ]
    done = found.result_of("restart")
    assert done is not None
    assert json.loads(done[1]) == {"of": "restart"}
    assert found.result_of("restore") is None
    assert found.result_of("never") is None
    assert found.marks == {"started": datetime(2026, 1, 1, tzinfo=UTC)}


def test_a_closed_run_is_not_taken_up_again(tmp_path: Path) -> None:
    killed_after_two_steps(tmp_path).close("not recovered")
    assert unfinished(tmp_path) is None


def test_another_job_and_an_old_run_are_left_alone(tmp_path: Path) -> None:
    killed_after_two_steps(tmp_path)
    assert unfinished(tmp_path, component="cache") is None
    assert unfinished(tmp_path, max_age=timedelta(0)) is None
    assert unfinished(tmp_path / "nowhere") is None


def test_one_of_long_ago_that_cannot_be_read_hinders_no_recovery(tmp_path: Path) -> None:
    killed_after_two_steps(tmp_path)
    unreadable = tmp_path / "runs" / "unreadable.jsonl"
    unreadable.mkdir()
    with pytest.raises(PreconditionError, match="cannot be read"):
        unfinished(tmp_path)
    os.utime(unreadable, (1_700_000_000, 1_700_000_000))
    assert unfinished(tmp_path) is not None


def test_the_newest_of_several_is_taken(tmp_path: Path) -> None:
    for run_id in ("b", "c", "a"):
        Journal.create(tmp_path, run_id, header(run_id))
    found = unfinished(tmp_path)
    assert found is not None
    assert found.header.run_id == "a"


def test_a_failed_step_has_no_result_to_go_on_with(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, "r1", header())
    journal.finished(step("restore", StepOutcome.FAILED), "{}")
    assert journal.result_of("restore") is None


def test_a_step_opened_again_has_to_be_done_again(tmp_path: Path) -> None:
    journal = killed_after_two_steps(tmp_path)
    journal.opened(step("restart"))
    again = Journal.load(journal.path)
    assert again is not None
    assert again.result_of("restart") is None
    assert journal.result_of("restart") is None
    assert [s.name for s in again.steps] == ["diagnose", "restart", "restore"]


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_torn_last_line_is_as_if_never_written_and_writing_goes_on(tmp_path: Path, cut: int) -> None:
    journal = killed_after_two_steps(tmp_path)
    journal.finished(step("restore", StepOutcome.DONE), json.dumps({"rows": "7" * 300}))
    os.truncate(journal.path, journal.path.stat().st_size - cut)
    found = unfinished(tmp_path)
    assert found is not None
    assert found.result_of("restore") is None
    found.finished(step("restore", StepOutcome.DONE), "{}")
    found.close("recovered")
    whole = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert whole[-1]["kind"] == "closed"
    assert unfinished(tmp_path) is None


def test_nothing_after_a_damaged_line_is_believed(tmp_path: Path) -> None:
    journal = killed_after_two_steps(tmp_path)
    lines = journal.path.read_bytes().splitlines(keepends=True)
    (damaged,) = (n for n, line in enumerate(lines) if b"finished" in line and b"restart" in line)
    lines[damaged] = b"\x00" * (len(lines[damaged]) - 1) + b"\n"
    journal.path.write_bytes(b"".join(lines))
    found = unfinished(tmp_path)
    assert found is not None
    assert found.result_of("diagnose") is not None
    assert found.result_of("restart") is None


def test_a_journal_without_a_whole_header_is_nobodys_run(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, "r1", header())
    os.truncate(journal.path, 10)
    assert unfinished(tmp_path) is None


def test_each_call_is_readable_by_another_process_when_it_returns(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, "r1", header())
    for number in range(3):
        journal.opened(step(f"s{number}"))
        reader = Journal.load(journal.path)
        assert reader is not None
        assert len(reader.steps) == number + 1


def test_a_run_id_is_used_once_and_stays_in_its_directory(tmp_path: Path) -> None:
    Journal.create(tmp_path, "r1", header())
    with pytest.raises(PreconditionError, match="already"):
        Journal.create(tmp_path, "r1", header())
    with pytest.raises(PreconditionError, match="cannot name a file"):
        Journal.create(tmp_path, "../r2", header())
    assert len(list(tmp_path.rglob("*.jsonl"))) == 1


def test_a_full_disk_is_an_error_and_leaves_no_half_line(tmp_path: Path) -> None:
    journal = killed_after_two_steps(tmp_path)
    before = journal.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, hard))
    try:
        with pytest.raises(RecoveryError, match="cannot be written"):
            journal.finished(step("restore", StepOutcome.DONE), "x" * 500)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert journal.path.read_bytes() == before
    assert journal.result_of("restore") is None
