"""A writer that lives while backups are taken: so many transactions a second, the wait for each of them known."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.workbench import Workbench

RATE = 200
CLIENTS = 8
Window = tuple[float, float]

_TABLE = "CREATE TABLE written (aid int, delta int, at timestamptz DEFAULT now())"
_SCRIPT = """\\set aid random(1, {accounts})
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
INSERT INTO written (aid, delta) VALUES (:aid, :delta);
END;
"""


@dataclass(frozen=True)
class Latency:
    """How long a transaction waited, from when it was due: milliseconds."""

    p50: float
    p99: float
    transactions: int


class Writer:
    """What a writer noted, to be read when it has ended: when each transaction ended, and how long it took."""

    def __init__(self) -> None:
        self.ended: list[tuple[float, float]] = []

    def latency(self, windows: Sequence[Window]) -> Latency | None:
        """Give the latency of the transactions that ended in the windows of time (seconds since 1970)."""
        waits = [wait for at, wait in self.ended if any(begin <= at <= end for begin, end in windows)]
        if len(waits) < 100:
            return None
        cuts = statistics.quantiles(waits, n=100)
        return Latency(round(cuts[49], 2), round(cuts[98], 2), len(waits))


@contextmanager
def writing(of: Workbench, accounts: int) -> Iterator[Writer]:
    """Have pgbench write while the block runs; what it noted is there afterwards.

    Its clients are due at random moments, and what is late counts from when it was due: a server that stands still for
    a second delays all that was due in it.
    """
    of.run('psql --no-psqlrc --quiet --command="$1"', _TABLE)
    of.run('echo "$1" >"$2"', _SCRIPT.format(accounts=accounts), f"{of.place}/writer.sql")
    of.run(
        f"cd {of.place} && nohup pgbench --no-vacuum --rate={RATE} --client={CLIENTS} --jobs=1 --time=36000 --log "
        "--log-prefix=writer --file=writer.sql >writer.out 2>&1 & echo $! >$1",
        f"{of.place}/writer.pid",
    )
    found = Writer()
    try:
        time.sleep(2)
        of.run('kill -0 $(cat "$1/writer.pid") || { cat "$1/writer.out" >&2; exit 1; }', str(of.place))
        yield found
    finally:
        of.run(
            'cd "$1"; kill $(cat writer.pid) && while kill -0 $(cat writer.pid); do sleep 0.1; done 2>&-',
            str(of.place),
            check=False,
        )
    # client, transaction, microseconds, script, second and microsecond of its end, lateness of its begin
    for line in of.run('cat "$1"/writer.[0-9]*', str(of.place)).text.splitlines():
        fields = line.split()
        if len(fields) >= 7 and fields[2].isdigit():
            found.ended.append((int(fields[4]) + int(fields[5]) / 1e6, int(fields[2]) / 1e3))
