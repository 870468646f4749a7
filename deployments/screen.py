"""What the terminal shows of a run: live on a terminal, plain lines elsewhere, one JSON document for programs."""

from __future__ import annotations

import atexit
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import wraps
from typing import ParamSpec

from rich.console import Console, Group, RenderableType
from rich.errors import ConsoleError
from rich.live import Live
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from recoup.clock import human, phases
from recoup.progress import Silent, Watcher, plain, stamped, step_end
from recoup.records import Outcome, RecoveryRecord, StepOutcome, StepRecord, Verdict, now
from recoup.report import checklist_counts, outcome, rpo_standing, rto_standing

P = ParamSpec("P")

COLOURS: dict[str, str] = {
    Verdict.RECOVERED: "green",
    Verdict.NOT_RECOVERED: "red",
    Verdict.UNPROVEN: "yellow",
    Outcome.PASSED: "green",
    Outcome.FAILED: "red",
    StepOutcome.DONE: "green",
    StepOutcome.RUNNING: "cyan",
    "met": "green",
    "missed": "red",
    "unknown": "yellow",
}
SIGNS: dict[StepOutcome, str] = {StepOutcome.DONE: "✓", StepOutcome.FAILED: "✗", StepOutcome.SKIPPED: "–"}


class _Guarded:
    """A watcher that goes quiet when its terminal is gone: a closed window may not stop a recovery."""

    def __init__(self) -> None:
        self.broken = False
        self.lock = threading.RLock()


class PatientConsole(Console):
    """A console that leaves the program running when whoever read its output is gone; rich would end it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


def table_console() -> Console:
    """Give the console for a table: as wide as the table where nobody's terminal is the limit."""
    return Console() if sys.stdout.isatty() else Console(width=240)


def _never_raise(method: Callable[P, None]) -> Callable[P, None]:
    @wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        watcher = args[0]
        assert isinstance(watcher, _Guarded)
        if watcher.broken:
            return
        try:
            with watcher.lock:
                method(*args, **kwargs)
        except (OSError, ValueError, ConsoleError):
            watcher.broken = True

    return guarded


def tell(text: str) -> None:
    """Print a line on standard error, with its moment; a terminal that is gone raises nothing."""
    with suppress(OSError, ValueError):
        print(stamped(text), file=sys.stderr, flush=True)


def open_screen(json: bool) -> Watcher:
    """Give the watcher that suits this terminal: JSON alone, a live view on a terminal, or plain lines."""
    if json:
        return JsonScreen()
    console = PatientConsole(file=sys.stdout, highlight=False)
    return LiveScreen(console) if console.is_terminal and not console.is_dumb_terminal else PlainScreen()


class JsonScreen(_Guarded, Silent):
    """Prints the finished record as one JSON line on standard output, and nothing else.

    A run that handed over is not the end: the record of the one that it handed over to is printed.
    """

    @_never_raise
    def end(self, record: RecoveryRecord) -> None:
        if not record.handed_to:
            print(record.model_dump_json(), flush=True)


class PlainScreen(_Guarded):
    """Prints one line for each thing that happens, with its moment in UTC."""

    @_never_raise
    def begin(self, record: RecoveryRecord) -> None:
        objective = "" if record.beside else f", RTO {human(record.rto_objective)}"
        self._line(f"{_title(record)}: run {record.run_id} on {record.stack}{objective}")

    @_never_raise
    def step(self, step: StepRecord) -> None:
        if step.outcome is StepOutcome.RUNNING:
            self._line(f"{step.title} …")
        else:
            self._line(f"{step.title}: {step_end(step)}")

    @_never_raise
    def note(self, text: str) -> None:
        self._line(f"  {plain(text)}")

    @_never_raise
    def end(self, record: RecoveryRecord) -> None:
        print(f"\n{_title(record)}: {outcome(record).upper()}")
        print(f"  {'why':<12} {plain(record.why)}")
        for name, text, _ in summary(record):
            print(f"  {name:<12} {text}")
        sys.stdout.flush()

    def _line(self, text: str) -> None:
        print(stamped(text), flush=True)


