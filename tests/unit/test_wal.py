"""How far received WAL reaches from a base backup: segments with real page headers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from recoup.errors import PreconditionError
from recoup.wal import Segment, in_order, left_behind, parse_lsn, places, reach, write_lsn
from recoup.wal_rest import received_to, rest
from tests.received_wal import SIZE, SYSTEM, Received, base


@pytest.fixture
def received(tmp_path: Path) -> Received:
    return Received(tmp_path / "wal")


def test_an_lsn_is_read_as_postgresql_writes_it() -> None:
    assert parse_lsn("0/3000028") == 0x3000028
    assert parse_lsn("1A/FF") == (0x1A << 32) + 0xFF
    assert write_lsn(parse_lsn("1A/FF")) == "1A/FF"
    for wrong in ("", "0", "x/1", "0/"):
        with pytest.raises(ValueError, match="invalid literal"):
            parse_lsn(wrong)


@pytest.mark.parametrize("size", [1 << 20, 16 << 20, 1 << 30])
def test_a_segment_has_the_name_postgresql_gives_it(size: int) -> None:
    per_id = 0x100000000 // size
    one = Segment(3, 2 * per_id + 1)
    assert one.name(size) == "000000030000000200000001"
    assert Segment.of(one.name(size), size) == one
    assert Segment.of(one.name(size) + ".partial", size) == one
    for other in (
        "00000003.history",
        "witness.json",
        one.name(size) + ".00000028.backup",
        one.name(size).lower() + "0",
    ):
        assert Segment.of(other, size) is None


def test_the_directories_of_one_server_newest_timeline_first(received: Received) -> None:
    for timeline in (2, 10, 1):
        received.of(timeline)
    (received.root / "123-1").mkdir()
    (received.root / f"{SYSTEM}-x").mkdir()
    (received.root / f"{SYSTEM}-3").write_text("no directory")
    assert [place.name for place in received.dirs] == [f"{SYSTEM}-{timeline}" for timeline in (10, 2, 1)]
    assert places(received.root / "missing", SYSTEM) == ()


def test_whole_segments_one_after_the_other_and_the_one_being_received(received: Received) -> None:
    for number in (3, 4, 5):
        received.put(number)
    received.put(6, partial=True)
    found = reach(received.dirs, base(3))
    assert (found.timeline, found.whole, found.partial, found.wrong) == (1, 6 * SIZE, True, "")


def test_they_go_on_past_what_the_middle_of_a_name_holds(received: Received) -> None:
    per_id = 0x100000000 // SIZE
    for number in range(per_id - 2, per_id + 2):
        received.put(number)
    assert reach(received.dirs, base(per_id - 2)).whole == (per_id + 2) * SIZE


def test_only_one_that_is_being_received_is_enough_for_a_base_backup_in_it(received: Received) -> None:
    received.put(3, partial=True)
    found = reach(received.dirs, base(3))
    assert (found.whole, found.partial, found.wrong) == (3 * SIZE, True, "")


def test_an_empty_one_that_was_only_begun_holds_nothing(received: Received) -> None:
    received.put(3)
    received.put(4, partial=True).write_bytes(b"")
    assert reach(received.dirs, base(3)).partial is False


@pytest.mark.parametrize("last_is_partial", [True, False])
def test_a_gap_is_named_when_anything_comes_after_it(received: Received, last_is_partial: bool) -> None:
    received.put(3)
    received.put(5, partial=last_is_partial)
    found = reach(received.dirs, base(3))
    assert found.whole == 4 * SIZE
    assert found.wrong == "the segment 000000010000000000000004 is missing, though later ones are there"


def test_a_gap_before_the_base_backup_is_none(received: Received) -> None:
    for number in (1, 3, 4):
        received.put(number)
    assert reach(received.dirs, base(3)).wrong == ""


def test_wal_that_ends_before_the_base_backup_does(received: Received) -> None:
    received.put(3)
    found = reach(received.dirs, base(3, stop=5 * SIZE + 10))
    assert found.wrong == "the WAL ends before the base backup does, at 000000010000000000000004"
    assert "ends before" in reach((), base(3)).wrong


@pytest.mark.parametrize("left", [0, 1, SIZE - 1])
def test_a_segment_that_is_cut_short(received: Received, left: int) -> None:
    received.put(3)
    path = received.put(4)
    path.write_bytes(path.read_bytes()[:left])
    received.put(5)
    found = reach(received.dirs, base(3))
    assert (found.whole, found.wrong) == (4 * SIZE, f"the segment {path.name} has {left} bytes instead of {SIZE}")


def test_a_segment_that_holds_another_one(received: Received) -> None:
    received.put(3)
    path = received.put(4)
    path.write_bytes(received.put(5).read_bytes())
    found = reach(received.dirs, base(3))
    assert (found.whole, found.wrong) == (4 * SIZE, f"the segment {path.name} holds something else")


def test_a_segment_of_a_later_timeline_under_the_name_of_an_earlier(received: Received) -> None:
    path = received.put(3, page=2)
    assert reach(received.dirs, base(3)).wrong == f"the segment {path.name} holds something else"


def test_it_goes_on_over_a_change_of_the_timeline(received: Received) -> None:
    received.put(3)
    received.put(4, partial=True)
    received.history(2, (1, 4 * SIZE + 500))
    # The first one of a timeline is a copy, with the pages of the one before.
    received.put(4, timeline=2, page=1)
    received.put(5, timeline=2)
    received.put(6, timeline=2, partial=True)
    found = reach(received.dirs, base(3))
    assert (found.timeline, found.whole, found.partial, found.wrong) == (2, 6 * SIZE, True, "")
    assert reach(received.dirs, base(5, timeline=2)).whole == 6 * SIZE


def test_it_follows_the_timeline_postgresql_will_though_the_old_one_went_on(received: Received) -> None:
    for number in (3, 4, 5, 6, 7):
        received.put(number)
    received.history(2, (1, 4 * SIZE + 500))
    received.put(4, timeline=2, page=1)
    received.put(5, timeline=2, partial=True)
    found = reach(received.dirs, base(3))
    assert (found.timeline, found.whole, found.partial, found.wrong) == (2, 5 * SIZE, True, "")


def test_over_several_changes_of_the_timeline(received: Received) -> None:
    received.put(3)
    received.history(2, (1, 4 * SIZE + 500))
    received.put(4, timeline=2, page=1)
    received.history(3, (1, 4 * SIZE + 500), (2, 5 * SIZE + 9))
    received.put(5, timeline=3, page=2)
    assert reach(received.dirs, base(3)).whole == 6 * SIZE
    assert reach(received.dirs, base(4, timeline=2)).timeline == 3


def test_without_its_history_a_timeline_cannot_be_gone_on_with(received: Received) -> None:
    received.put(3)
    received.put(4, timeline=2, page=1)
    found = reach(received.dirs, base(3))
    assert (found.timeline, found.whole) == (1, 4 * SIZE)


def test_a_gap_where_a_timeline_begins(received: Received) -> None:
    received.put(3)
    received.history(2, (1, 4 * SIZE + 500))
    received.put(5, timeline=2)
    assert "000000020000000000000004 is missing" in reach(received.dirs, base(3)).wrong


def test_a_base_backup_of_what_was_undone_leads_nowhere(received: Received) -> None:
    for number in (3, 4, 5, 6):
        received.put(number)
    received.history(2, (1, 4 * SIZE + 500))
    received.put(4, timeline=2, page=1)
    assert "was restored, on timeline 2, to 0/4001F4, which is before it" in reach(received.dirs, base(6)).wrong
    assert reach(received.dirs, base(3)).wrong == ""
    assert left_behind(received.root, base(6)) == reach(received.dirs, base(6)).wrong
    assert left_behind(received.root, base(3)) == ""


def test_a_base_backup_of_a_timeline_that_was_left_leads_nowhere(received: Received) -> None:
    received.put(3)
    received.history(2, (1, 4 * SIZE + 500))
    received.put(4, timeline=2, page=1)
    received.put(5, timeline=2)
    received.history(3, (1, 4 * SIZE + 100))
    received.put(4, timeline=3, page=1)
    assert "timeline 3, which did not come of timeline 2" in reach(received.dirs, base(5, timeline=2)).wrong
    assert reach(received.dirs, base(3)).timeline == 3


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Give a directory that anybody can come to, and be somebody who may not read everything."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o777)
        was = os.geteuid()
        os.seteuid(65534 if was == 0 else was)
        try:
            yield Path(made)
        finally:
            os.seteuid(was)


def test_what_may_not_be_read_is_said_and_not_taken_for_the_end(open_place: Path) -> None:
    received = Received(open_place / "wal")
    received.put(3).chmod(0)
    with pytest.raises(PreconditionError, match=r"may not be read: .*000000010000000000000003"):
        reach(received.dirs, base(3))
    received.of(1).chmod(0)
    for look in (lambda: reach(received.dirs, base(3)), lambda: left_behind(received.root, base(3))):
        with pytest.raises(PreconditionError, match="may not be read") as refused:
            look()
        assert "root" in refused.value.next_step
    received.of(1).chmod(0o755)
    received.root.chmod(0)
    with pytest.raises(PreconditionError, match=f"may not be read: {received.root}"):
        places(received.root, SYSTEM)
    received.root.chmod(0o755)


def test_one_that_is_received_to_its_end_meanwhile_is_read_under_its_new_name(received: Received) -> None:
    received.put(3)
    path = received.put(4, partial=True)
    found = received_to(received.dirs, base(3))
    listed = in_order(received.dirs, base(3))
    path.rename(path.with_suffix(""))
    with pytest.MonkeyPatch.context() as patch:
        # As it was listed a moment before.
        patch.setattr("recoup.wal_rest.in_order", lambda *_: listed)
        assert received_to(received.dirs, base(3)) == found > 4 * SIZE
        assert rest(received.dirs, base(3), found, found).damaged == ""
