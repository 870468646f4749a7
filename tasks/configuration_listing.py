"""Which files of a checkout a plan's paths name: files, directories and globs, never out of the checkout."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from recoup.errors import PreconditionError
from recoup.plan import ConfigurationComponent

Pattern = tuple[str, ...]
NEW = ".recoup-new"
_OURS = re.compile(rf"\.before-\d{{8}}T\d{{6}}Z(\.\d+)?$|{re.escape(NEW)}$")
_MAGIC = re.compile(r"[*?\[]")
_UNSAFE = re.compile(r'[\x00-\x1f\x7f]|^"')


def pattern_of(path: str) -> Pattern:
    """Give the parts of a path or glob of a plan; PreconditionError when it leads out of the checkout."""
    parts = PurePosixPath(path).parts
    if not path.strip() or path.startswith("/") or ".." in parts:
        raise PreconditionError(
            f"the configuration's path {path!r} leads out of the checkout",
            next_step="name files, directories or globs relative to the checkout, without '..'",
        )
    return parts


def covered(patterns: Iterable[Pattern], path: str) -> bool:
    """Say whether a path is one that the patterns name, or lies below one; ``**`` stands for any directories."""
    parts = tuple(path.split("/"))
    return any(_covers(pattern, parts) for pattern in patterns)


@dataclass
class Listed:
    """What is deployed; ``secret`` was reached by a path that the plan calls secret, by whatever links."""

    found: dict[str, os.stat_result] = field(default_factory=dict)
    secret: set[str] = field(default_factory=set)
    matched: set[str] = field(default_factory=set)
    followed: set[tuple[Path, bool]] = field(default_factory=set)

    def add(self, path: str, found: os.stat_result, secret: bool) -> None:
        self.found[path] = found
        if secret:
            self.secret.add(path)


def list_files(root: Path, spec: ConfigurationComponent) -> Listed:
    """Give every file and link below a checkout that the component's paths name; ``root`` has no links before it.

    A pattern's ``*`` takes hidden files too; ``.git`` and what a restore left beside are never listed. Raises
    PreconditionError for what leads out of the checkout, OSError for what cannot be read.
    """
    listed = Listed()
    for paths, secret in ((spec.secret, True), (spec.paths, False)):
        for path in paths:
            for hit in _expand(root, root, pattern_of(path), listed):
                listed.matched.add(path)
                _add(root, hit, listed, secret)
    return listed


def _expand(root: Path, place: Path, pattern: Pattern, listed: Listed) -> Iterator[Path]:
    if not pattern:
        yield place
        return
    if place.is_symlink():
        # The link belongs to the configuration as much as what it leads to, which is listed under its own name.
        place = _note_link(root, place, listed)
    if not place.is_dir():
        return
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        yield from _expand(root, place, rest, listed)
        for entry in _entries(place):
            if entry.is_dir(follow_symlinks=False):
                yield from _expand(root, Path(entry.path), pattern, listed)
    elif _MAGIC.search(first):
        for entry in _entries(place):
            if fnmatchcase(entry.name, first):
                yield from _expand(root, Path(entry.path), rest, listed)
    elif os.path.lexists(place / first):
        yield from _expand(root, place / first, rest, listed)


def _add(root: Path, path: Path, listed: Listed, secret: bool) -> None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        target = _note_link(root, path, listed)
        if (path, secret) not in listed.followed and target.exists():
            listed.followed.add((path, secret))
            _add(root, target, listed, secret)
    elif stat.S_ISDIR(found.st_mode):
        for entry in _entries(path):
            _add(root, Path(entry.path), listed, secret)
    elif stat.S_ISREG(found.st_mode):
        listed.add(_name(root, path), found, secret)
    else:
        raise PreconditionError(
            f"{path} is neither a file, a directory nor a link", next_step="name the files beside it instead"
        )


def _note_link(root: Path, link: Path, listed: Listed) -> Path:
    try:
        target = link.resolve()
    except RuntimeError:
        raise PreconditionError(f"the link {link} leads to itself", next_step="remove or correct the link") from None
    if not target.is_relative_to(root) or ".git" in target.relative_to(root).parts:
        raise PreconditionError(
            f"the link {link} leads out of the checkout, to {target}",
            next_step="put the file itself into the checkout, or take the link out of the plan's paths",
        )
    # The name that a link holds is no secret; what it leads to may be, and is listed under its own name.
    listed.add(_name(root, link), link.lstat(), secret=False)
    return target


def _name(root: Path, path: Path) -> str:
    name = path.relative_to(root).as_posix()
    if _UNSAFE.search(name):
        raise PreconditionError(f"the file name {name!r} has characters in it that no file list can carry")
    return name


def _entries(place: Path) -> list[os.DirEntry[str]]:
    with os.scandir(place) as entries:
        ours = (entry for entry in entries if entry.name != ".git" and not _OURS.search(entry.name))
        return sorted(ours, key=lambda entry: entry.name)


def _covers(pattern: Pattern, parts: tuple[str, ...]) -> bool:
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_covers(pattern[1:], parts[n:]) for n in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _covers(pattern[1:], parts[1:])
