"""What git knows of a checkout: its commit, which files differ from it, and a bundle that holds the commit itself."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from recoup.errors import PreconditionError, ProgramError
from recoup.process import Command, Completed, run

QUICK = timedelta(minutes=1)
LONG = timedelta(minutes=30)
CHANGED, UNTRACKED, DELETED = "differs from the commit", "not in the commit", "deleted, but in the commit"
UNKNOWN = "could not be compared with the commit"


@dataclass(frozen=True)
class Tracked:
    """A file as a commit has it: git's mode (``100644``, ``100755``, ``120000`` for a link) and its object's name."""

    mode: str
    blob: str


@dataclass(frozen=True)
class Control:
    """What a checkout stands at; ``none`` says why when it is under no version control, and the rest is empty then."""

    commit: str = ""
    branch: str = ""
    tags: tuple[str, ...] = ()
    tracked: Mapping[str, Tracked] = field(default_factory=dict)
    none: str = ""


def git_command(root: Path, *arguments: str) -> Command:
    """Give the git program's command line for a checkout, with an environment of its own.

    A repository of another owner is that owner's: safe.directory is told so, and ``owner_of`` whom to run as.
    """
    account = _account(root)
    home = account.pw_dir if account else os.environ.get("HOME", "/")
    return Command(
        ("git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", *arguments),
        # Not the caller's: GIT_DIR and its like, set inside a hook, would name another repository.
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": home,
            "LC_ALL": "C.UTF-8",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",
        },
        cwd=root,
        inherit=False,
    )


def owner_of(root: Path) -> str | None:
    """Give whom git has to run as; None is ourselves.

    A repository's own settings can name programs; run by root they would be root's.
    """
    account = _account(root)
    return account.pw_name if account and os.geteuid() == 0 and account.pw_uid != 0 else None


def control(root: Path) -> Control:
    """Give what a checkout stands at; a directory below a repository's own counts when the commit has files in it."""
    if not any((place / ".git").exists() for place in (root, *root.parents)):
        return Control(none="no git repository")
    if shutil.which("git") is None:
        return Control(none="git is not installed on this machine")
    try:
        head = git(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}", check=False)
        if head.returncode != 0:
            return Control(none=f"git gives no commit: {head.stderr.strip()[-200:] or 'nothing was committed yet'}")
        lines = git(root, "ls-tree", "-r", "-z", "HEAD").stdout.split(b"\0")
        # A submodule is a commit of another repository: its files are in none of this one's.
        tracked = dict(_tracked(line) for line in lines if line and not line.startswith(b"160000 "))
        if not tracked:
            return Control(none="no git repository")
        return Control(
            commit=head.text,
            branch=git(root, "symbolic-ref", "--quiet", "--short", "HEAD", check=False).text,
            tags=tuple(git(root, "tag", "--points-at", "HEAD").text.split()),
            tracked=tracked,
        )
    except ProgramError as error:
        # A damaged repository is the more reason to keep what is deployed.
        return Control(none=f"git cannot read the repository: {error.what.splitlines()[-1][-200:]}")


def differing(root: Path, known: Control, files: Mapping[str, str], executable: Mapping[str, bool]) -> dict[str, str]:
    """Give which of the deployed files differ from the commit, and how; ``files`` maps a path to its link's target.

    The bytes are compared, through the repository's filters. ``git status`` is not asked: it believes the flags
    assume-unchanged and skip-worktree, under which changed configuration hides.
    """
    if known.none:
        return dict.fromkeys(files, UNTRACKED)
    plain = [path for path, link in files.items() if not link and path in known.tracked]
    try:
        hashed = git(root, "hash-object", "--stdin-paths", stdin=b"".join(os.fsencode(p) + b"\n" for p in plain))
    except ProgramError:
        # One of the repository's filters is not installed here, for example.
        return {path: UNTRACKED if path not in known.tracked else UNKNOWN for path in files}
    blobs = dict(zip(plain, hashed.text.split(), strict=True))
    for path, link in files.items():
        if link and path in known.tracked:
            blobs[path] = git(root, "hash-object", "--stdin", "--no-filters", stdin=os.fsencode(link)).text
    modes = git(root, "config", "--type=bool", "--default=true", "core.fileMode").text == "true"
    found = {}
    for path, link in files.items():
        commit = known.tracked.get(path)
        if commit is None:
            found[path] = UNTRACKED
            continue
        mode = "120000" if link else "100755" if executable[path] else "100644"
        other_kind = (mode == "120000") != (commit.mode == "120000")
        if blobs[path] != commit.blob or other_kind or (modes and mode != commit.mode):
            found[path] = CHANGED
    return found


def write_bundle(root: Path, known: Control, target: BinaryIO) -> str:
    """Write the commit with its history as one file that git can clone from; gives why it could not, else nothing."""
    if git(root, "rev-parse", "--is-shallow-repository").text == "true":
        return "the checkout is shallow: its history is not here"
    refs = ["HEAD", *([f"refs/heads/{known.branch}"] if known.branch else []), *(f"refs/tags/{t}" for t in known.tags)]
    try:
        run(
            git_command(root, "bundle", "create", "--quiet", "-", *refs),
            timeout=LONG,
            stdout=target,
            user=owner_of(root),
        )
    except ProgramError as error:
        return f"git bundle: {error.what.splitlines()[0]}"
    return ""


def clone_bundle(bundle: Path, target: Path, commit: str, branch: str) -> None:
    """Make a checkout of a bundle's commit in a new directory, without a remote. Raises ProgramError."""
    target.mkdir(mode=0o755)
    # init and fetch rather than clone, which wants a branch, while a deployed checkout often stands at a bare commit.
    name = branch or "recovered"
    for arguments in (
        ("init", "--quiet", f"--initial-branch={name}"),
        ("fetch", "--quiet", "--tags", str(bundle), "HEAD"),
        ("checkout", "--quiet", *(("-B", branch) if branch else ("--detach",)), commit),
    ):
        run(git_command(target, *arguments), timeout=LONG)


def require_git() -> None:
    """Raise PreconditionError when there is no git program."""
    if shutil.which("git") is None:
        raise PreconditionError("git is not installed on this machine", next_step="install git, then run it again")


def git(root: Path, *arguments: str, stdin: bytes | None = None, check: bool = True) -> Completed:
    """Run git in a checkout as its owner, for a minute at most. Raises ProgramError."""
    return run(git_command(root, *arguments), timeout=QUICK, stdin=stdin, check=check, user=owner_of(root))


def _tracked(line: bytes) -> tuple[str, Tracked]:
    about, _, path = line.partition(b"\t")
    mode, _, blob = about.decode().split(" ")
    return os.fsdecode(path), Tracked(mode, blob)


def _account(root: Path) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(root.stat().st_uid if os.geteuid() == 0 else os.geteuid())
    except (KeyError, OSError):
        return None
