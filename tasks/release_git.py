"""Versions in a git checkout: its tags, what stood in it at a moment, and work trees of other versions beside it."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from recoup.errors import PreconditionError, ProgramError, RecoveryError
from recoup.plan import Release
from recoup.process import Command, run
from recoup.records import now
from recoup.release import Tagged, releases_directory
from tasks.configuration_git import (
    DELETED,
    LONG,
    UNTRACKED,
    control,
    differing,
    git,
    git_command,
    owner_of,
    require_git,
)

_FORMAT = "%(refname:strip=2)%09%(creatordate:unix)%09%(objectname)%09%(*objectname)"


def require_checkout(release: Release) -> None:
    """Raise PreconditionError when the plan's checkout is no git repository that git can read."""
    require_git()
    known = control(release.checkout) if release.checkout.is_dir() else None
    if known is None or known.none:
        raise PreconditionError(
            f"versions cannot be told in {release.checkout}: {known.none if known else 'it is not there'}",
            next_step="correct platform.release.checkout in the plan, or clone the repository there",
        )


def tags_of(release: Release) -> tuple[Tagged, ...]:
    """Give the versions that tags name as the plan says, the one made last first."""
    before, _, after = release.tag.partition("{version}")
    found = []
    for line in git(release.checkout, "for-each-ref", f"--format={_FORMAT}", "refs/tags").text.splitlines():
        tag, created, name, peeled = [*line.split("\t"), ""][:4]
        version = tag[len(before) : len(tag) - len(after)]
        # A tag without a moment is one of something that is no commit.
        if version and created and tag == f"{before}{version}{after}":
            at = datetime.fromtimestamp(int(created), UTC)
            found.append(Tagged(version=version, tag=tag, commit=peeled or name, created=at))
    return tuple(sorted(found, key=lambda one: (one.created, one.tag), reverse=True))


def commit_at(place: Path, when: datetime) -> str:
    """Give the commit that a work tree stood at then, by git's own log of it; PreconditionError when it cannot tell."""
    asked = git(place, "rev-parse", "--verify", f"HEAD@{{{when.isoformat(timespec='seconds')}}}", check=False)
    if asked.returncode != 0 or "only goes back to" in asked.stderr:
        raise PreconditionError(
            f"git's log of {place} does not say what it stood at when its services were made ({when:%Y-%m-%d %H:%M})",
            next_step=f"deploy what is in {place} once more, so that it is known; see: git -C {place} reflog",
        )
    return asked.text


def commit_of(place: Path) -> str:
    """Give the commit that a work tree stands at now."""
    return control(place).commit


def moment_of(place: Path, commit: str) -> datetime:
    """Give when a commit was made."""
    return datetime.fromtimestamp(int(git(place, "show", "--no-patch", "--format=%ct", commit).text), UTC)


def changes_in(release: Release, place: Path) -> tuple[str, ...]:
    """Give the files of a work tree that differ from its commit, told by their bytes, or are in no commit at all."""
    known = control(place)
    there = [path for path in known.tracked if os.path.lexists(place / path)]
    links = {path: os.readlink(place / path) if (place / path).is_symlink() else "" for path in there}
    runs = {path: os.access(place / path, os.X_OK) for path in there}
    found = [f"{path} ({how})" for path, how in differing(place, known, links, runs).items()]
    found += [f"{path} ({DELETED})" for path in known.tracked if path not in links]
    others = git(place, "ls-files", "--others", "--exclude-standard", "-z").stdout.split(b"\0")
    unknown = [name for one in others if (name := os.fsdecode(one)) and name not in release.carried]
    return (*sorted(found), *(f"{name} ({UNTRACKED})" for name in unknown))


def files_in(release: Release, commit: str, directory: str) -> tuple[str, ...]:
    """Give the names of the files that a commit has in a directory; none when it has no such directory."""
    listed = git(release.checkout, "ls-tree", "-z", "--name-only", f"{commit}:{directory}", check=False)
    return tuple(os.fsdecode(one) for one in listed.stdout.split(b"\0") if one)


def place_of(release: Release, version: str) -> Path:
    """Give where the work tree of a version is."""
    return releases_directory(release) / version.replace("/", "-")


def adding(release: Release, commit: str, place: Path) -> Command:
    """Give the command that makes the work tree of a commit."""
    # No hook of the repository's: it would act for a checkout that nobody made.
    own = ("-c", "core.hooksPath=/dev/null")
    return git_command(release.checkout, *own, "worktree", "add", "--quiet", "--detach", str(place), commit)


def make_work_tree(release: Release, commit: str, place: Path) -> None:
    """See that the work tree of a commit is there, whole and unchanged, with the files that are carried along.

    One that is there and is not so is moved aside. Raises RecoveryError when git cannot make it.
    """
    if not _whole(release, place, commit):
        try:
            if os.path.lexists(place):
                place.rename(place.with_name(f"{place.name}.before-{now():%Y%m%dT%H%M%SZ}"))
            git(release.checkout, "worktree", "prune")
            run(adding(release, commit, place), timeout=LONG, user=owner_of(release.checkout))
        except (ProgramError, OSError) as error:
            raise RecoveryError(
                f"the files of {commit[:12]} cannot be had in {place}: {str(error).splitlines()[0]}",
                state="what runs is as it was",
                next_step="see to the space and rights there, then run it again",
            ) from None
    for name in release.carried:
        _carry(release, name, place)


def _whole(release: Release, place: Path, commit: str) -> bool:
    if not (place / ".git").exists():
        return False
    return commit_of(place) == commit and not changes_in(release, place)


def _carry(release: Release, name: str, place: Path) -> None:
    source, target = release.checkout / name, place / name
    if not source.is_file():
        raise RecoveryError(f"{source}, which every version needs, is not there", state="what runs is as it was")
    if not os.path.lexists(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # The file itself, not a copy: it may hold secrets, and may be changed later.
        target.symlink_to(source)


def is_ours(release: Release, place: Path) -> bool:
    """Say whether a directory is the checkout or the work tree of one of its versions."""
    return place == release.checkout or place.parent == releases_directory(release)
