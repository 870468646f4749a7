"""Which of the services that are not well is the cause: pure functions of what was seen and what depends on what."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum

from recoup.records import Frozen
from recoup.stacks import Health, ServiceState

# A container whose engine brings it back lives a moment each time: young, and not for the first time.
LOOP_RESTARTS = 2


class Ailment(StrEnum):
    """What is wrong with a service."""

    WELL = "well"
    STARTING = "starting"
    STOPPED = "stopped on purpose"
    DOWN = "down"
    LOOPING = "ends again and again"
    HANGING = "accepts and never answers"
    REFUSING = "runs and lets nobody in"
    UNHEALTHY = "answers that it is not well"
    BROKEN = "answers with other data than it had"


class Answer(StrEnum):
    """How a service answered when it was asked."""

    WELL = "well"
    UNWELL = "unwell"
    SILENT = "silent"
    REFUSED = "refused"
    NOT_ASKED = "not asked"


class Seen(Frozen):
    """What was seen of one component."""

    component: str
    service: str
    ailment: Ailment
    seen: str

    @property
    def ill(self) -> bool:
        return self.ailment not in (Ailment.WELL, Ailment.STOPPED)

    def __str__(self) -> str:
        return f"{self.component}: {self.ailment}" + (f" ({self.seen})" if self.seen else "")


def ailment(state: ServiceState, answer: Answer, *, young: bool = False) -> Ailment:
    """Say what is wrong with a service, by what its stack says and how it answered; ``young``: just started.

    Its own answer counts for more than the stack's word, which may be seconds old.
    """
    if not state.running:
        if state.looping:
            return Ailment.LOOPING
        return Ailment.STOPPED if state.stopped else Ailment.DOWN
    if answer is Answer.WELL:
        return Ailment.WELL
    if young and state.restarts >= LOOP_RESTARTS and answer is not Answer.NOT_ASKED:
        return Ailment.LOOPING
    if answer is Answer.SILENT:
        return Ailment.HANGING
    if answer is Answer.UNWELL:
        return Ailment.UNHEALTHY
    if state.health is Health.STARTING:
        return Ailment.STARTING
    if answer is Answer.REFUSED:
        return Ailment.REFUSING
    return Ailment.UNHEALTHY if state.health is Health.UNHEALTHY else Ailment.WELL


def rests_on(depends_on: Mapping[str, tuple[str, ...]], name: str) -> frozenset[str]:
    """Give all that a component depends on, directly or not."""
    found: set[str] = set()
    left = list(depends_on.get(name, ()))
    while left:
        if (one := left.pop()) not in found:
            found.add(one)
            left.extend(depends_on.get(one, ()))
    return frozenset(found)


def waves(depends_on: Mapping[str, tuple[str, ...]], ill: Collection[str]) -> tuple[tuple[str, ...], ...]:
    """Give those that are ill in the order in which they are seen to, those of one wave at the same time.

    The first wave are the causes: nothing that they rest on is ill. Each later one rests on one before it, and may be
    well again by itself when that one is.
    """
    left, order = list(dict.fromkeys(ill)), list[tuple[str, ...]]()
    while left:
        wave = tuple(one for one in left if rests_on(depends_on, one).isdisjoint(left)) or tuple(left)
        order.append(wave)
        left = [one for one in left if one not in wave]
    return tuple(order)


def free_of(
    depends_on: Mapping[str, tuple[str, ...]], names: Collection[str], others: Collection[str]
) -> tuple[str, ...]:
    """Give those that neither are among the others nor rest on one of them."""
    return tuple(one for one in names if one not in others and rests_on(depends_on, one).isdisjoint(others))
