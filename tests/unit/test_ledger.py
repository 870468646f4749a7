from __future__ import annotations

import fcntl
import json
import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from recoup.errors import PreconditionError, RecoveryError
from recoup.ledger import FORMAT, Ledger, _hash
from recoup.records import Verdict
from tests.unit.samples import failed, recovered


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "state" / "ledger.jsonl")
    for number in range(4):
        made.append(recovered(f"run-{number}"))
    return made


def lines(ledger: Ledger) -> list[str]:
    return ledger.path.read_text().splitlines(keepends=True)


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.records() == ()
    assert ledger.last() is None
    ledger.append(recovered())
    ledger.append(failed())
    assert ledger.records() == (recovered(), failed())
    assert ledger.last() == failed()
    assert ledger.verify() == ()


def test_an_edited_line_is_named(ledger: Ledger) -> None:
    told = lines(ledger)
    told[1] = told[1].replace('"recovered"', '"unproven"')
    ledger.path.write_text("".join(told))
    problems = ledger.verify()
    assert len(problems) == 1
    assert "line 2" in problems[0]
    assert "edited" in problems[0]


def test_an_edited_line_whose_hash_was_made_to_fit_breaks_the_chain_after_it(ledger: Ledger) -> None:
    told = lines(ledger)
    other = Ledger(ledger.path.with_name("forged.jsonl"))
    other.append(recovered("run-0"))
    other.append(recovered("run-1").model_copy(update={"why": "forged"}))
    told[1] = lines(other)[1]
    ledger.path.write_text("".join(told))
    assert any("line 3" in problem and "replaced" in problem for problem in ledger.verify())


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_removed_line_is_noticed(ledger: Ledger, gone: int) -> None:
    told = lines(ledger)
    del told[gone]
    ledger.path.write_text("".join(told))
    assert any("removed" in problem for problem in ledger.verify())


def test_lines_removed_from_the_end_are_noticed(ledger: Ledger) -> None:
    ledger.path.write_text("".join(lines(ledger)[:2]))
    assert any("end" in problem and "record 4" in problem for problem in ledger.verify())


def test_reordered_lines_are_noticed(ledger: Ledger) -> None:
    told = lines(ledger)
    told[1], told[2] = told[2], told[1]
    ledger.path.write_text("".join(told))
    assert any("moved" in problem for problem in ledger.verify())


@pytest.mark.parametrize("cut", [1, 50])
def test_a_torn_last_line_is_named_and_kept_aside_by_the_next_append(ledger: Ledger, cut: int) -> None:
    os.truncate(ledger.path, ledger.path.stat().st_size - cut)
    assert any("torn" in problem for problem in ledger.verify())
    assert [r.run_id for r in ledger.records()] == ["run-0", "run-1", "run-2"]
    torn = ledger.path.read_bytes().split(b"\n")[3]
    ledger.append(failed())
    assert [r.run_id for r in ledger.records()] == ["run-0", "run-1", "run-2", "run-2"]
    assert ledger.verify() == ()
    (aside,) = ledger.path.parent.glob("ledger.jsonl.torn-*")
    assert aside.read_bytes() == torn


def test_garbage_in_the_middle_hides_no_other_record_and_is_named(ledger: Ledger) -> None:
    told = lines(ledger)
    told[2] = "\x00\x00 not json\n"
    ledger.path.write_text("".join(told))
    assert [r.run_id for r in ledger.records()] == ["run-0", "run-1", "run-3"]
    assert any("line 3: not readable" in problem for problem in ledger.verify())


def test_records_of_another_version_are_read_with_what_is_known_of_them(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append(recovered())
    newer = json.loads(recovered("newer").model_dump_json())
    newer["region"] = "eu"
    newer["clock"]["noticed"] = None
    previous = json.loads(lines(ledger)[0])["hash"]
    entry = {"seq": 2, "format": FORMAT, "previous": previous, "record": newer}
    with ledger.path.open("a") as file:
        file.write(json.dumps({**entry, "hash": _hash(previous, 2, FORMAT, newer)}) + "\n")
    ledger.append(recovered("after"))
    assert [r.run_id for r in ledger.records()] == ["run-1", "newer", "after"]
    assert ledger.verify() == ()


def test_a_record_written_by_version_0_1_0_is_still_read_and_whole() -> None:
    ledger = Ledger(Path(__file__).parent / "data" / "ledger-0.1.0.jsonl")
    (record,) = ledger.records()
    assert record.verdict is Verdict.RECOVERED
    assert record.clock.rto == timedelta(seconds=100)
    assert ledger.verify() == ()


def test_many_writers_lose_nothing_and_keep_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"

    def write(writer: int) -> None:
        for number in range(5):
            Ledger(path).append(recovered(f"{writer}-{number}"))

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger = Ledger(path)
    assert {r.run_id for r in ledger.records()} == {f"{w}-{n}" for w in range(6) for n in range(5)}
    assert ledger.verify() == ()


def test_a_writer_that_never_lets_go_is_not_waited_for_for_ever(ledger: Ledger) -> None:
    with ledger.path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RecoveryError, match="run-9"):
            Ledger(ledger.path, patience=timedelta(milliseconds=50)).append(recovered("run-9"))


def test_a_place_that_cannot_be_written_or_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecoveryError, match="could not be added"):
        Ledger(tmp_path / "file" / "ledger.jsonl").append(recovered())
    with pytest.raises(PreconditionError, match="cannot be read"):
        Ledger(tmp_path / "file" / "ledger.jsonl").records()
