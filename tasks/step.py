"""What makes a plain function a step: its retries, time-out and reason to retry, declared once on a Prefect task.

The same task object runs through Prefect when a flow run is under way, and directly otherwise.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext
from prefect.tasks import exponential_backoff
from prefect.utilities.timeout import timeout as time_limit

from recoup.errors import PreconditionError, RecoveryError, first_line
from recoup.progress import Silent, Watcher

P = ParamSpec("P")
R = TypeVar("R")
JITTER = 0.5


@dataclass
class Watched:
    """Who is told of the running step, and how often it was tried."""

    watcher: Watcher = field(default_factory=Silent)
    attempts: int = 0


_watched: ContextVar[Watched | None] = ContextVar("watched", default=None)


def note(text: str) -> None:
    """Tell whoever watches what the running step is doing now."""
    if watched := _watched.get():
        watched.watcher.note(text)


@contextmanager
def watching(watched: Watched) -> Iterator[None]:
    """Have what is noted in the block told to a watcher, outside of any step."""
    token = _watched.set(watched)
    try:
        yield
    finally:
        _watched.reset(token)


@contextmanager
def telling(look: Callable[[], str], *, every: timedelta = timedelta(seconds=1)) -> Iterator[None]:
    """Tell whoever watches, while the block runs, what ``look`` gives now and then; nothing where it gives nothing."""
    stop = threading.Event()

    def tell() -> None:
        while not stop.wait(every.total_seconds()):
            if (text := look()) and not stop.is_set():
                note(text)

    # A thread of its own does not know who watches unless it is given the context of this one.
    teller = threading.Thread(target=copy_context().run, args=(tell,), name="telling", daemon=True)
    teller.start()
    try:
        yield
    finally:
        stop.set()
        teller.join()


def step(
    *, timeout: timedelta, retries: int = 0, backoff: timedelta = timedelta(seconds=1)
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Declare a step; only a step that is safe to repeat may have retries.

    A retry waits ``backoff`` × 2ⁿ with jitter. A PreconditionError is never retried: waiting cannot mend it.
    """

    def declare(function: Callable[P, R]) -> Task[P, R]:
        @wraps(function)
        def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            if watched := _watched.get():
                watched.attempts += 1
            try:
                return function(*args, **kwargs)
            except TimeoutError as error:
                # The step's own time-out cuts it from outside; this one is of something that it waited for.
                raise RecoveryError(f"something it waited for timed out: {error}".removesuffix(": ")) from error

        return Task(
            counted,
            name=function.__name__.replace("_", "-"),
            retries=retries,
            retry_delay_seconds=exponential_backoff(backoff_factor=backoff.total_seconds()) if retries else None,
            retry_jitter_factor=JITTER if retries else None,
            retry_condition_fn=_worth_a_retry,
            timeout_seconds=timeout.total_seconds(),
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    return declare


def perform(task: Task[..., R], watched: Watched, *args: Any, **kwargs: Any) -> R:
    """Run a step through Prefect when a flow run is under way, otherwise directly with the same retries and time-out.

    Raises what the step raised last.
    """
    try:
        with watching(watched):
            if FlowRunContext.get() is not None:
                through_prefect: R = task(*args, **kwargs)
                return through_prefect
            return _direct(task, *args, **kwargs)
    except TimeoutError:
        raise RecoveryError(
            f"the step did not end within its {task.timeout_seconds:.0f} s", state="what it had begun may be half-way"
        ) from None


def _direct(task: Task[..., R], *args: Any, **kwargs: Any) -> R:
    delays = task.retry_delay_seconds
    waits = [float(d) for d in delays] if isinstance(delays, list) else [float(delays or 0)] * task.retries
    for attempt in range(task.retries + 1):
        try:
            with time_limit(task.timeout_seconds):
                return task.fn(*args, **kwargs)
        except (RecoveryError, TimeoutError, OSError) as error:
            if attempt == task.retries:
                raise
            wait = waits[min(attempt, len(waits) - 1)] * (1 + random.uniform(0, JITTER))
            note(f"attempt {attempt + 1} failed ({first_line(error)}); again in {wait:.1f} s")
            time.sleep(wait)
    raise AssertionError("unreachable")


def _worth_a_retry(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    try:
        state.result(raise_on_failure=True)
    except PreconditionError:
        return False
    except (RecoveryError, TimeoutError, OSError):
        return True
    return False