class LiveScreen(_Guarded):
    """A live view: the steps, the time gone against the RTO, and what the running step is doing."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._live: Live | None = None
        self._record: RecoveryRecord | None = None
        self._steps: dict[str, StepRecord] = {}
        self._note = ""
        self._spinner = Spinner("dots")

    @_never_raise
    def begin(self, record: RecoveryRecord) -> None:
        self._stop()
        self._record, self._steps, self._note = record, {s.name: s for s in record.steps}, ""
        self._start()

    @_never_raise
    def step(self, step: StepRecord) -> None:
        self._steps = {**self._steps, step.name: step}
        self._note = ""
        self._start()

    @_never_raise
    def note(self, text: str) -> None:
        self._note = plain(text)
        self._start()

    @_never_raise
    def end(self, record: RecoveryRecord) -> None:
        self._record, self._note = record, ""
        self._steps = {**self._steps, **{step.name: step for step in record.steps}}
        self._stop()
        self._console.print(_panel(record))
        self._record = None

    def __rich__(self) -> RenderableType:
        # Called from the refresh thread, which holds rich's lock: taking ours here could wait for ever. So what is
        # shown is replaced whole, never changed in place.
        record, steps, note = self._record, tuple(self._steps.values()), self._note
        lines: list[RenderableType] = []
        if record:
            lines.append(_heading(record, running=self._live is not None))
        if steps:
            lines.append(self._table(steps))
        if note:
            lines.append(Text(f"   {note}", style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*lines)

    def _table(self, steps: tuple[StepRecord, ...]) -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=2)
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="fold")
        for step in steps:
            running = step.outcome is StepOutcome.RUNNING
            sign = self._spinner if running and self._live else Text(SIGNS.get(step.outcome, "·"))
            if isinstance(sign, Text):
                sign.stylize(COLOURS.get(step.outcome, "dim"))
            took = now() - step.started if running else step.took
            detail = plain(step.detail) + (f" ({step.attempts} attempts)" if step.attempts > 1 else "")
            table.add_row(sign, Text(plain(step.title)), Text(human(took)), Text(detail, style="dim"))
        return table

    def _start(self) -> None:
        if self._live is None:
            self._live = Live(get_renderable=self.__rich__, console=self._console, refresh_per_second=8)
            self._live.start()
            # An error may end the program before `end` is told; the cursor must come back all the same.
            atexit.register(self._stop)

    def _stop(self) -> None:
        live, self._live = self._live, None
        if live:
            atexit.unregister(self._stop)
            live.stop()


def summary(record: RecoveryRecord) -> Iterator[tuple[str, str, str]]:
    """Give the figures of a run line by line: what, text, and the word that colours it."""
    if record.claims:
        standing = rto_standing(record)
        yield "RTO", f"{human(record.clock.rto)} of at most {human(record.rto_objective)}: {standing}", standing
        yield "", ", ".join(f"{phase.name} {human(phase.took)}" for phase in phases(record.clock)), ""
    for loss in record.stores:
        standing = rpo_standing(record, loss)
        text = f"{loss.store}: {human(loss.achieved)} of at most {human(loss.objective)}: {standing}"
        yield "RPO", text, standing
        if loss.acknowledged_writes_lost is not None:
            of = "" if loss.acknowledged_writes is None else f" of {loss.acknowledged_writes}"
            yield "writes lost", f"{loss.store}: {loss.acknowledged_writes_lost}{of} acknowledged", ""
    if record.backup:
        used = record.backup
        yield "backup set", used.set_id or ("none needed" if used.why else "none usable"), ""
        if used.why:
            yield "", plain(used.why), ""
        for skipped in record.backup.skipped:
            yield "skipped set", f"{skipped.set_id}: {plain(skipped.reason)}", "unknown"
    for check in record.checks:
        yield (
            "check",
            f"{check.outcome}: {check.name}" + (f": {plain(check.seen)}" if check.seen else ""),
            check.outcome,
        )
    if record.checklist:
        yield "checklist", checklist_counts(record.checklist), ""
        for item in record.checklist:
            if item.outcome is Outcome.FAILED:
                yield "", f"{item.outcome}: {item.item}: {plain(item.seen)}", item.outcome
    if record.state_left:
        yield "state left", plain(record.state_left), ""
    if record.next_step:
        yield "next", plain(record.next_step), ""


def _panel(record: RecoveryRecord) -> Panel:
    colour = COLOURS[record.verdict]
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    rows.add_row("", Text(plain(record.why), style="" if record.verdict is Verdict.RECOVERED else f"bold {colour}"))
    for name, text, word in summary(record):
        rows.add_row(name, Text(text, style=COLOURS.get(word, "")))
    title = Text(f" {outcome(record).upper()} ", style=f"bold {colour} reverse")
    return Panel(rows, title=title, subtitle=Text(f"run {record.run_id}", style="dim"), border_style=colour)


def _heading(record: RecoveryRecord, *, running: bool) -> Text:
    since = record.clock.began or record.clock.started
    elapsed = (now() if running else record.clock.restored or record.clock.closed or now()) - since
    over = elapsed > record.rto_objective
    text = Text(_title(record), style="bold")
    if record.beside:
        return text.append(f"  {_ticking(elapsed)}", style="bold cyan")
    text.append(f"  {_ticking(elapsed)}", style="bold red" if over else "bold cyan")
    whence = "outage" if record.clock.began else "start; when it began is unknown"
    text.append(f" of {human(record.rto_objective)} since {whence}", style="dim")
    return text


def _ticking(elapsed: timedelta) -> str:
    minutes, seconds = divmod(int(max(elapsed, timedelta(0)).total_seconds()), 60)
    return f"{minutes:02d}:{seconds:02d}"


def _title(record: RecoveryRecord) -> str:
    drill = f" (drill: {record.fault})" if record.drill and record.fault else " (drill)" if record.drill else ""
    return f"{record.procedure} {record.component}{drill}"
