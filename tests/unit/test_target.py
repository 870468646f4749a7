"""Which moments to restore to are understood, and which are turned away with a word on what to write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from recoup.errors import PreconditionError
from recoup.target import Target, parse_target

MOMENT = datetime(2026, 1, 23, 3, 12, 5, 250000, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "latest", "  latest "])
def test_the_latest_moment_sets_nothing(text: str) -> None:
    target = parse_target(text)
    assert target.latest
    assert target.settings() == ()
    assert str(target) == "the latest moment"


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-23T03:12:05.25Z",
        "2026-01-23 03:12:05.25+00",
        "2026-01-23 05:12:05.250+02:00",
        "20260122T221205.25-0500",
        " 2026-01-23T03:12:05.250000+00:00\n",
    ],
)
def test_a_time_is_given_to_the_server_in_utc_to_the_microsecond(text: str) -> None:
    target = parse_target(text)
    assert target.time == MOMENT
    assert not target.latest
    assert target.settings() == ("recovery_target_time=2026-01-23 03:12:05.250000+00",)
    assert str(target) == "2026-01-23 03:12:05.250000 UTC"


def test_a_transaction_itself_is_not_replayed() -> None:
    target = parse_target("xid:742")
    assert (target.xid, target.latest) == (742, False)
    assert target.settings() == ("recovery_target_xid=742", "recovery_target_inclusive=off")
    assert str(target) == "just before transaction 742"
    # Zero is a value, not the absence of one.
    assert Target(xid=0).settings()
    assert not Target(xid=0).latest


def test_an_lsn_itself_is_not_replayed() -> None:
    target = parse_target("lsn:1a/3000028")
    assert (target.lsn, target.latest) == ("1A/3000028", False)
    assert target.settings() == ("recovery_target_lsn=1A/3000028", "recovery_target_inclusive=off")
    assert str(target) == "just before 1A/3000028"


def test_the_last_record_that_is_replayed_can_be_named() -> None:
    target = parse_target("through:1a/3000028")
    assert (target.through, target.latest) == ("1A/3000028", False)
    assert target.settings() == ("recovery_target_lsn=1A/3000028", "recovery_target_inclusive=on")
    assert str(target) == "the record at 1A/3000028"


@pytest.mark.parametrize("text", ["latest", MOMENT.isoformat(), "xid:742", "lsn:0/3000028", "through:0/3000028"])
def test_a_target_is_written_as_it_is_read(text: str) -> None:
    assert parse_target(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "now",
        "xid:",
        "xid:-1",
        "xid:0x2e6",
        "xid:12; DROP TABLE users",
        "XID:742",
        "lsn:3000028",
        "lsn:0/",
        "lsn:0/123456789",
        "lsn:0/3000028'",
        "lsn:0/30000 28",
        "2026-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "25:00",
        "latest\nrecovery_target_action=shutdown",
        "2026-01-23T03:12:05Z\nrestore_command=true",
    ],
)
def test_what_is_no_moment_is_turned_away_with_what_to_write(text: str) -> None:
    with pytest.raises(PreconditionError, match="is no moment") as refused:
        parse_target(text)
    assert "xid:1234" in refused.value.next_step


@pytest.mark.parametrize("text", ["2026-01-23T03:12:05", "2026-01-23", "2026-01-23 03:12"])
def test_a_time_without_a_zone_is_never_guessed(text: str) -> None:
    with pytest.raises(PreconditionError, match="has no time zone") as refused:
        parse_target(text)
    assert "offset" in refused.value.next_step


def test_the_future_cannot_be_restored() -> None:
    later = datetime.now(UTC) + timedelta(minutes=1)
    with pytest.raises(PreconditionError, match="is in the future"):
        parse_target(later.isoformat())
    # A zone to the west makes a time that looks past one to come.
    west = (datetime.now(UTC) - timedelta(hours=6)).replace(tzinfo=None)
    with pytest.raises(PreconditionError, match="is in the future"):
        parse_target(f"{west.isoformat()}-12:00")
    assert parse_target((later - timedelta(minutes=2)).isoformat()).time
