"""Environment files on a real file system: whole or not at all, and with the owner, mode and link they had."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from recoup.env_file import write
from recoup.errors import RecoveryError
from tests.everybody import let_in

NOBODY = 65534


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / ".env"
    file.write_text("A=1\n")
    return file


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run the block without the rights of root, to whom every directory is writable."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_mode_and_owner_are_kept_for_the_new_and_the_kept_file(file: Path, tmp_path: Path) -> None:
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, NOBODY, NOBODY)
    before, kept = file.stat(), tmp_path / ".env.before-run"
    write(file, "A=2\n", keep=kept)
    assert (file.read_text(), kept.read_text()) == ("A=2\n", "A=1\n")
    for one in (file, kept):
        after = one.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert sorted(one.name for one in tmp_path.iterdir()) == [".env", ".env.before-run"]


def test_a_link_stays_a_link(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to("../.env")
    write(link, "A=2\n", keep=link.with_name("link.before"))
    assert link.is_symlink()
    assert link.readlink() == Path("../.env")
    assert file.read_text() == "A=2\n"
    assert stat.S_ISREG(link.with_name("link.before").lstat().st_mode)
    assert link.with_name("link.before").read_text() == "A=1\n"


def test_what_is_kept_already_is_not_overwritten(file: Path, tmp_path: Path) -> None:
    kept = tmp_path / ".env.before-run"
    write(file, "A=2\n", keep=kept)
    write(file, "A=3\n", keep=kept)
    assert (file.read_text(), kept.read_text()) == ("A=3\n", "A=1\n")


def test_who_reads_meanwhile_sees_the_old_or_the_new_file_whole(file: Path) -> None:
    before = file.open()
    write(file, "A=2\n" * 10_000)
    # Not the same file rewritten: who had it open reads on in the old one.
    assert before.read() == "A=1\n"
    assert file.read_text() == "A=2\n" * 10_000
    before.close()


def test_it_is_told_when_the_new_file_is_in_place_already(file: Path, tmp_path: Path) -> None:
    let_in(tmp_path)
    file.chmod(0o666)
    # Files can be made in it, and it cannot be opened, as is needed to have its entries on the disk.
    tmp_path.chmod(0o333)
    try:
        with as_nobody(), pytest.raises(RecoveryError, match="cannot be written: Permission denied") as caught:
            write(file, "A=2\n")
    finally:
        tmp_path.chmod(0o755)
    assert "is the new file already" in caught.value.state
    assert file.read_text() == "A=2\n"


def test_a_directory_that_cannot_be_written_leaves_the_old_file(file: Path, tmp_path: Path) -> None:
    let_in(tmp_path)
    file.chmod(0o666)
    tmp_path.chmod(0o555)
    try:
        with as_nobody(), pytest.raises(RecoveryError, match="cannot be written: Permission denied") as caught:
            write(file, "A=2\n", keep=tmp_path / ".env.before-run")
        assert caught.value.state == f"{file} is as it was"
        assert file.read_text() == "A=1\n"
        assert [one.name for one in tmp_path.iterdir()] == [".env"]
    finally:
        tmp_path.chmod(0o755)


def test_a_kept_file_that_cannot_be_written_leaves_the_old_one_in_use(file: Path, tmp_path: Path) -> None:
    with pytest.raises(RecoveryError, match="cannot be written") as caught:
        write(file, "A=2\n", keep=tmp_path / "none" / "kept")
    assert caught.value.next_step
    assert file.read_text() == "A=1\n"


def test_what_a_killed_run_left_is_no_hindrance(file: Path, tmp_path: Path) -> None:
    for name in (file.name, ".env.before-run"):
        (tmp_path / f".{name}.{os.getpid()}.new").write_text("half of i")
    write(file, "A=2\n", keep=tmp_path / ".env.before-run")
    assert file.read_text() == "A=2\n"
    assert (tmp_path / ".env.before-run").read_text() == "A=1\n"
