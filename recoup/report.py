"""Reports drawn from recovery records alone: the report of one run, and the history of many, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum

from recoup.clock import human, phases
from recoup.records import ItemResult, Outcome, RecoveryRecord, StoreLoss, Subject, Verdict


class Standing(StrEnum):
    """Of an objective in one run; what was not seen is unknown, never met."""

    MET = "met"
    MISSED = "missed"
    UNKNOWN = "unknown"


_BESIDE = {
    Verdict.RECOVERED: "restored beside",
    Verdict.NOT_RECOVERED: "not restored",
    Verdict.UNPROVEN: Verdict.UNPROVEN.value,
}


def rto_standing(record: RecoveryRecord) -> Standing:
    """Judge the RTO of a run: met only by a run that recovered, missed by one that did not."""
    if record.verdict is Verdict.NOT_RECOVERED or record.rto_met is False:
        return Standing.MISSED
    return Standing.MET if record.rto_met and record.verdict is Verdict.RECOVERED else Standing.UNKNOWN


def rpo_standing(record: RecoveryRecord, store: StoreLoss) -> Standing:
    """Judge the RPO of one store: met only where the data was looked at and every data check passed."""
    data = [check.outcome for check in record.checks if check.subject is Subject.DATA]
    if store.met is False or Outcome.FAILED in data:
        return Standing.MISSED
    return Standing.MET if store.met and data and set(data) == {Outcome.PASSED} else Standing.UNKNOWN


def outcome(record: RecoveryRecord) -> str:
    """Give the verdict in words that fit what was done: nothing is recovered by restoring beside what is in use."""
    if record.handed_to and record.verdict is Verdict.UNPROVEN:
        return "handed over"
    return _BESIDE[record.verdict] if record.beside else record.verdict


def run_report(record: RecoveryRecord) -> str:
    """Give the report of one run as Markdown: the verdict first, then the figures, then how it came about."""
    parts = [
        f"# {outcome(record).upper()}: {_text(record.component)}, {_text(record.scenario or record.procedure)}",
        _why(record),
        _table(
            ("run", "kind", "procedure", "stack", "operator", "plan", "recoup"),
            [
                (
                    record.run_id,
                    _kind(record),
                    record.procedure,
                    record.stack,
                    record.operator or "unknown",
                    f"{record.plan} {record.plan_version}",
                    record.recoup_version,
                )
            ],
        ),
        *([f"Reason given: {_text(record.reason)}"] if record.reason else []),
        "## Objectives",
        _objectives(record),
        "## Clock",
        f"Began: {_moment(record.clock.began)} (named by: {_text(record.clock.began_source)})",
        _table(
            ("phase", "from", "to", "took"),
            [(p.name, _moment(p.start), _moment(p.end), human(p.took)) for p in phases(record.clock)],
        ),
        "## Steps",
        _steps(record),
        "## Checks",
        _checks(record),
        *_closing(record),
        "## Backup set",
        _backup(record),
        *_logs(record),
        "## State left",
        _text(record.state_left) or "nothing was noted",
        "## Next step",
        _text(record.next_step) or "none",
    ]
    return "\n\n".join(parts) + "\n"


def history(records: Iterable[RecoveryRecord]) -> str:
    """Give many runs as one Markdown table, newest first, and the share of them that met their RTO and RPO.

    Of a run with several records, an interrupted one that went on, the last given counts.
    """
    ends = {record.run_id: record for record in records}
    runs = sorted(ends.values(), key=lambda record: record.clock.started, reverse=True)
    if not runs:
        return "# Runs\n\nNo run has been recorded.\n"
    rows = [
        (
            _moment(run.clock.started),
            run.run_id,
            f"{run.procedure} {run.component}",
            _kind(run),
            outcome(run),
            "none claimed"
            if not run.claims
            else f"{human(run.clock.rto)} of {human(run.rto_objective)}: {rto_standing(run)}",
            _rpo_cell(run),
            _lost(run.stores),
        )
        for run in runs
    ]
    columns = ("started", "run", "what", "kind", "verdict", "RTO", "RPO", "acknowledged writes lost")
    # What was restored beside, or handed over, ended no outage: it has no part in the objectives.
    claiming = [run for run in runs if run.claims]
    real, drills = [r for r in claiming if not r.drill], [r for r in claiming if r.drill]
    groups = [(name, group) for name, group in (("real runs", real), ("drills", drills)) if group]
    shares = [line for name, group in groups for line in _compliance(name, group)] or ["No run claims an objective."]
    return "\n\n".join(["# Runs", _table(columns, rows), "## Compliance", "\n".join(shares)]) + "\n"


def _compliance(name: str, runs: Sequence[RecoveryRecord]) -> Iterable[str]:
    recovered = sum(run.verdict is Verdict.RECOVERED for run in runs)
    yield f"- {name}: recovered in {_share(recovered, len(runs))}"
    yield f"- {name}: RTO {_standings([rto_standing(run) for run in runs])}"
    for store in sorted({store.store for run in runs for store in run.stores}):
        seen = [rpo_standing(run, loss) for run in runs for loss in run.stores if loss.store == store]
        yield f"- {name}: RPO of {_text(store)} {_standings(seen)}"


def _standings(seen: Sequence[Standing]) -> str:
    share = _share(seen.count(Standing.MET), len(seen))
    return f"met in {share}, missed in {seen.count(Standing.MISSED)}, unknown in {seen.count(Standing.UNKNOWN)}"


def _share(part: int, whole: int) -> str:
    # Rounded down: 99.6 % is not yet all of them.
    return f"{part} of {whole} ({part * 100 // whole} %)"


def _kind(record: RecoveryRecord) -> str:
    if record.beside:
        return "beside"
    return (f"drill: {record.fault}" if record.fault else "drill") if record.drill else "real"


def _why(record: RecoveryRecord) -> str:
    why = _text(record.why) or "no reason was recorded"
    return why if record.verdict is Verdict.RECOVERED else f"> ## {why}"


def _objectives(record: RecoveryRecord) -> str:
    if record.beside:
        return "None is claimed: it was restored beside what is in use, and ended no outage."
    if record.handed_to:
        return f"None is claimed here: it was handed over to {_text(record.handed_to)}, whose record claims them."
    rto = ("RTO", human(record.clock.rto), human(record.rto_objective), rto_standing(record), "", "")
    stores = [
        (
            f"RPO of {store.store}",
            human(store.achieved),
            human(store.objective),
            rpo_standing(record, store),
            _lost([store]),
            f"data complete to {_moment(store.recovery_point)}" + (f" ({store.basis})" if store.basis else ""),
        )
        for store in record.stores
    ]
    columns = ("objective", "achieved", "at most", "standing", "acknowledged writes lost", "read from")
    return _table(columns, [rto, *stores])


def _steps(record: RecoveryRecord) -> str:
    if not record.steps:
        return "No step was begun."
    rows = [
        (
            str(number),
            step.title,
            step.outcome + (" (in an earlier, interrupted run)" if step.resumed else ""),
            human(step.took),
            str(step.attempts),
            step.detail,
        )
        for number, step in enumerate(record.steps, 1)
    ]
    return _table(("#", "step", "outcome", "took", "attempts", "detail"), rows)


def _checks(record: RecoveryRecord) -> str:
    if not record.checks:
        return "No check was made: nothing is proven."
    rows = [(c.outcome, c.name, c.subject, c.expected, c.seen) for c in record.checks]
    return _table(("outcome", "check", "subject", "expected", "seen"), rows)


def _closing(record: RecoveryRecord) -> Iterator[str]:
    if record.checklist:
        yield "## Checklist"
        yield checklist_table(record.checklist)
    if record.post_recovery:
        yield "## After the recovery"
        rows = [(one.action, one.owner, one.known) for one in record.post_recovery]
        yield _table(("action", "owner", "known from the run"), rows)


def checklist_table(items: Sequence[ItemResult]) -> str:
    """Give the checklist as a Markdown table."""
    return _table(("outcome", "item", "seen"), [(one.outcome, one.item, one.seen) for one in items])


def checklist_counts(items: Sequence[ItemResult]) -> str:
    """Give how many items passed, failed and are unproven, in one line."""
    counts = ((sum(one.outcome is outcome for one in items), outcome) for outcome in Outcome)
    return ", ".join(f"{count} {outcome}" for count, outcome in counts if count) or "no item"


def _backup(record: RecoveryRecord) -> str:
    if record.backup is None:
        return "No backup set was needed."
    used = record.backup
    lines = [
        f"Used: {_text(used.set_id)}, data complete to {_moment(used.recovery_point)}"
        if used.set_id
        else f"No backup set was needed: {_text(used.why)}"
        if used.why
        else "**No usable backup set was found.**"
    ]
    if used.set_id and used.why:
        lines.append(f"Why so: {_text(used.why)}")
    if used.skipped:
        lines.append(_table(("skipped set", "why"), [(s.set_id, s.reason) for s in used.skipped]))
    return "\n\n".join(lines)


def _logs(record: RecoveryRecord) -> Iterable[str]:
    if record.logs:
        yield "## Logs kept"
    for log in record.logs:
        yield f"{_text(log.service)}, its last lines before anything was restarted; more in {_text(log.file)}"
        # Indented, a line of the log can neither end the block nor be taken for Markdown.
        yield "\n".join(f"    {_printable(line)}" for line in log.tail.splitlines()) or "    (empty)"


def _rto_cell(run: RecoveryRecord) -> str:
    if not run.claims:
        return "none claimed"
    return f"{human(run.clock.rto)} of {human(run.rto_objective)}: {rto_standing(run)}"


def _rpo_cell(run: RecoveryRecord) -> str:
    return "; ".join(
        f"{loss.store} {human(loss.achieved)} of {human(loss.objective)}: {rpo_standing(run, loss)}"
        for loss in run.stores
    )


def _lost(stores: Sequence[StoreLoss]) -> str:
    counted = [s for s in stores if s.acknowledged_writes_lost is not None]
    if not counted:
        return "not counted"
    lost = sum(s.acknowledged_writes_lost or 0 for s in counted)
    totals = [s.acknowledged_writes for s in counted]
    known = [total for total in totals if total is not None]
    return f"{lost} of {sum(known)}" if len(known) == len(totals) else str(lost)


def _moment(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC" if moment else "unknown"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: str) -> str:
    """Give text that stays in its cell: no new lines, no column bars, no HTML, no terminal codes."""
    for raw, safe in (("&", "&amp;"), ("<", "&lt;"), ("\\", "\\\\"), ("|", "\\|")):
        value = value.replace(raw, safe)
    return _printable("<br>".join(value.splitlines()))


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in line)
