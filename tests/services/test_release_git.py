"""What is read from a real git repository, and the work trees that are made beside it."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from recoup.errors import PreconditionError, RecoveryError
from recoup.plan import Release
from recoup.records import now
from recoup.release import releases_directory
from tasks.release_git import changes_in, commit_at, make_work_tree, place_of, require_checkout, tags_of

T = datetime(2026, 11, 1, tzinfo=UTC)


def git(root: Path, *arguments: str, days: int = 0) -> str:
    when = (T + timedelta(days=days)).isoformat()
    own = ("git", "-c", "user.name=x", "-c", "user.email=x@y", "-c", "commit.gpgsign=false", "-C", str(root))
    env = {"PATH": "/usr/bin:/bin", "GIT_COMMITTER_DATE": when, "GIT_AUTHOR_DATE": when, "HOME": str(root)}
    done = subprocess.run((*own, *arguments), check=True, capture_output=True, text=True, timeout=30, env=env)
    return done.stdout.strip()


@pytest.fixture
def release(tmp_path: Path) -> Release:
    root = tmp_path / "neo"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / ".gitignore").write_text("ignored\n")
    for day, version in enumerate(("1.9", "1.10", "2.0"), start=1):
        (root / "code").write_text(version)
        git(root, "add", "--all", days=day)
        git(root, "commit", "--quiet", "--message", version, days=day)
        git(root, "tag", f"v{version}", days=day)
    git(root, "tag", "nightly")
    return Release(checkout=root, tag="v{version}")


def test_versions_are_the_tags_that_the_plan_means_by_when_they_were_made(release: Release) -> None:
    # An annotated tag has a moment of its own, later than its commit's.
    git(release.checkout, "tag", "--annotate", "--message", "a fix", "v1.9.1", "v1.9", days=9)
    found = tags_of(release)
    assert [one.version for one in found] == ["1.9.1", "2.0", "1.10", "1.9"]
    assert found[0].commit == found[3].commit == git(release.checkout, "rev-parse", "v1.9^{commit}")


def test_what_a_checkout_stood_at_is_told_and_not_where_it_stands(release: Release) -> None:
    root = release.checkout
    assert commit_at(root, T + timedelta(days=2, hours=1)) == git(root, "rev-parse", "v1.10")
    git(root, "checkout", "--quiet", "v1.9", days=5)
    assert commit_at(root, T + timedelta(days=4)) == git(root, "rev-parse", "v2.0")
    assert commit_at(root, now()) == git(root, "rev-parse", "v1.9")
    with pytest.raises(PreconditionError, match="does not say what it stood at"):
        commit_at(root, T - timedelta(days=1))


def test_every_change_is_seen_and_what_is_ignored_is_not(release: Release) -> None:
    root = release.checkout
    (root / "ignored").write_text("no matter")
    assert changes_in(release, root) == ()
    (root / "new").write_text("in no commit")
    (root / "code").unlink()
    assert len(changes_in(release, root)) == 2
    git(root, "checkout", "--quiet", "code")
    git(root, "update-index", "--skip-worktree", "code")
    (root / "code").write_text("changed by hand")
    assert [one.partition(" ")[0] for one in changes_in(release, root)] == ["code", "new"]


def test_a_work_tree_is_made_beside_and_the_checkout_stays(release: Release) -> None:
    root, place = release.checkout, place_of(release, "1.9")
    (root / "code").write_text("edited meanwhile")
    (root / ".env").write_text("SECRET=x")
    carrying = release.model_copy(update={"carried": (".env",)})
    commit = git(root, "rev-parse", "v1.9")
    make_work_tree(carrying, commit, place)
    assert (place / "code").read_text() == "1.9"
    assert (place / ".env").resolve() == root / ".env"
    assert (root / "code").read_text() == "edited meanwhile"
    assert changes_in(carrying, place) == ()
    made = (place / "code").stat().st_ino
    make_work_tree(carrying, commit, place)
    assert (place / "code").stat().st_ino == made


def test_what_somebody_changed_in_a_work_tree_is_put_aside_and_not_lost(release: Release) -> None:
    place, commit = place_of(release, "1.9"), git(release.checkout, "rev-parse", "v1.9")
    make_work_tree(release, commit, place)
    (place / "code").write_text("tried something")
    make_work_tree(release, commit, place)
    assert (place / "code").read_text() == "1.9"
    (aside,) = releases_directory(release).glob("1.9.before-*")
    assert (aside / "code").read_text() == "tried something"


def test_half_a_work_tree_is_made_anew(release: Release) -> None:
    place, commit = place_of(release, "1.9"), git(release.checkout, "rev-parse", "v1.9")
    place.mkdir(parents=True)
    (place / "code").write_text("half of it")
    make_work_tree(release, commit, place)
    assert (place / "code").read_text() == "1.9"


def test_a_carried_file_that_is_not_there_is_named(release: Release) -> None:
    carrying = release.model_copy(update={"carried": (".env",)})
    with pytest.raises(RecoveryError, match=r"\.env, which every version needs, is not there"):
        make_work_tree(carrying, git(release.checkout, "rev-parse", "v1.9"), place_of(release, "1.9"))


def test_a_checkout_that_is_none_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "gone"):
        with pytest.raises(PreconditionError, match="versions cannot be told"):
            require_checkout(Release(checkout=place))
