"""What of received WAL nobody needs: never what a base backup that is kept can be replayed with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recoup.manifest import BaseBackup
from recoup.wal import reach, received
from recoup.wal_retention import KeptBase, WalFile, unneeded
from tests.received_wal import SIZE, SYSTEM, Received, base

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def at(tmp_path: Path) -> Received:
    return Received(tmp_path / "wal")


def going(at: Received, *bases: BaseBackup, hours: float = 0) -> dict[Path, str]:
    """Say what of a directory is not needed, with base backups taken so long after it was written."""
    files = {path: WalFile(path.parent.name, path.name, NOON) for path in received(at.root)}
    return unneeded(files, [KeptBase(NOON + timedelta(hours=hours), one) for one in bases])


def test_what_is_older_than_the_oldest_base_backup_goes(at: Received) -> None:
    gone = {at.put(1), at.put(2), at.put(2, partial=True)}
    at.put(3)
    at.put(4, partial=True)
    at.history(2, (1, 4 * SIZE))
    (at.root / "witness.json").write_text("{}")
    assert set(going(at, base(5), base(3))) == gone
    assert going(at) == {}, "the first base backup may just be being taken"


def test_nothing_that_is_needed_ever_goes(at: Received) -> None:
    """Of every timeline and base backup: what can be reached before is reached after."""
    for number in range(2, 9):
        at.put(number)
    at.history(2, (1, 5 * SIZE + 500))
    for number in range(5, 12):
        at.put(number, timeline=2, page=1 if number == 5 else None)
    at.put(12, timeline=2, partial=True)
    bases = [base(2), base(4), base(6, timeline=2), base(9, timeline=2)]
    for oldest in range(len(bases)):
        before = [reach(at.dirs, later) for later in bases[oldest:]]
        for path in going(at, *bases[oldest:]):
            path.unlink()
        assert [reach(at.dirs, later) for later in bases[oldest:]] == before
        assert all(not found.wrong and found.whole == 12 * SIZE for found in before)
    left = {path.name for path in at.of(2).iterdir() if path.suffix != ".history"}
    assert min(left) == "000000020000000000000009"
    # What the left timeline had beyond its end went with the last base backup of it.
    assert not list(at.of(1).iterdir())


def test_what_a_restore_has_undone_stays_for_as_long_as_a_base_backup_of_that_time(at: Received) -> None:
    undone = {at.put(number) for number in (5, 6, 7)}
    at.history(2, (1, 5 * SIZE + 500))
    at.put(5, timeline=2, page=1)
    at.put(6, timeline=2)
    assert going(at, base(5), base(6, timeline=2)) == {}
    # Of the same numbers on the other timeline only what lies before the base backup.
    assert set(going(at, base(6, timeline=2))) == undone | {at.of(2) / "000000020000000000000005"}


def test_a_server_without_a_base_backup_is_gone_or_only_just_beginning(at: Received) -> None:
    mine = at.put(3)
    other = base(3).model_copy(update={"system_identifier": "7000"})
    assert going(at, other, hours=-1) == {}, "received after that base backup: a new server"
    assert going(at, other, hours=1) == {mine: "of a server of which no base backup is kept"}
    assert going(at, other, base(3), hours=1) == {}


def test_of_several_states_of_one_segment_the_newest_stays() -> None:
    def state(name: str, minutes: int) -> WalFile:
        return WalFile(f"{SYSTEM}-1", name, NOON + timedelta(minutes=minutes))

    files = {
        "a": state("000000010000000000000003.partial", 1),
        "b": state("000000010000000000000003", 0),
        "c": state("000000010000000000000004.partial", 1),
        "d": state("000000010000000000000004.partial", 2),
    }
    assert set(unneeded(files, [KeptBase(NOON, base(3))])) == {"a", "c"}
