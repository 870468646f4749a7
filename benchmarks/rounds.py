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

screen = Console(stderr=True, highlight=False, soft_wrap=True)
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
    """One way to do a thing: ``act`` does it, ``prove`` looks at what came of it, timed too.

    What counts was there when ``act`` ended, or at the moment that it gives (of time.monotonic).

    ``before`` and ``after`` prepare and clear, untimed. ``ours``: no rival of the others. ``rounds``: take part in no
    more than these. ``windows`` are the times (seconds since 1970) it acted in; ``busy`` is, before each, the share of
    the machine that others used.
    """

    name: str
    act: Callable[[], float | None]
    prove: Callable[[], None] | None = None
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    ours: bool = False
    rounds: int | None = None
    seconds: list[float] = field(default_factory=list)
    proven: list[float] = field(default_factory=list)
    windows: list[tuple[float, float]] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def play(
    contestants: Sequence[Contestant],
    rounds: int,
    patience: float,
    seed: int = 1,
) -> None:
    """Let every contestant run once in each round, the order shuffled anew.

    Before each it is waited until other programs leave the machine alone, at most ``patience`` seconds.
    """
    order = random.Random(seed)
    for number in range(1, rounds + 1):
        taking_part = [one for one in contestants if one.rounds is None or number <= one.rounds]
        for place, one in enumerate(order.sample(taking_part, len(taking_part)), 1):
            if screen.is_terminal:
                screen.print(f"round {number}/{rounds}, {place}/{len(taking_part)}  {one.name:<70} …", end="\r")
            one.before()
            share = rest(patience)
            try:
                began, started = time.time(), time.monotonic()
                reached = one.act()
                took = (reached or time.monotonic()) - started
                one.windows.append((began, time.time()))
                if one.prove:
                    one.prove()
                proven = time.monotonic() - started
            finally:
                one.after()
            one.seconds.append(took)
            one.proven.append(proven)
            one.busy.append(share)
            looked = f", looked at {proven:.1f} s" if one.prove else ""
            screen.print(f"round {number}/{rounds}  {one.name:<46} {took:6.2f} s{looked} (others: {share:.0%} before)")


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


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Give a table as Markdown, as it stands in a README; its first column is text, the others are figures."""
    lines = [columns, ["---", *("--:" for _ in columns[1:])], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _ticks() -> tuple[int, int]:
    fields = [int(f) for f in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)
