"""Clients that write up to an outage, or all through it, and remember what was acknowledged."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from datetime import datetime, timedelta

import httpx

from recoup.errors import PreconditionError, RecoveryError
from recoup.plan import Plan
from recoup.records import Check, Frozen, Outcome, Subject, now
from recoup.stacks import Stack
from tasks.smoke import Door
from tasks.step import step

PAUSE = 0.02
RECORDS = "/api/v1/records"


class Writer(ABC):
    """Writes until stopped, in a thread of its own; ``acknowledged`` holds the moment of each answer by its name."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, datetime] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def lost(self) -> tuple[str, ...]:
        """Give the acknowledged writes that are gone; RecoveryError when that cannot be told."""

    @abstractmethod
    def _write(self) -> None: ...

    def start(self) -> None:
        """Begin to write; raises RecoveryError when nothing is acknowledged within 10 s."""
        self._thread = threading.Thread(target=self._write, name="canary", daemon=True)
        self._thread.start()
        self.wait_for(1)

    def wait_for(self, count: int, seconds: float = 10.0) -> None:
        """Wait until so many more writes have been acknowledged; raises RecoveryError when they are not in time."""
        wanted = len(self.acknowledged) + count
        end = time.monotonic() + seconds
        while len(self.acknowledged) < wanted:
            if time.monotonic() > end:
                raise RecoveryError(
                    f"the canary had only {len(self.acknowledged)} writes acknowledged in {seconds:.0f} s",
                    state="the sandbox is up, nothing was broken yet",
                    next_step="look at the logs of the sandbox",
                )
            time.sleep(0.02)

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=10)


class Canary(Writer):
    """Writes records named ``<prefix>-<n>`` through the gateway; only an answer of 201 counts as acknowledged."""

    def __init__(self, plan: Plan, stack: Stack, prefix: str) -> None:
        super().__init__()
        self.plan = plan
        self.stack = stack
        self.prefix = prefix

    def lost(self) -> tuple[str, ...]:
        """Give the acknowledged writes that are gone, as the gateway says."""
        door = Door.of(self.plan, self.stack)
        try:
            with door.client() as client:
                answer = client.get(RECORDS, params={"prefix": self.prefix}, headers=_bearer(door.login(client)))
                answer.raise_for_status()
                there = set(answer.json()["ids"])
        except httpx.HTTPError as error:
            raise RecoveryError(f"the canary's writes could not be read back: {error}") from None
        return tuple(sorted(set(self.acknowledged) - there))

    def _write(self) -> None:
        number = 0
        while not self._stop.is_set():
            try:
                door = Door.of(self.plan, self.stack)
                with door.client() as client:
                    headers = _bearer(door.login(client))
                    while not self._stop.wait(PAUSE):
                        number += 1
                        name = f"{self.prefix}-{number:06d}"
                        if (
                            client.post(RECORDS, json={"id": name, "body": "canary"}, headers=headers).status_code
                            != 201
                        ):
                            break
                        self.acknowledged[name] = now()
            except (httpx.HTTPError, PreconditionError, RecoveryError):
                # Being refused is the canary's ordinary life during an outage.
                pass
            self._stop.wait(0.1)


class Counted(Frozen):
    """What became of the acknowledged writes."""

    acknowledged: int
    lost: int
    check: Check

    def __str__(self) -> str:
        return f"{self.lost} of {self.acknowledged} acknowledged writes are gone"


@step(timeout=timedelta(minutes=1), retries=2)
def count_lost_writes(canary: Writer, recovery_point: datetime | None, restored: datetime | None) -> Counted:
    """Count the acknowledged writes that are gone; the check fails on one that no recovery point can excuse.

    Inexcusable is a lost write acknowledged before the recovery point, or after the moment of restoration.
    """
    canary.stop()
    lost = canary.lost()
    when = canary.acknowledged
    inexcusable = [
        name
        for name in lost
        if recovery_point is None or when[name] < recovery_point or (restored is not None and when[name] > restored)
    ]
    check = Check(
        name="no acknowledged write is lost but those after the recovery point",
        subject=Subject.DATA,
        outcome=Outcome.FAILED if inexcusable else Outcome.PASSED,
        expected="0",
        seen=f"{len(inexcusable)} of {len(when)}",
    )
    return Counted(acknowledged=len(when), lost=len(lost), check=check)


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
