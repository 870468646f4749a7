"""What expires, and what never does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from recoup.retention import Candidate, Keep, decide

# A Monday.
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def a_set(days: float, **more: object) -> Candidate:
    """Give a set taken so many days before noon, named by that."""
    return Candidate(f"-{days:g}d", NOON - timedelta(days=days), **more)  # type: ignore[arg-type]


def kept(sets: list[Candidate], rule: Keep, broken: set[str] | None = None) -> list[str]:
    found = decide(sets, rule, lambda set_id: set_id not in (broken or set()), NOON)
    assert [one.set_id for one in found] == [s.set_id for s in sorted(sets, key=lambda s: s.at, reverse=True)]
    return [one.set_id for one in found if one.kept]


def why(sets: list[Candidate], rule: Keep, broken: set[str] | None = None) -> dict[str, str]:
    found = decide(sets, rule, lambda set_id: set_id not in (broken or set()), NOON)
    return {one.set_id: one.reason for one in found}


def test_the_newest_are_kept_in_whatever_order_they_are_given() -> None:
    assert kept([a_set(2), a_set(0), a_set(3), a_set(1)], Keep(2)) == ["-0d", "-1d"]
    assert kept([], Keep(2)) == []


@pytest.mark.parametrize("keep", [0, -1, 1])
def test_the_last_one_always_stays(keep: int) -> None:
    assert kept([a_set(9)], Keep(keep)) == ["-9d"]


def test_the_last_of_each_day_week_and_month_is_kept_counted_from_the_newest_set() -> None:
    # Every six hours for a year, the newest of them at noon on a Monday.
    sets = [a_set(n / 4) for n in range(4 * 366)]
    assert kept(sets, Keep(1, daily=3)) == ["-0d", "-0.75d", "-1.75d"]
    # ISO weeks end on Sunday: the last sets of the two weeks before are of Sunday 18:00.
    assert kept(sets, Keep(1, weekly=3)) == ["-0d", "-0.75d", "-7.75d"]
    by_month = [NOON - timedelta(days=float(one[1:-1])) for one in kept(sets, Keep(1, monthly=13))]
    assert [(day.year, day.month) for day in by_month] == [
        *((2026, month) for month in range(11, 0, -1)),
        (2025, 12),
        (2025, 11),
    ]
    assert all((day + timedelta(hours=6)).month != day.month for day in by_month[1:])


def test_days_without_a_set_do_not_make_older_ones_stay() -> None:
    assert kept([a_set(0), a_set(10), a_set(20)], Keep(1, daily=7)) == ["-0d"]


def test_iso_weeks_are_right_across_the_turn_of_the_year() -> None:
    # 2026 has 53 ISO weeks: 28 December 2026 to 3 January 2027 is week 53.
    turn = [
        Candidate(f"{day:%d.%m.%y}", day)
        for day in (datetime(2026, 12, 27, tzinfo=UTC) + timedelta(days=n) for n in range(10))
    ]
    assert kept(turn, Keep(1, weekly=3)) == ["05.01.27", "03.01.27", "27.12.26"]


def test_the_last_set_whose_restore_was_proven_never_goes() -> None:
    sets = [a_set(0), a_set(1), a_set(2, verified=True), a_set(3, verified=True)]
    assert kept(sets, Keep(1)) == ["-0d", "-2d"]
    assert why(sets, Keep(1))["-2d"] == "the last one whose restore test passed"


def test_a_set_that_a_kept_one_needs_stays_and_so_does_what_that_one_needs() -> None:
    tested = a_set(1, verified=True, needs="-3d")
    sets = [a_set(0), tested, a_set(2), a_set(3, needs="-4d"), a_set(4), a_set(5)]
    assert kept(sets, Keep(1)) == ["-0d", "-1d", "-3d", "-4d"]
    assert why(sets, Keep(1))["-3d"] == "needed by -1d"
    assert why(sets, Keep(1))["-4d"] == "needed by -3d"


def test_copies_of_what_changed_push_no_whole_one_out() -> None:
    sets = [a_set(0, needs="-1d"), a_set(1, needs="-2d"), a_set(2), a_set(3, needs="-4d"), a_set(4), a_set(5)]
    assert kept(sets, Keep(2)) == ["-0d", "-1d", "-2d", "-3d", "-4d"]
    assert kept(sets, Keep(1)) == ["-0d", "-1d", "-2d"]


def test_a_lock_that_has_not_ended_keeps_and_one_that_has_does_not() -> None:
    later, earlier = NOON + timedelta(seconds=1), NOON
    sets = [a_set(0), a_set(1, locked_until=later), a_set(2, locked_until=earlier)]
    assert kept(sets, Keep(1)) == ["-0d", "-1d"]
    assert why(sets, Keep(1))["-1d"] == "locked until 2026-11-23 12:00:01 UTC"


def test_damaged_newer_sets_do_not_push_the_last_whole_one_out() -> None:
    sets = [a_set(n) for n in range(5)]
    assert kept(sets, Keep(2), {"-0d", "-1d"}) == ["-0d", "-1d", "-2d"]
    assert why(sets, Keep(2), {"-0d", "-1d"})["-2d"] == "the last one that is whole"


def test_an_increment_above_a_damaged_set_does_not_count_as_whole() -> None:
    sets = [a_set(0, needs="-1d"), a_set(1), a_set(2, needs="-3d"), a_set(3)]
    assert kept(sets, Keep(1), {"-1d"}) == ["-0d", "-1d", "-2d", "-3d"]


def test_with_no_whole_set_left_nothing_is_removed() -> None:
    sets = [a_set(n) for n in range(4)]
    assert kept(sets, Keep(1), {one.set_id for one in sets}) == ["-0d", "-1d", "-2d", "-3d"]


def test_nothing_is_read_while_nothing_would_go() -> None:
    def refuse(set_id: str) -> bool:
        pytest.fail(f"{set_id} was read")

    assert all(one.kept for one in decide([a_set(0), a_set(1)], Keep(2), refuse, NOON))


def test_every_decision_says_why() -> None:
    sets = [a_set(n / 2) for n in range(20)]
    said = why(sets, Keep(2, daily=3, weekly=2, monthly=2))
    assert all(said.values())
    assert said["-9.5d"] == "beyond what the plan keeps"


def test_what_leads_nowhere_any_more_takes_no_place_of_one_that_does() -> None:
    undone = "the server was restored to before it"
    sets = [a_set(0), a_set(1, stranded=undone), a_set(2, stranded=undone), a_set(3), a_set(4)]
    # As long as not enough newer ones are there, they stay.
    assert kept(sets, Keep(2)) == ["-0d", "-1d", "-2d", "-3d"]
    sets = [a_set(-1), *sets]
    assert kept(sets, Keep(2)) == ["--1d", "-0d"]
    assert why(sets, Keep(2))["-1d"] == undone
    assert kept(sets, Keep(1, daily=9)) == ["--1d", "-0d", "-3d", "-4d"]


def test_alone_it_stays_and_counts_as_no_whole_set() -> None:
    undone = "the server was restored to before it"
    sets = [a_set(0, stranded=undone), a_set(1, stranded=undone, verified=True)]
    assert kept(sets, Keep(1)) == ["-0d", "-1d"]
    assert kept([a_set(-1), *sets], Keep(1)) == ["--1d", "-1d"], "the last one whose restore test passed"
    assert kept([a_set(-1), *sets], Keep(1), {"--1d"}) == ["--1d", "-0d", "-1d"], "no whole one is left"
