from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from recoup.clock import human, phases, store_loss
from recoup.records import OutageClock

T = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return T + timedelta(seconds=seconds)


def test_the_phases_of_a_whole_clock_add_up_to_the_outage() -> None:
    clock = OutageClock(
        began=T, declared=after(10), started=after(15), approved=after(75), restored=after(100), closed=after(104)
    )
    split = {phase.name: phase.took for phase in phases(clock)}
    assert list(split) == ["detect", "declare", "approve", "execute", "verify"]
    assert list(split.values()) == [timedelta(seconds=s) for s in (10, 5, 60, 25, 4)]
    assert clock.rto == timedelta(seconds=100)


def test_what_is_unknown_is_none_never_zero() -> None:
    split = {phase.name: phase.took for phase in phases(OutageClock(started=T, closed=after(9)))}
    assert set(split.values()) == {None}


def test_moments_that_contradict_each_other_give_no_duration() -> None:
    clock = OutageClock(began=after(30), declared=T, started=after(31))
    split = {phase.name: phase.took for phase in phases(clock)}
    assert split["detect"] is None
    assert split["declare"] == timedelta(seconds=31)


def test_loss_is_measured_from_the_recovery_point_to_the_outage() -> None:
    loss = store_loss("database", timedelta(minutes=15), T, after(-90), "newest audit row", 120, 3)
    assert loss.achieved == timedelta(seconds=90)
    assert loss.met is True
    assert (loss.acknowledged_writes, loss.acknowledged_writes_lost) == (120, 3)


def test_loss_past_the_objective_is_not_met() -> None:
    assert store_loss("database", timedelta(minutes=15), T, after(-901), "").met is False
    assert store_loss("database", timedelta(minutes=15), T, after(-900), "").met is True


def test_data_newer_than_the_outage_is_no_negative_loss() -> None:
    assert store_loss("database", timedelta(0), T, after(5), "").achieved == timedelta(0)


@pytest.mark.parametrize(("began", "point"), [(None, T), (T, None), (None, None)])
def test_an_unknown_side_leaves_the_loss_unknown(began: datetime | None, point: datetime | None) -> None:
    loss = store_loss("database", timedelta(minutes=15), began, point, "")
    assert loss.achieved is None
    assert loss.met is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0153, "15 ms"),
        (0.9996, "1 s"),
        (4.2, "4.2 s"),
        (40, "40 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min"),
        (190, "3 min 10 s"),
        (3599.7, "1 h"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (86399, "1 d"),
        (97200, "1 d 3 h"),
        (-4.2, "-4.2 s"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert human(timedelta(seconds=seconds)) == text


def test_no_duration_is_unknown() -> None:
    assert human(None) == "unknown"
