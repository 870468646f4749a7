from __future__ import annotations

import re

from recoup.records import BackupUse, Check, KeptLog, Outcome, RecoveryRecord, Subject, Verdict
from recoup.report import Standing, history, rpo_standing, rto_standing, run_report
from tests.unit.samples import failed, recovered


def rows(markdown: str, heading: str) -> list[list[str]]:
    """Give the cells of the first table after a heading, without its header."""
    table = re.search(r"\|.*?(?:\n\n|\Z)", markdown.split(heading, 1)[1], re.DOTALL)
    assert table
    lines = table.group().strip().splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def changed(record: RecoveryRecord, **update: object) -> RecoveryRecord:
    return record.model_copy(update=update)


def test_the_verdict_stands_first_and_the_reason_of_a_failure_stands_large() -> None:
    assert run_report(recovered()).startswith("# RECOVERED")
    told = run_report(failed())
    assert told.startswith("# NOT RECOVERED")
    assert "## step restore failed: no good backup set" in told
    assert "## every step" not in run_report(recovered())


def test_objectives_show_achieved_allowed_and_standing() -> None:
    rto, rpo = rows(run_report(recovered()), "## Objectives")
    assert rto[:4] == ["RTO", "1 min 40 s", "1 h", "met"]
    assert rpo[:5] == ["RPO of database", "30 s", "15 min", "met", "3 of 120"]


def test_what_was_not_restored_has_missed_its_rto_and_knows_no_rpo() -> None:
    rto, rpo = rows(run_report(failed()), "## Objectives")
    assert rto[:4] == ["RTO", "unknown", "1 h", "missed"]
    assert rpo[:4] == ["RPO of database", "unknown", "15 min", "unknown"]


def test_the_clock_is_split_and_unknown_parts_say_so() -> None:
    whole = {row[0]: row[3] for row in rows(run_report(recovered()), "## Clock")}
    assert whole == {"detect": "1 s", "declare": "1 s", "approve": "1 s", "execute": "1 min 37 s", "verify": "2 s"}
    cut = {row[0]: row[3] for row in rows(run_report(failed()), "## Clock")}
    assert (cut["execute"], cut["verify"]) == ("unknown", "unknown")


def test_a_recovery_that_needed_no_set_does_not_look_as_if_none_was_usable() -> None:
    took_over = changed(recovered(), backup=BackupUse(set_id=None, why="the standby b took over"))
    assert "No backup set was needed: the standby b took over" in run_report(took_over)
    assert "No usable backup set was found" in run_report(failed())


def test_steps_checks_and_backup_sets_are_told() -> None:
    told = run_report(recovered())
    assert rows(told, "## Steps") == [
        ["1", "Restore the newest good backup", "done", "1 min 27 s", "2", "from set-1"],
    ]
    assert [row[:2] for row in rows(told, "## Checks")] == [["passed", "row counts"], ["passed", "login"]]
    assert "Used: set-1" in told
    assert rows(told, "## Backup set") == [["set-2", "data.zst: sha256 differs"]]


def test_a_failure_tells_the_state_left_and_the_next_step() -> None:
    told = run_report(failed())
    assert "No usable backup set was found" in told
    assert "the old data is untouched" in told
    assert "name a dump with --backup" in told
    assert "nothing is proven" in told


def test_hostile_text_cannot_leave_its_cell() -> None:
    nasty = "a | b\nc <script>x</script> \x1b[31m \\| d"
    check = Check(name=nasty, subject=Subject.DATA, outcome=Outcome.FAILED, seen=nasty)
    told = run_report(changed(recovered(), checks=(check,), reason=nasty, why=nasty))
    (row,) = rows(told, "## Checks")
    assert len(row) == 5
    assert "<script" not in told
    assert "\x1b" not in told


def test_met_needs_a_run_that_recovered_and_data_that_was_checked() -> None:
    good = recovered()
    (store,) = good.stores
    assert rto_standing(good) is Standing.MET
    assert rpo_standing(good, store) is Standing.MET
    unproven = changed(good, verdict=Verdict.UNPROVEN, checks=good.checks[1:])
    assert rto_standing(unproven) is Standing.UNKNOWN
    assert rpo_standing(unproven, store) is Standing.UNKNOWN
    wrong = changed(
        good, verdict=Verdict.NOT_RECOVERED, checks=(good.checks[0].model_copy(update={"outcome": Outcome.FAILED}),)
    )
    assert rto_standing(wrong) is Standing.MISSED
    assert rpo_standing(wrong, store) is Standing.MISSED


def test_history_lists_the_newest_first_and_keeps_drills_apart_from_real_runs() -> None:
    later = recovered("late")
    later = changed(later, clock=later.clock.model_copy(update={"started": later.clock.closed}))
    told = history([recovered("early"), later, failed("real")])
    assert rows(told, "# Runs")[0][1] == "late"
    assert "- drills: recovered in 2 of 2 (100 %)" in told
    assert "- drills: RTO met in 2 of 2 (100 %), missed in 0, unknown in 0" in told
    assert "- real runs: RTO met in 0 of 1 (0 %), missed in 1, unknown in 0" in told
    assert "- real runs: RPO of database met in 0 of 1 (0 %), missed in 0, unknown in 1" in told


def test_a_share_is_never_rounded_up_to_all() -> None:
    told = history([*(recovered(str(n)) for n in range(299)), changed(failed(), drill=True)])
    assert "recovered in 299 of 300 (99 %)" in told


def test_a_run_that_was_interrupted_and_went_on_counts_once_by_its_end() -> None:
    interrupted = changed(recovered(), verdict=Verdict.UNPROVEN, why="the run was interrupted")
    told = history([interrupted, recovered()])
    assert len(rows(told, "# Runs")) == 1
    assert "- drills: recovered in 1 of 1 (100 %)" in told


def test_no_runs_are_said_to_be_none() -> None:
    assert "No run has been recorded" in history([])


def test_what_was_restored_beside_has_no_part_in_the_objectives() -> None:
    beside = changed(recovered("beside"), drill=False, fault=None, beside=True, stores=())
    told = run_report(beside)
    assert told.startswith("# RESTORED BESIDE")
    assert "None is claimed" in told
    listed = history([beside, changed(beside, run_id="not", verdict=Verdict.NOT_RECOVERED), failed("real")])
    assert {row[1]: (row[3], row[4], row[5]) for row in rows(listed, "# Runs")}["beside"] == (
        "beside",
        "restored beside",
        "none claimed",
    )
    assert "- real runs: recovered in 0 of 1 (0 %)" in listed
    assert "- real runs: RTO met in 0 of 1 (0 %), missed in 1, unknown in 0" in listed


def test_a_run_that_handed_over_claims_nothing() -> None:
    handed = recovered("handed").model_copy(
        update={"handed_to": "the database procedure (postgres)", "verdict": Verdict.UNPROVEN}
    )
    assert run_report(handed).startswith("# HANDED OVER")
    assert "None is claimed here" in run_report(handed)
    text = history([handed, recovered("other")])
    assert "recovered in 1 of 1" in text
    assert "none claimed" in text


def test_kept_logs_stay_in_their_block() -> None:
    log = KeptLog(service="gateway", tail="first\n```\n# not a heading\x1b[31m", file="/evidence/gateway.log")
    text = run_report(recovered().model_copy(update={"logs": (log,)}))
    assert "## Logs kept" in text
    assert "\n    first\n    ```\n    # not a heading�[31m\n" in text
    assert "\n# not" not in text
