"""Versions of the platform: which is before which, what the database needs for one, and which one was proven last."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import AwareDatetime, ValidationError

from recoup.errors import PreconditionError
from recoup.places import note_file, write_note
from recoup.records import Frozen

if TYPE_CHECKING:
    from recoup.plan import Plan
    from recoup.plan_release import Release

_NOTE = "release"
NO_MIGRATION = "0"


class Tagged(Frozen):
    """A version that a tag names: its commit, and when the tag was made."""

    version: str
    tag: str
    commit: str
    created: AwareDatetime


class Version(Frozen):
    """A version of the code and the directory its files are in; one without a tag is named by its commit."""

    name: str
    commit: str
    place: Path
    tagged: bool = True

    def __str__(self) -> str:
        return self.name


class Applied(Frozen):
    """A migration that the database has, and when it was applied, where that is known."""

    name: str
    at: AwareDatetime | None = None


class Pin(Frozen):
    """The version that a rollback proved: its services are made from ``place`` until they are deployed otherwise."""

    version: str
    place: Path
    services: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """What a database needs for another version: migrations to undo and to apply, and the last one that stays."""

    down: tuple[str, ...]
    stay: str
    pending: tuple[str, ...]


def releases_directory(release: Release) -> Path:
    """Give where the work trees of other versions are: beside the checkout, with the rights of its owner."""
    return release.checkout.with_name(f"{release.checkout.name}.releases")


def previous(tags: Sequence[Tagged], running: str, since: AwareDatetime) -> Tagged | None:
    """Give the version whose tag was made last before that of the commit ``running``.

    A commit without a tag counts from ``since``, its own moment. None when there is no earlier version.
    """
    own = [one.created for one in tags if one.commit == running]
    before = max(own, default=since)
    earlier = [one for one in tags if one.commit != running and (one.created < before if own else one.created <= since)]
    return max(earlier, key=lambda one: one.created, default=None)


def difference(applied: Sequence[str], known: Sequence[str]) -> Difference | None:
    """Give what lies between a database and a version that knows these migrations.

    None when one that has to be undone was applied before one that has to stay: no order undoes only the first.
    """
    down = tuple(name for name in applied if name not in known)
    stays = tuple(name for name in applied if name in known)
    if tuple(applied) != stays + down:
        return None
    pending = tuple(name for name in known if name not in applied)
    return Difference(down=down, stay=stays[-1] if stays else NO_MIGRATION, pending=pending)


def migrations_in(files: Sequence[str], pattern: str) -> tuple[str, ...]:
    """Give the names of the migrations among these files, sorted; ``pattern`` is ``{name}.up.sql`` or the like."""
    before, _, after = pattern.partition("{name}")
    shape = re.compile(f"{re.escape(before)}(.+){re.escape(after)}")
    found = {match.group(1) for name in files if (match := shape.fullmatch(name))}
    return tuple(sorted(found))


def at(plan: Plan, version: str, place: Path) -> Plan:
    """Give the plan with its stack defined by the files of another version."""
    release = release_of(plan)
    site = plan.platform.stack
    if site.kind == "process":
        moved: object = site.model_copy(update={"code": place})
    else:
        files = tuple(_moved(path, release.checkout, place) for path in (site.file, *site.overrides))
        moved = site.model_copy(update={"file": files[0], "overrides": files[1:]})
    platform = plan.platform.model_copy(update={"stack": moved, "version": version})
    return plan.model_copy(update={"platform": platform})


def release_of(plan: Plan) -> Release:
    """Give what the plan says of releases; PreconditionError when it says nothing."""
    release = plan.platform.release
    if release is None:
        raise PreconditionError(
            "the plan does not say where versions come from",
            next_step="add platform.release to the plan: see docs/writing-a-plan.md",
        )
    return release


def read_pin(plan: Plan) -> Pin | None:
    """Give the version that a rollback proved last, if its files are still there."""
    try:
        pin = Pin.model_validate_json(note_file(plan, _NOTE).read_bytes())
    except (OSError, ValidationError):
        return None
    return pin if pin.place.is_dir() else None


def write_pin(plan: Plan, pin: Pin | None) -> None:
    """Keep which version was proven; None: what the plan itself names."""
    path = note_file(plan, _NOTE)
    if pin is None:
        path.unlink(missing_ok=True)
    else:
        write_note(path, pin.model_dump_json(indent=2))


def _moved(path: Path, checkout: Path, place: Path) -> Path:
    return place / path.relative_to(checkout) if path.is_relative_to(checkout) else path
