"""Versions: which is before which, and what a database needs for one."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployments.options import DEFAULT_PLAN
from recoup.errors import PreconditionError
from recoup.plan import ComposeSite, Migrations, Plan, ProcessSite, Release, load_plan
from recoup.release import Pin, Tagged, at, difference, migrations_in, previous, read_pin, release_of, write_pin
from recoup.stacks.process_spec import ServiceSpec, from_code
from tasks.release_migrations import down_command

T = datetime(2026, 11, 23, tzinfo=UTC)


def tag(version: str, day: int, commit: str = "") -> Tagged:
    return Tagged(version=version, tag=f"v{version}", commit=commit or version, created=T + timedelta(days=day))


def plan_with(release: Release | None, site: ComposeSite | ProcessSite, state: Path) -> Plan:
    plan = load_plan(DEFAULT_PLAN)
    own = {"release": release, "stack": site, "state": state}
    return plan.model_copy(update={"platform": plan.platform.model_copy(update=own)})


@pytest.mark.parametrize(
    ("running", "expected"),
    # By when the tag was made, not by its number, and counted from what runs, not from the newest.
    [("3", "2.9"), ("2.9", "2"), ("2", "1"), ("1", None)],
)
def test_the_previous_version_is_the_one_tagged_before_what_runs(running: str, expected: str | None) -> None:
    tags = [tag("1", 1), tag("3", 8), tag("2", 2), tag("2.9", 5)]
    found = previous(tags, running, T + timedelta(days=30))
    assert (found.version if found else None) == expected


def test_what_runs_without_a_tag_counts_from_its_own_moment() -> None:
    found = previous([tag("1", 1), tag("2", 2), tag("3", 8)], "untagged", T + timedelta(days=4))
    assert found is not None
    assert found.version == "2"


def test_a_second_tag_of_the_same_commit_is_no_earlier_version() -> None:
    assert previous([tag("1.0-rc", 1, "same"), tag("1.0", 2, "same")], "same", T) is None


@pytest.mark.parametrize(
    ("applied", "known", "expected"),
    [
        (["a", "b", "c"], ["a"], (("b", "c"), "a", ())),
        (["a"], ["a", "b"], ((), "a", ("b",))),
        (["a", "x"], ["a", "b"], (("x",), "a", ("b",))),
        (["a"], [], (("a",), "0", ())),
        ([], ["a"], ((), "0", ("a",))),
        # What would have to be undone came before what has to stay.
        (["x", "a"], ["a"], None),
    ],
)
def test_what_a_database_needs_for_another_version(
    applied: Sequence[str], known: Sequence[str], expected: tuple[tuple[str, ...], str, tuple[str, ...]] | None
) -> None:
    found = difference(applied, known)
    assert (None if found is None else (found.down, found.stay, found.pending)) == expected


def test_migrations_are_told_by_their_files() -> None:
    files = ("0002_b.up.sql", "0001_a.up.sql", "0001_a.down.sql", "readme.md")
    assert migrations_in(files, "{name}.up.sql") == ("0001_a", "0002_b")
    assert migrations_in(files, "{name}.down.sql") == ("0001_a",)
    assert migrations_in(("20240101_Init.cs", "Init.Designer.vb"), "{name}.cs") == ("20240101_Init",)


def test_the_target_of_the_way_down_stands_where_the_plan_has_it() -> None:
    migrations = Migrations(service="x", directory="m", status=("s",), up=("u",), down=("ef", "update", "{target}"))
    assert down_command(migrations, "0") == ("ef", "update", "0")


def test_a_stack_at_another_version_has_its_files_from_there_and_those_of_nobody_else(tmp_path: Path) -> None:
    root, other = Path("/srv/neo"), Path("/srv/neo.releases/1.0")
    site = ComposeSite(
        file=root / "deploy" / "compose.yaml",
        project="neo",
        env_file=root / ".env",
        overrides=(root / "more.yaml", Path("/etc/recoup/standby.yaml")),
    )
    moved = at(plan_with(Release(checkout=root), site, tmp_path), "1.0", other).platform
    assert isinstance(moved.stack, ComposeSite)
    assert moved.stack.file == other / "deploy" / "compose.yaml"
    assert moved.stack.overrides == (other / "more.yaml", Path("/etc/recoup/standby.yaml"))
    # Secrets are in no commit.
    assert moved.stack.env_file == root / ".env"
    assert moved.version == "1.0"


def test_a_process_has_its_program_from_there() -> None:
    spec = ServiceSpec(
        name="x",
        argv=("/srv/neo/bin/run", "--data", "/srv/neo-data"),
        home=Path("/srv/home"),
        env={"PYTHONPATH": "/srv/neo:/srv/neo/lib", "OTHER": "/srv/neo.releases/9"},
        code=Path("/srv/neo"),
    )
    moved = from_code(spec, Path("/srv/neo.releases/1.0"))
    assert moved.argv == ("/srv/neo.releases/1.0/bin/run", "--data", "/srv/neo-data")
    assert moved.env == {
        "PYTHONPATH": "/srv/neo.releases/1.0:/srv/neo.releases/1.0/lib",
        "OTHER": "/srv/neo.releases/9",
    }
    assert moved.code == Path("/srv/neo.releases/1.0")
    assert from_code(moved.model_copy(update={"code": None}), Path("/elsewhere")).argv == moved.argv


def test_what_was_proven_is_remembered_until_its_files_are_gone(tmp_path: Path) -> None:
    place = tmp_path / "neo.releases" / "1.0"
    place.mkdir(parents=True)
    plan = plan_with(Release(checkout=tmp_path / "neo"), ProcessSite(directory=tmp_path), tmp_path / "state")
    assert read_pin(plan) is None
    write_pin(plan, Pin(version="1.0", place=place, services=("x",)))
    found = read_pin(plan)
    assert found is not None
    assert found.version == "1.0"
    place.rmdir()
    assert read_pin(plan) is None
    place.mkdir()
    write_pin(plan, None)
    assert read_pin(plan) is None


def test_a_plan_without_releases_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError) as refused:
        release_of(plan_with(None, ProcessSite(directory=tmp_path), tmp_path))
    assert "platform.release" in refused.value.next_step


@pytest.mark.parametrize("tag_text", ["v1", "{version}{version}", "{name}"])
def test_a_tag_has_the_version_in_it_once(tag_text: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        Release(checkout=Path("/x"), tag=tag_text)
