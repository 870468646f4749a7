"""Acknowledged writes lost when a server dies at full load with all its data: `python -m benchmarks.recovery_point`.

In each trial clients write as fast as they can, the server is killed and its data directory emptied, and the real
procedure brings it back from base backup and WAL. What a client was told is committed and is not there is lost.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from datetime import UTC, datetime, timedelta

import psycopg

from benchmarks.rounds import machine, markdown, screen, working_place
from flows.continuous import run_base_backup
from flows.database import DatabaseRecovery, run_recovery
from recoup.errors import RecoveryError
from recoup.places import ledger_path
from recoup.plan import WalPolicy, load_plan
from recoup.records import Verdict
from recoup.stacks import open_stack
from tasks import sandbox
from tasks.heartbeat import watching
from tasks.postgres import Server
from tasks.postgres_fault import Fault, inject

CLIENTS = 8
LOAD = 3.0


class Client:
    """Writes numbered rows one commit at a time, and remembers which were acknowledged, and when."""

    def __init__(self, server: Server, number: int) -> None:
        self.server, self.number = server, number
        self.acknowledged: list[datetime] = []
        self.thread = threading.Thread(target=self._write, daemon=True)

    def _write(self) -> None:
        try:
            with self.server.connect() as connection:
                while True:
                    connection.execute("INSERT INTO public.load VALUES (%s, %s)", [self.number, len(self.acknowledged)])
                    self.acknowledged.append(datetime.now(UTC))
        except psycopg.Error:
            return


def trial(kind: sandbox.Kind, policy: WalPolicy) -> tuple[int, int, timedelta, timedelta]:
    """Give the writes acknowledged and lost, the age of the oldest lost one when the server died, and the RTO."""
    made = sandbox.create(kind, policy=policy)
    try:
        plan = load_plan(made.plan)
        stack = open_stack(plan)
        server = Server.of(plan, stack, None)
        with server.connect() as connection:
            connection.execute("CREATE TABLE public.load (client int, number int, PRIMARY KEY (client, number))")
        run_base_backup(plan, stack, verify=False)
        with watching(server, lambda _: None):
            clients = [Client(server, number) for number in range(CLIENTS)]
            for one in clients:
                one.thread.start()
            time.sleep(LOAD)
            broken = inject(server, Fault.WIPE, made.id)
            for one in clients:
                one.thread.join()
            record = run_recovery(
                plan, DatabaseRecovery(plan=made.plan, began=broken.at), ledger=ledger_path(plan), fault=Fault.WIPE
            )
        if record.verdict is not Verdict.RECOVERED or record.clock.rto is None:
            raise RecoveryError(f"{record.verdict}: {record.why}", state="the figures would be worth nothing")
        with server.connect() as connection:
            rows = connection.execute("SELECT client, number FROM public.load").fetchall()
        there = {(int(str(client)), int(str(number))) for client, number in rows}
        moments = [
            when for one in clients for number, when in enumerate(one.acknowledged) if (one.number, number) not in there
        ]
        last = max(one.acknowledged[-1] for one in clients if one.acknowledged)
        span = last - min(moments) if moments else timedelta()
        return sum(len(one.acknowledged) for one in clients), len(moments), span, record.clock.rto
    finally:
        sandbox.destroy(made)


def main() -> None:
    """Run the trials and print a table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery_point", description=__doc__)
    parser.add_argument("--trials", type=int, default=10, help="for each policy (10)")
    parser.add_argument("--stack", choices=("process", "compose"), default="process", help="what the server runs on")
    asked = parser.parse_args()
    where = machine()
    rows = []
    policies: tuple[WalPolicy, ...] = ("async", "zero-loss")
    with working_place(None):
        for policy in policies:
            found = []
            for number in range(1, asked.trials + 1):
                found.append(trial(asked.stack, policy))
                acknowledged, lost, span, rto = found[-1]
                oldest = f"{_ms(span)} ms, RTO {rto.total_seconds():.1f} s"
                screen.print(f"{policy} {number}/{asked.trials}: {lost} of {acknowledged:,} lost, {oldest}")
            rows.append(
                (
                    policy,
                    str(len(found)),
                    f"{sum(one[0] for one in found):,}",
                    " ".join(str(one[1]) for one in found),
                    " ".join(_ms(one[2]) for one in found),
                    _ms(max(one[2] for one in found)),
                    f"{statistics.median(one[3].total_seconds() for one in found):.1f} s",
                )
            )
    print(f"{CLIENTS} clients, {LOAD:.0f} s of load, SIGKILL and an emptied data directory ({where})\n")
    columns = ("policy", "trials", "acknowledged", "lost in each", "ms lost in each", "most, ms", "RTO, median")
    print(markdown(columns, rows))


def _ms(span: timedelta) -> str:
    return f"{span.total_seconds() * 1000:.0f}"


if __name__ == "__main__":
    main()
