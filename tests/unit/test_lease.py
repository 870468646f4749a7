from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from recoup.errors import BusyError, PreconditionError
from recoup.lease import lease


def test_second_taker_is_refused_and_told_who_since_when_and_what_next(tmp_path: Path) -> None:
    with lease(tmp_path, "neo", "run 1"):
        with pytest.raises(BusyError) as refused, lease(tmp_path, "neo", "run 2"):
            pytest.fail("two held the lease")
        since = json.loads((tmp_path / "neo.lease").read_text())["since"]
    told = str(refused.value)
    assert "run 1" in told
    assert str(os.getpid()) in told
    assert since in told
    assert "Next:" in told
    assert refused.value.exit_code == 2


def test_lease_is_free_again_after_the_block_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lease(tmp_path, "neo", "run 1"):
        _ = 1 / 0
    with lease(tmp_path, "neo", "run 2"):
        assert "run 2" in (tmp_path / "neo.lease").read_text()
    assert (tmp_path / "neo.lease").read_text() == ""


def test_a_refused_taker_does_not_overwrite_the_name_of_the_holder(tmp_path: Path) -> None:
    with lease(tmp_path, "neo", "run 1"):
        with pytest.raises(BusyError), lease(tmp_path, "neo", "run 2"):
            pass
        with pytest.raises(BusyError, match="run 1"), lease(tmp_path, "neo", "run 3"):
            pass


def test_platforms_do_not_hinder_each_other(tmp_path: Path) -> None:
    with lease(tmp_path, "neo", "run 1"), lease(tmp_path, "other", "run 2"):
        assert {p.name for p in tmp_path.iterdir()} == {"neo.lease", "other.lease"}


def test_descriptor_is_closed_in_children(tmp_path: Path) -> None:
    with lease(tmp_path, "neo", "run 1"):
        opened = [int(fd) for fd in os.listdir("/proc/self/fd") if _points_to(fd, tmp_path)]
        assert opened
        assert not any(os.get_inheritable(fd) for fd in opened)


def test_a_platform_name_cannot_leave_the_state_directory(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with lease(state, "../../evil", "run 1"):
        assert [p.parent for p in tmp_path.rglob("*.lease")] == [state]


def test_state_that_is_no_directory_is_a_precondition(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PreconditionError, match="cannot be opened"), lease(tmp_path / "file", "neo", "run 1"):
        pass


def _points_to(fd: str, directory: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith(str(directory))
    except FileNotFoundError:
        return False
