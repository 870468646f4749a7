"""WAL on a bad way to a copy, or damaged there: what comes back is what was received, or it is told what is not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from recoup.errors import DamagedError, RecoveryError, WrongKeyError
from recoup.plan import DirectoryCopy
from recoup.sealing import new_key_pair
from recoup.wal import reach
from tasks.copies import CopyPlace
from tasks.wal_shipping import Shipper, bring_wal
from tests.object_store import (
    HURRIED,
    copy_of,
    every_second,
    flipped,
    new_bucket,
    required_endpoint,
    slow,
    spec_of,
    way_to_server,
)
from tests.received_wal import SIZE, Received, base


@pytest.fixture
def here(tmp_path: Path) -> Received:
    """Give three segments that were received to their end, and one that was not."""
    made = Received(tmp_path / "wal")
    for number in (3, 4, 5):
        _filled(made.put(number))
    _filled(made.put(6, partial=True))
    return made


@pytest.fixture
def disk(tmp_path: Path) -> CopyPlace:
    (tmp_path / "disk").mkdir()
    return CopyPlace.open(DirectoryCopy(name="disk", path=tmp_path / "disk"), tmp_path / "backups")


def _filled(path: Path) -> Path:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(os.urandom(SIZE // 2))
    return path


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def stored(copy: CopyPlace, name: str) -> Path:
    """Give the file of a copy on a disk that holds a segment."""
    (found,) = Path(copy.place.where).rglob(f"{name}@*")
    return found


def came_back(copy: CopyPlace, there: Path, received: Received) -> None:
    assert bring_wal(copy, there, base(3)).damaged == ()
    assert contents(there) == contents(received.root)


@pytest.mark.s3
@pytest.mark.parametrize("how", ["failing half of the time", "slow"])
def test_a_server_that_fails_every_second_time_or_is_slow_gets_and_gives_all_of_it(
    how: str, here: Received, tmp_path: Path
) -> None:
    required_endpoint()
    with way_to_server() as way:
        if how == "slow":
            way.before = slow(0.3)
        else:
            way.refuse = every_second()
        copy = copy_of(spec_of(new_bucket(), endpoint=way.endpoint), tmp_path)
        assert Shipper(here.root, copy).ship() == 4
        came_back(copy, tmp_path / "there", here)


@pytest.mark.s3
def test_what_a_server_that_is_away_did_not_get_is_sent_when_it_is_back(here: Received, tmp_path: Path) -> None:
    required_endpoint()
    with way_to_server() as way:
        copy = copy_of(spec_of(new_bucket(), endpoint=way.endpoint), tmp_path, HURRIED)
        shipper = Shipper(here.root, copy)
        way.refuse = lambda method, path: method == "PUT" and "000000000005" in path
        with pytest.raises(RecoveryError, match="server failed"):
            shipper.ship()
        # Received to its end meanwhile.
        (here.of(1) / "000000010000000000000006.partial").rename(here.of(1) / "000000010000000000000006")
        way.refuse = lambda method, path: False
        assert shipper.ship() == 2
        came_back(copy, tmp_path / "there", here)


@pytest.mark.s3
def test_a_server_that_lies_about_what_it_holds_is_not_believed(here: Received, tmp_path: Path) -> None:
    required_endpoint()
    with way_to_server() as way:
        copy = copy_of(spec_of(new_bucket(), endpoint=way.endpoint), tmp_path, HURRIED)
        shipper = Shipper(here.root, copy)
        way.etag = lambda method, path, etag: '"00000000000000000000000000000000"' if method == "PUT" else etag
        with pytest.raises(DamagedError, match="holds something else"):
            shipper.ship()
        way.etag = lambda method, path, etag: etag
        # What is not believed to be there is sent again.
        assert shipper.ship() == 4
        came_back(copy, tmp_path / "there", here)


@pytest.mark.s3
def test_a_byte_changed_on_the_way_never_becomes_wal(here: Received, tmp_path: Path) -> None:
    required_endpoint()
    with way_to_server() as way:
        copy = copy_of(spec_of(new_bucket(), endpoint=way.endpoint), tmp_path)
        way.send = lambda method, path, body: flipped(body) if method == "PUT" and "000000000004" in path else body
        with pytest.raises(DamagedError, match="something else arrived"):
            Shipper(here.root, copy).ship()
        way.send = lambda method, path, body: body
        Shipper(here.root, copy).ship()
        way.answer = lambda method, path, body: flipped(body) if method == "GET" and "000000000004" in path else body
        brought = bring_wal(copy, tmp_path / "there", base(3))
        assert brought.count == 3
        assert "another sha256" in brought.damaged[0]
        way.answer = lambda method, path, body: body
        came_back(copy, tmp_path / "there", here)


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
def test_a_segment_that_is_damaged_in_the_copy_is_named_and_the_others_come(
    how: str, here: Received, disk: CopyPlace, tmp_path: Path
) -> None:
    Shipper(here.root, disk).ship()
    path = stored(disk, "000000010000000000000004")
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-100] if how == "truncated" else flipped(data))
    brought = bring_wal(disk, tmp_path / "there", base(3))
    assert brought.count == 3
    assert len(brought.damaged) == int(how != "missing")
    dirs = Received(tmp_path / "there").dirs
    assert reach(dirs, base(3)).wrong == "the segment 000000010000000000000004 is missing, though later ones are there"
    assert reach(dirs, base(5)).wrong == "", "what needs it not is not harmed"
    # It is still here: the next shipper, which looks at what is there, sends what is missing.
    if how == "missing":
        assert Shipper(here.root, disk).ship() >= 1
        came_back(disk, tmp_path / "there", here)


def test_what_is_damaged_here_is_taken_from_the_copy_and_kept_aside(here: Received, disk: CopyPlace) -> None:
    Shipper(here.root, disk).ship()
    before = contents(here.root)
    cut, other = here.of(1) / "000000010000000000000004", here.of(1) / "000000010000000000000005"
    os.truncate(cut, SIZE // 2)
    other.write_bytes((here.of(1) / "000000010000000000000003").read_bytes())
    assert reach(here.dirs, base(3)).wrong
    assert bring_wal(disk, here.root, base(3)).count == 2
    assert reach(here.dirs, base(3)).wrong == ""
    after = contents(here.root)
    assert {name: after[name] for name in before} == before
    assert sum(".damaged-" in name for name in after) == 2


def test_of_a_segment_that_was_growing_an_older_state_is_better_than_none(
    here: Received, disk: CopyPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is locked in the copy stays beside what is newer; a clock that is set back makes it no newer."""

    def locked(self: object, keys: object) -> None:
        raise RecoveryError("locked", state="all of it is there")

    monkeypatch.setattr("tasks.places.Directory.remove", locked)
    shipper = Shipper(here.root, disk)
    shipper.ship()
    older = (here.of(1) / "000000010000000000000006.partial").read_bytes()
    monkeypatch.setattr("tasks.wal_shipping.time.time_ns", lambda: 1)
    newest = _filled(here.of(1) / "000000010000000000000006.partial").read_bytes()
    shipper.ship()
    name = f"{here.of(1).name}/000000010000000000000006.partial"
    assert bring_wal(disk, tmp_path / "there", base(3)).damaged == ()
    assert (tmp_path / "there" / name).read_bytes() == newest
    states = sorted(Path(disk.place.where).rglob("000000010000000000000006.partial@*"))
    assert len(states) == 2
    states[-1].write_bytes(flipped(states[-1].read_bytes()))
    shutil.rmtree(tmp_path / "there")
    brought = bring_wal(disk, tmp_path / "there", base(3))
    assert len(brought.damaged) == 1
    assert (tmp_path / "there" / name).read_bytes() == older


def test_sealed_wal_opens_with_its_own_key_alone(here: Received, tmp_path: Path) -> None:
    mine, other = new_key_pair(), new_key_pair()
    (tmp_path / "mine").write_text(mine.identity.get_secret_value())
    (tmp_path / "other").write_text(other.identity.get_secret_value())
    (tmp_path / "disk").mkdir()

    def with_key(name: str) -> CopyPlace:
        spec = DirectoryCopy(
            name="disk", path=tmp_path / "disk", recipients=(mine.recipient,), identity=f"file:{tmp_path / name}"
        )
        return CopyPlace.open(spec, tmp_path / "backups")

    Shipper(here.root, with_key("mine")).ship()
    with pytest.raises(WrongKeyError):
        bring_wal(with_key("other"), tmp_path / "there", base(3))
    assert contents(tmp_path / "there") == {}
    came_back(with_key("mine"), tmp_path / "there", here)
