"""A bucket behind a bad way: down, slow, failing half of the time, changing what passes. Nothing false ever counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.copies import CopyBackups, copy_backups, run_copies
from recoup.catalog import Repository, problems
from recoup.errors import DamagedError, RecoveryError
from recoup.plan import DirectoryCopy
from tests.object_store import (
    HURRIED,
    NOON,
    PART,
    copy_of,
    every_second,
    flipped,
    new_bucket,
    plan_with,
    required_endpoint,
    slow,
    spec_of,
    taken,
    way_to_server,
)

pytestmark = pytest.mark.s3
BIG = 2 * PART + 12345


@pytest.fixture(autouse=True)
def _a_server() -> None:
    required_endpoint()


@pytest.fixture
def here(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backups")


@pytest.fixture
def there(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "empty-host")


def test_a_server_that_is_down_is_told_and_the_other_copies_are_made(
    here: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = taken(here, NOON)
    with way_to_server() as way:
        endpoint = way.endpoint
    (tmp_path / "disk").mkdir()
    disk = DirectoryCopy(name="disk", path=tmp_path / "disk")
    # The dead one first: the order in the plan is not what saves the other.
    plan = plan_with(here.root, spec_of("any-bucket", endpoint=endpoint), disk)
    monkeypatch.setattr("tasks.step.time.sleep", lambda seconds: None)
    made = run_copies(plan)
    assert [s.pushed for s in made.synced] == [(one.set_id,)]
    (failed,) = made.failed
    assert failed.startswith("cloud: ")
    assert "nothing answers there" in failed
    assert not made.complete
    path = tmp_path / "plan.yaml"
    path.write_text(plan.dump_yaml())
    with pytest.raises(RecoveryError, match="not every copy is complete"):
        copy_backups.fn(CopyBackups(plan=path))
    assert problems(here.sets("database")[0]) == ""


def test_what_was_missed_while_the_server_was_down_is_caught_up(here: Repository) -> None:
    bucket = new_bucket()
    with way_to_server() as way:
        way.refuse = lambda method, path: True
        copy = copy_of(spec_of(bucket, endpoint=way.endpoint), here.root, HURRIED)
        one = taken(here, NOON)
        with pytest.raises(RecoveryError, match="server failed"):
            copy.push(one)
        way.refuse = lambda method, path: False
        plan = plan_with(here.root, spec_of(bucket, endpoint=way.endpoint))
        assert run_copies(plan).complete
        assert [s.set_id for s in copy.sets("database")] == [one.set_id]


def test_a_server_that_does_not_answer_in_time_is_not_waited_for_for_ever(here: Repository) -> None:
    with way_to_server() as way:
        way.before = slow(6)
        copy = copy_of(spec_of(new_bucket(), endpoint=way.endpoint), here.root, HURRIED)
        with pytest.raises(RecoveryError, match="did not answer in time"):
            copy.push(taken(here, NOON))


def test_a_server_that_fails_every_second_time_gets_and_gives_everything(here: Repository, there: Repository) -> None:
    one = taken(here, NOON, BIG)
    with way_to_server() as way:
        way.refuse = every_second()
        copy = copy_of(spec_of(new_bucket(), endpoint=way.endpoint), here.root)
        copy.push(one)
        assert [s.set_id for s in copy.sets("database")] == [one.set_id]
        assert problems(copy.fetch(one.set_id, there)) == ""


@pytest.mark.parametrize("name", ["globals.sql", "dump/big.dat", "manifest.json"])
def test_a_byte_changed_on_the_way_back_is_noticed_and_nothing_is_kept(
    name: str, here: Repository, there: Repository
) -> None:
    one = taken(here, NOON, BIG)
    with way_to_server() as way:
        copy = copy_of(spec_of(new_bucket(), endpoint=way.endpoint), here.root)
        copy.push(one)
        way.answer = lambda method, path, body: flipped(body) if method == "GET" and name in path else body
        with pytest.raises(DamagedError, match="another sha256"):
            copy.fetch(one.set_id, there)
        assert there.sets("database") == ()
        assert not list(there.root.iterdir())
        way.answer = lambda method, path, body: body
        assert problems(copy.fetch(one.set_id, there)) == ""


@pytest.mark.parametrize("name", ["globals.sql", "dump/big.dat"])
def test_a_byte_changed_once_on_the_way_there_is_sent_again(name: str, here: Repository, there: Repository) -> None:
    one = taken(here, NOON, BIG)
    with way_to_server() as way:
        changed: list[str] = []

        def once(method: str, path: str, body: bytes) -> bytes:
            if method == "PUT" and name in path and not changed:
                changed.append(path)
                return flipped(body)
            return body

        way.send = once
        copy = copy_of(spec_of(new_bucket(), endpoint=way.endpoint), here.root)
        copy.push(one)
        assert changed
        assert problems(copy.fetch(one.set_id, there)) == ""


def test_a_way_that_changes_everything_makes_no_copy(here: Repository) -> None:
    one = taken(here, NOON, BIG)
    with way_to_server() as way:
        way.send = lambda method, path, body: flipped(body) if method == "PUT" and "globals" in path else body
        copy = copy_of(spec_of(new_bucket(), endpoint=way.endpoint), here.root)
        with pytest.raises(DamagedError, match="something else arrived"):
            copy.push(one)
        assert copy.sets("database") == ()


def test_a_server_that_lies_about_what_it_holds_is_not_believed(here: Repository) -> None:
    one = taken(here, NOON, BIG)
    with way_to_server() as way:
        copy = copy_of(spec_of(new_bucket(), endpoint=way.endpoint), here.root)
        way.etag = lambda method, path, etag: '"00000000000000000000000000000000"' if "globals" in path else etag
        with pytest.raises(DamagedError, match="holds something else"):
            copy.push(one)
        assert copy.sets("database") == ()


def test_an_answer_that_breaks_off_is_asked_for_again(here: Repository, there: Repository) -> None:
    one = taken(here, NOON, BIG)
    with way_to_server() as way:
        copy = copy_of(spec_of(new_bucket(), endpoint=way.endpoint), here.root)
        copy.push(one)
        cut: list[str] = []

        def once(method: str, path: str) -> bool:
            if method == "GET" and "big.dat" in path and len(cut) < 2:
                cut.append(path)
                return True
            return False

        way.cut = once
        assert problems(copy.fetch(one.set_id, there)) == ""
        assert len(cut) == 2
