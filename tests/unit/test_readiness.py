"""When backups are ready to carry a recovery, and what is said when they are not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from recoup.readiness import Finding, PlaceSeen, StoreSeen, judge, ready

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DISK = "this machine's disk"


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


GOOD = StoreSeen(
    name="database",
    rpo=timedelta(minutes=15),
    interval=timedelta(minutes=10),
    local=PlaceSeen("/var/backups", DISK, False, ago(5)),
    copies=(PlaceSeen("cloud", "the bucket b", True, ago(5)),),
    proven=ago(15),
)


def found(store: StoreSeen) -> dict[str, Finding]:
    return {one.asked: one for one in judge([store], NOW)}


def unmet(store: StoreSeen) -> set[str]:
    return {asked for asked, one in found(store).items() if not one.met}


def test_fresh_proven_and_in_three_places_is_ready() -> None:
    assert unmet(GOOD) == set()
    assert ready(judge([GOOD], NOW))


def test_nothing_seen_is_not_ready() -> None:
    assert not ready(judge([], NOW))


def test_one_store_that_is_not_ready_is_enough() -> None:
    assert not ready(judge([GOOD, replace(GOOD, name="redis", proven=None)], NOW))


@pytest.mark.parametrize(("age", "met"), [(14.9, True), (15, True), (15.1, False)])
def test_the_newest_set_may_not_be_older_than_the_objective(age: float, met: bool) -> None:
    store = replace(GOOD, local=replace(GOOD.local, point=ago(age)))
    assert found(store)["RPO"].met is met
    assert "RPO 15 min" in found(store)["RPO"].why


def test_received_wal_counts_but_only_on_top_of_a_set() -> None:
    old = replace(GOOD, local=replace(GOOD.local, point=ago(600)), continuous=ago(0.1))
    assert found(old)["RPO"].met
    assert "WAL" in found(old)["RPO"].why
    none = replace(GOOD, local=replace(GOOD.local, point=None), continuous=ago(0.1))
    assert "without a set" in found(none)["RPO"].why


def test_a_standby_that_could_not_take_over_is_not_ready() -> None:
    assert "standby" not in found(GOOD)
    follows = replace(GOOD, standby="a takes writes; b follows, 0 bytes behind", standby_ready=True)
    assert unmet(follows) == set()
    alone = replace(GOOD, standby="a takes writes; b is no standby: it is fenced")
    assert unmet(alone) == {"standby"}
    assert found(alone)["standby"].why == "a takes writes; b is no standby: it is fenced"


def test_a_gap_in_received_wal_is_told_though_a_set_is_young_enough() -> None:
    gap = replace(GOOD, wal_trouble="the segment 000000010000000000000003 is missing")
    assert unmet(gap) == {"RPO"}
    assert "000000010000000000000003 is missing" in found(gap)["RPO"].why


def test_a_newest_set_that_failed_its_restore_test_does_not_meet_the_objective() -> None:
    assert unmet(replace(GOOD, failed=True)) == {"RPO"}


def test_what_version_control_keeps_is_judged_by_what_changed_and_not_by_age() -> None:
    kept = replace(GOOD, name="configuration", rpo=timedelta(0), local=replace(GOOD.local, point=ago(60 * 24 * 90)))
    assert unmet(kept) == set()
    assert found(replace(kept, unprotected="nginx.conf: differs"))["RPO"].why == "nginx.conf: differs"


def test_a_set_that_was_never_restored_is_not_proven() -> None:
    assert unmet(replace(GOOD, proven=None)) == {"proven"}


def test_without_copies_all_three_parts_are_missed_and_the_plan_is_named() -> None:
    alone = found(replace(GOOD, copies=()))
    assert unmet(replace(GOOD, copies=())) == {"3 copies", "2 kinds of place", "1 elsewhere"}
    assert all("platform.copies" in alone[asked].why for asked in ("3 copies", "2 kinds of place", "1 elsewhere"))


def test_a_copy_on_the_same_disk_is_a_third_copy_and_neither_another_kind_nor_elsewhere() -> None:
    assert unmet(replace(GOOD, copies=(PlaceSeen("beside", DISK, False, ago(5)),))) == {
        "2 kinds of place",
        "1 elsewhere",
    }


def test_a_copy_on_another_disk_in_the_house_is_not_elsewhere() -> None:
    assert unmet(replace(GOOD, copies=(PlaceSeen("nas", "the disk at /mnt/nas", False, ago(5)),))) == {"1 elsewhere"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"trouble": "nothing answers there"}, "nothing answers there"),
        ({"point": None}, "no good set of it"),
        ({"lacks_since": ago(31)}, "it lacks sets for 31 min"),
    ],
)
def test_a_copy_that_cannot_be_used_does_not_count_and_the_reason_is_told(change: dict[str, object], why: str) -> None:
    broken = replace(GOOD, copies=(replace(GOOD.copies[0], **change),))  # type: ignore[arg-type]
    assert unmet(broken) == {"3 copies", "2 kinds of place", "1 elsewhere"}
    assert f"cloud: {why}" in found(broken)["1 elsewhere"].why


def test_a_copy_that_is_about_to_get_the_newest_set_still_counts() -> None:
    assert unmet(replace(GOOD, copies=(replace(GOOD.copies[0], point=ago(15), lacks_since=ago(5)),))) == set()


def test_a_second_copy_makes_up_for_one_that_is_away() -> None:
    away = PlaceSeen("first", "the bucket a", True, trouble="nothing answers there")
    assert unmet(replace(GOOD, copies=(away, *GOOD.copies))) == set()


def test_a_lost_repository_is_told_though_a_copy_is_there() -> None:
    lost = replace(GOOD, local=replace(GOOD.local, point=None))
    assert unmet(lost) == {"RPO", "3 copies"}
