"""A warm standby that takes over when the primary dies with all its data: `python -m benchmarks.promotion`.

In each trial the real procedure fences, promotes, and makes the old primary the standby for the next trial. A client
that does nothing but try says when the first write was acknowledged by the promoted server.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg

from benchmarks.rounds import machine, markdown, screen, working_place
from flows.continuous import run_base_backup
from flows.database import DatabaseRecovery, run_recovery
from flows.standby import pair
from recoup.errors import RecoupError, RecoveryError
from recoup.places import ledger_path
from recoup.plan import Plan, load_plan
from recoup.records import Verdict
from recoup.stacks import open_stack
from tasks import sandbox
from tasks.heartbeat import watching, witness_of
from tasks.postgres import Server
from tasks.postgres_fault import Fault, inject
from tasks.wal_receiver import continuous_of

READY = timedelta(minutes=2)
TABLE = "CREATE TABLE public.taken_over (trial int, at timestamptz DEFAULT now())"


class Client:
    """Tries to write to one server until it takes a write, and notes when that was."""

    def __init__(self, server: Server, trial: int) -> None:
        self.server, self.trial = server, trial
        self.acknowledged: datetime | None = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._try, daemon=True)
        self.thread.start()

    def _try(self) -> None:
        while not self.ended.is_set():
            try:
                with self.server.connect() as connection:
                    connection.execute("INSERT INTO public.taken_over (trial) VALUES (%s)", [self.trial])
                self.acknowledged = datetime.now(UTC)
                return
            except (psycopg.Error, RecoupError):
                time.sleep(0.02)


def trial(plan: Plan, made: sandbox.Sandbox, number: int) -> dict[str, float]:
    """Give, in seconds: fault to first acknowledged write, to a user served again, and each step of the taking over."""
    stack = open_stack(plan)
    server = Server.of(plan, stack, None).in_charge()
    until = time.monotonic() + READY.total_seconds()
    # Without a heartbeat that was received nothing tells afterwards that all is there.
    while not (pair(plan).ready and witness_of(continuous_of(server).wal)):
        if time.monotonic() > until:
            raise RecoveryError("the standby does not follow", state="the figures would be worth nothing")
        time.sleep(0.2)
    with _trying(Client(server.other(), number)) as client:
        broken = inject(server, Fault.WIPE, made.id)
        asked = DatabaseRecovery(plan=made.plan, began=broken.at, began_source="injected fault")
        record = run_recovery(plan, asked, ledger=ledger_path(plan), fault=Fault.WIPE)
    if record.verdict is not Verdict.RECOVERED or record.clock.rto is None or client.acknowledged is None:
        raise RecoveryError(f"{record.verdict}: {record.why}", state="the figures would be worth nothing")
    steps = {step.name: step.took.total_seconds() for step in record.steps if step.took}
    if "promote-standby" not in steps:
        raise RecoveryError(f"no standby took over: {record.backup}", state="the figures would be worth nothing")
    return {
        "fault to the first acknowledged write": (client.acknowledged - broken.at).total_seconds(),
        "fault to a user served again (RTO)": record.clock.rto.total_seconds(),
        "the step that fences the old primary": steps["fence-primary"],
        "the step that promotes": steps["promote-standby"],
    }


@contextmanager
def _trying(client: Client) -> Iterator[Client]:
    try:
        yield client
    finally:
        client.ended.set()
        client.thread.join()


def main() -> None:
    """Run the trials and print a table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.promotion", description=__doc__)
    parser.add_argument("--trials", type=int, default=5, help="how often a server is lost (5)")
    parser.add_argument("--stack", choices=("process", "compose"), default="process", help="what the servers run on")
    asked = parser.parse_args()
    where = machine()
    found: list[dict[str, float]] = []
    with working_place(None):
        made = sandbox.create(asked.stack, policy="zero-loss", standby=True)
        try:
            plan = load_plan(made.plan)
            server = Server.of(plan, open_stack(plan), None)
            with server.connect() as connection:
                connection.execute(TABLE)
            run_base_backup(plan, server.stack, verify=False)
            with watching(server, lambda _: None):
                for number in range(1, asked.trials + 1):
                    found.append(trial(plan, made, number))
                    told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found[-1].items())
                    screen.print(f"{number}/{asked.trials}: {told}")
        finally:
            sandbox.destroy(made)
    print(f"{asked.trials} trials on {asked.stack}: SIGKILL and an emptied data directory ({where})\n")
    rows = [
        (
            name,
            f"{statistics.median(one[name] for one in found):.2f}",
            f"{max(one[name] for one in found):.2f}",
            "  ".join(f"{one[name]:.2f}" for one in found),
        )
        for name in found[0]
    ]
    print(markdown(("a standby takes over", "median, s", "worst, s", "trials"), rows))


if __name__ == "__main__":
    main()
