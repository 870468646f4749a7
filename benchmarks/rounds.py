"""Rounds of measurements in shuffled order, their medians, and the machine they were made on."""

from __future__ import annotations

import os
import platform
import random
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

screen = Console(stderr=True, highlight=False)
QUIET = 0.15


@dataclass(frozen=True)
class Machine:
    """Where and when it was measured; ``load`` is the load average of the minute before."""

    when: str
    system: str
    cores: int
    memory_gb: float
    load: float

    def __str__(self) -> str:
        return f"{self.when}, {self.system}, {self.cores} cores, {self.memory_gb:.0f} GB, load {self.load:.1f}"


def machine() -> Machine:
    """Describe this machine, now."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return Machine(
        when=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        system=platform.platform(terse=True),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(memory, 1),
        load=round(os.getloadavg()[0], 2),
    )


@dataclass
class Contestant:
    """One way to do a thing: ``act`` does it; ``before`` and ``after`` prepare and clear, untimed.

    ``rival`` names the contestant it is held against. ``busy`` is, of each round, the share of the machine that was
    in use in the second before: other programs' load, for the benchmark rests then. ``cpu`` are the CPU seconds that it
    took, of every process of its own, which others' load hardly changes.
    """

    name: str
    act: Callable[[], None]
    rival: str = ""
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    seconds: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """What came out for one contestant; ``faster`` is its rival's median divided by its own."""

    name: str
    median: float
    seconds: tuple[float, ...]
    rival: str
    faster: float | None
    busy_before: tuple[float, ...]
    cpu_median: float | None


def play(
    contestants: Sequence[Contestant],
    rounds: int,
    patience: float,
    cpu: Callable[[], float] | None = None,
    seed: int = 1,
) -> tuple[Figure, ...]:
    """Let every contestant run once in each round, the order shuffled anew, and give the figures.

    Before each it is waited until other programs leave the machine alone, at most ``patience`` seconds. ``cpu`` reads
    the CPU seconds that everything measured here has used so far.
    """
    order = random.Random(seed)
    for number in range(1, rounds + 1):
        for one in order.sample(contestants, len(contestants)):
            one.before()
            busy = rest(patience)
            try:
                used, started = cpu() if cpu else 0.0, time.monotonic()
                one.act()
                took = time.monotonic() - started
                if cpu:
                    one.cpu.append(cpu() - used)
            finally:
                one.after()
            one.seconds.append(took)
            one.busy.append(busy)
            screen.print(f"round {number}/{rounds}  {one.name:<48} {took:7.2f} s   (others: {busy:.0%} before)")
    return figures(contestants)


def figures(contestants: Sequence[Contestant]) -> tuple[Figure, ...]:
    """Give medians, and ratios between the medians of rivals."""
    medians = {one.name: statistics.median(one.seconds) for one in contestants}
    return tuple(
        Figure(
            name=one.name,
            median=round(medians[one.name], 2),
            seconds=tuple(round(s, 2) for s in one.seconds),
            rival=one.rival,
            faster=round(medians[one.rival] / medians[one.name], 2) if one.rival else None,
            busy_before=tuple(round(share, 2) for share in one.busy),
            cpu_median=round(statistics.median(one.cpu), 2) if one.cpu else None,
        )
        for one in contestants
    )


def rest(patience: float) -> float:
    """Wait until other programs use little of the machine, and give the share that they used in the last second."""
    until = time.monotonic() + patience
    while True:
        busy, every = _ticks()
        time.sleep(1.0)
        more_busy, more = _ticks()
        share = (more_busy - busy) / max(more - every, 1)
        if share <= QUIET or time.monotonic() >= until:
            return share


@contextmanager
def working_place(scratch: Path | None) -> Iterator[Path]:
    """Give an empty directory, removed afterwards, and have recoup keep its state beside it.

    What a killed benchmark leaves is found there by the next one.
    """
    state = (scratch or Path(tempfile.gettempdir())) / f"recoup-benchmark-{os.getuid()}"
    state.mkdir(exist_ok=True)
    os.environ["RECOUP_STATE"] = str(state.absolute())
    signal.signal(signal.SIGTERM, _terminated)
    with tempfile.TemporaryDirectory(prefix="run-", dir=state) as name:
        for place in (state, Path(name)):
            place.chmod(0o755)  # the sandbox's database runs as another user when the caller is root
        yield Path(name).absolute()
    if not any((state / "sandboxes").glob("*")):
        shutil.rmtree(state)


def table(title: str, found: Sequence[Figure]) -> Table:
    """Give the figures as a table."""
    shown = Table("", "median", "× faster", "CPU", "rounds", title=title, title_justify="left", title_style="bold")
    for column in shown.columns[1:4]:
        column.justify = "right"
    for one in found:
        rounds = "  ".join(f"{s:.1f}" for s in one.seconds)
        cpu = f"{one.cpu_median:.1f} s" if one.cpu_median is not None else ""
        shown.add_row(one.name, f"{one.median:.1f} s", f"{one.faster:.1f}" if one.faster else "1", cpu, rounds)
    return shown


def cpu_of_tree(root: int) -> float:
    """Give the CPU seconds of a process, its living descendants, and those that have ended and were waited for."""
    parents, seconds = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path("/proc", entry, "stat").read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            # The name, in parentheses, may itself hold spaces; proc(5) counts it as field 2, utime to cstime 14 to 17.
            fields = text.rpartition(")")[2].split()
            parents[int(entry)], seconds[int(entry)] = int(fields[1]), sum(int(f) for f in fields[11:15])
    ticks = 0
    for process in parents:
        above: int | None = process
        while above not in (None, root):
            above = parents.get(above or 0)
        ticks += seconds[process] if above == root else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _ticks() -> tuple[int, int]:
    fields = [int(f) for f in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)
