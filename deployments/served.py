"""Following a Prefect server: whether it keeps each schedule, which runs began, and how they ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterEndTime,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import PrefectException
from prefect.utilities.urls import url_for

from deployments.schedules import in_state, registered_as, schedules
from recoup.clock import human
from recoup.errors import first_line
from recoup.progress import plain
from recoup.records import now

# The server plans the runs of a deployment within seconds of its registration, and looks at all of them each minute.
PATIENCE = timedelta(seconds=90)
EVERY = timedelta(minutes=3)
_POLL = timedelta(seconds=3)
_SHOWN = 200
# What Prefect's client raises where the server is away, refuses, or answers what no Prefect server answers.
ANSWERS_OTHERWISE = (httpx.HTTPError, PrefectException, RuntimeError, ValueError, OSError)
_OVERLAP = timedelta(seconds=30)
_PREFIX = "Flow run encountered an exception: "


@contextmanager
def following(offered: Sequence[RunnerDeployment], tell: Callable[[str], None]) -> Iterator[None]:
    """Report the runs of a server and watch its schedules while the block runs, in a thread of its own."""
    stop = threading.Event()
    follower = threading.Thread(
        target=lambda: Follower(offered, tell).follow(stop), name="follow-the-server", daemon=True
    )
    follower.start()
    try:
        yield
    finally:
        stop.set()
        follower.join(timeout=_POLL.total_seconds())


@dataclass
class Follower:
    """Reports each run as it begins and ends, and which scheduled jobs will not run, again at each look.

    A backup that is not taken makes no noise by itself. ``tell`` takes one text; it must not raise.
    """

    offered: Sequence[RunnerDeployment]
    tell: Callable[[str], None]
    patience: timedelta = PATIENCE
    every: timedelta = EVERY
    _began: datetime = field(default_factory=now)
    _seen_until: datetime = field(default_factory=now)
    _names: dict[UUID, str] = field(default_factory=dict)
    _running: set[UUID] = field(default_factory=set)
    _ended: set[UUID] = field(default_factory=set)
    _well: bool | None = None
    _reached: bool = True

    def follow(self, stop: threading.Event) -> None:
        """Follow until ``stop`` is set; a server that does not answer is reported at each look, and asked again."""
        next_look = next_complaint = self._began
        while not stop.wait(_POLL.total_seconds()):
            try:
                with get_client(sync_client=True) as client:
                    if now() >= next_look:
                        next_look = now() + (self.every if self._look(client) else _POLL)
                    self._tell_of_runs(client)
            except ANSWERS_OTHERWISE as error:
                if now() >= max(next_complaint, self._began + self.patience):
                    self.tell(
                        f"NOTHING RUNS BY SCHEDULE: the Prefect server cannot be asked: {first_line(error)[:_SHOWN]}"
                    )
                    self._reached, next_complaint = False, now() + self.every
            else:
                if not self._reached:
                    self.tell("the Prefect server answers again")
                    self._reached = True

    def _look(self, client: SyncPrefectClient) -> bool:
        """Look at every schedule and report; return False for an early look at a server that may still be planning."""
        self._names = {one.id: name for name, one in registered_as(client, [one.name for one in self.offered]).items()}
        found = schedules(client, [one for one in self.offered if one.schedules], now(), self._began)
        wrong = [one for one in found if one.wrong]
        if wrong and self._well is None and now() - self._began < self.patience:
            return False
        if wrong:
            self.tell(f"{len(wrong)} OF {len(found)} SCHEDULED JOBS WILL NOT RUN:")
        elif not self._well:
            self.tell("next by schedule:" if self._well is None else "every scheduled job will run again:")
        for one in wrong or (found if not self._well else ()):
            self.tell(f"  {one}")
        self._well = not wrong
        return True

    def _tell_of_runs(self, client: SyncPrefectClient) -> None:
        if not self._names:
            return
        ours, at = FlowRunFilterDeploymentId(any_=list(self._names)), now()
        running = FlowRunFilter(deployment_id=ours, state=in_state(StateType.RUNNING))
        # The looks overlap: the server's clock may differ from this one.
        ended = FlowRunFilter(deployment_id=ours, end_time=FlowRunFilterEndTime(after_=self._seen_until - _OVERLAP))
        for run in client.read_flow_runs(flow_run_filter=running):
            if run.id not in self._running:
                self._tell_of(run)
        done = client.read_flow_runs(flow_run_filter=ended, sort=FlowRunSort.END_TIME_DESC)
        for run in reversed(done):
            # Runs that ended before this began are in the server's pages.
            if run.id not in self._ended and run.end_time and run.end_time >= self._began:
                self._tell_of(run)
        self._ended = {run.id for run in done}
        self._running -= self._ended
        self._seen_until = at

    def _tell_of(self, run: FlowRun) -> None:
        if run.state_type is StateType.RUNNING:
            self._running.add(run.id)
        if run.deployment_id:
            name = self._names.get(run.deployment_id, run.name)
            self.tell(f"{name}: {said(run, url_for('flow-run', obj_id=run.id) or '')}")


def said(run: FlowRun, address: str) -> str:
    """Return the state of a run in words: begun, completed, or why it failed and where its log is."""
    took = human(run.total_run_time)
    message = (run.state.message if run.state else "") or ""
    if message.startswith(_PREFIX):
        # The name of the error's class comes first, then its message.
        message = message.removeprefix(_PREFIX).partition(": ")[2]
    message = "\n".join(plain(line) for line in message.strip().splitlines())
    if run.state_type is StateType.RUNNING:
        return f"began ({address})"
    if run.state_type is StateType.COMPLETED:
        return f"completed in {took}"
    if run.state_type is StateType.CANCELLED and not run.total_run_time:
        return f"not begun: {message}"
    state = run.state_type.value if run.state_type else "ENDED"
    return f"{state} after {took}: {message}\nIts log: {address}"
