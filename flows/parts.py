"""Procedures run as parts of one run: under its lease, in its journal and record, the independent ones at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from typing import TypeVar

from flows.procedure import Run
from recoup.errors import RecoupError, RecoveryError
from recoup.stacks import open_stack

T = TypeVar("T")


def part(run: Run, component: str) -> Run:
    """Give the run of one component as a part of another: its steps are the run's own, its findings for itself.

    It marks the same clock. What it found is taken over by ``gather``.
    """
    job = replace(run.job, component=component)
    # A client of its own: the parts ask the engine at the same time.
    stack = open_stack(job.plan) if run.opened else None
    return Run(job, stack, run.journal, run.steps.part(component), run.resumed)


def gather(run: Run, parts: tuple[Run, ...]) -> None:
    """Take over what the parts found, in this order; the record names the backup of the first that has one."""
    for one in parts:
        run.checks.extend(one.checks)
        run.stores.extend(one.stores)
        run.backup = run.backup or one.backup
    conclude(run, parts)


def conclude(run: Run, parts: tuple[Run, ...]) -> None:
    """Say of the run what the parts say was left, and is to be done."""
    run.state_left = _joined(one.state_left for one in parts)
    run.next_step = _joined(one.next_step for one in parts)


def together(run: Run, bodies: Mapping[str, Callable[[Run], T]], parts: Mapping[str, Run]) -> tuple[T, ...]:
    """Run the bodies at the same time, each with its part, and give their results in order.

    All are run to their end before the first error is raised. An interruption lets no further step begin.
    """
    with ThreadPoolExecutor(max_workers=max(len(bodies), 1), thread_name_prefix="part") as pool:
        # Each thread is to know who watches, and the flow run that it is in.
        tasks = {name: pool.submit(copy_context().run, body, parts[name]) for name, body in bodies.items()}
        try:
            errors = [(name, error) for name, task in tasks.items() if (error := task.exception())]
        except BaseException:
            run.steps.halt()
            raise
    if errors:
        _raise(errors, parts)
    return tuple(task.result() for task in tasks.values())


def _raise(errors: list[tuple[str, BaseException]], parts: Mapping[str, Run]) -> None:
    for _, error in errors:
        if not isinstance(error, RecoupError):
            raise error
    known = [(name, error) for name, error in errors if isinstance(error, RecoupError)]
    states = [*(error.state for _, error in known), *(one.state_left for one in parts.values())]
    raise RecoveryError(
        "; ".join(f"{name}: {error.what}" for name, error in known),
        state=_joined(states),
        next_step=_joined(error.next_step for _, error in known),
    )


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))
