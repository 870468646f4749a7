"""The outage clock: how an outage divides into phases, and what a store lost measured against its objective."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from recoup.records import OutageClock, StoreLoss, now


@dataclass(frozen=True)
class Phase:
    """One part of an outage; what is unknown is None, never zero."""

    name: str
    start: datetime | None
    end: datetime | None

    @property
    def took(self) -> timedelta | None:
        """How long it took; None while a side is unknown, and when the sides contradict each other."""
        if self.start is None or self.end is None or self.end < self.start:
            return None
        return self.end - self.start


def phases(clock: OutageClock) -> tuple[Phase, ...]:
    """Divide an outage into detect, declare, approve, execute and verify, in this order, whole or unknown."""
    return (
        Phase("detect", clock.began, clock.declared),
        Phase("declare", clock.declared, clock.started),
        Phase("approve", clock.started, clock.approved),
        Phase("execute", clock.approved, clock.restored),
        Phase("verify", clock.restored, clock.closed),
    )


def store_loss(
    store: str,
    objective: timedelta,
    began: datetime | None,
    recovery_point: datetime | None,
    basis: str,
    acknowledged: int | None = None,
    lost: int | None = None,
) -> StoreLoss:
    """Give what a store lost: RPO achieved = began − recovery point, at least zero; None when it cannot be known.

    ``basis`` says where the recovery point was read; ``acknowledged`` and ``lost`` count a drill's writes.
    """
    achieved = None
    if recovery_point is not None and recovery_point > now():
        basis += "; that is still to come, so a clock was wrong, and what was lost is not known"
    elif began is not None and recovery_point is not None:
        # Data complete past the beginning of the outage is no loss, and never a negative one.
        achieved = max(timedelta(0), began - recovery_point)
    return StoreLoss(
        store=store,
        objective=objective,
        recovery_point=recovery_point,
        achieved=achieved,
        basis=basis,
        acknowledged_writes=acknowledged,
        acknowledged_writes_lost=lost,
    )


def human(duration: timedelta | None) -> str:
    """Give a duration as a person reads it: ``350 ms``, ``4.2 s``, ``3 min 10 s``, ``2 h 5 min``, ``unknown``."""
    if duration is None:
        return "unknown"
    if duration < timedelta(0):
        return f"-{human(-duration)}"
    seconds = duration.total_seconds()
    if seconds < 0.9995:
        return f"{round(seconds * 1000)} ms" if seconds else "0 s"
    if seconds < 59.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    minutes, second = divmod(round(seconds), 60)
    if minutes < 60:
        return _two(minutes, "min", second, "s")
    hours, minute = divmod(round(seconds / 60), 60)
    if hours < 24:
        return _two(hours, "h", minute, "min")
    days, hour = divmod(round(seconds / 3600), 24)
    return _two(days, "d", hour, "h")


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit} {small} {small_unit}" if small else f"{large} {large_unit}"
