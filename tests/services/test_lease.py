"""A run that is killed gives its lease up, and a daemon it started does not keep it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recoup.errors import BusyError
from recoup.lease import lease

HOLDER = """
import subprocess, sys
from pathlib import Path
from recoup.lease import lease
with lease(Path(sys.argv[1]), "neo", "the first run"):
    daemon = subprocess.Popen(["sleep", "60"], close_fds=False, start_new_session=True, stdout=subprocess.DEVNULL)
    print(daemon.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    daemon = int(child.stdout.readline())
    yield child, daemon
    child.kill()
    child.communicate()
    os.kill(daemon, signal.SIGKILL)


def test_a_run_that_is_killed_gives_the_lease_up_though_its_daemon_lives(
    tmp_path: Path, holder: tuple[subprocess.Popen[str], int]
) -> None:
    child, daemon = holder
    with pytest.raises(BusyError, match="the first run") as refused, lease(tmp_path, "neo", "second"):
        pass
    assert str(child.pid) in str(refused.value)
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    os.kill(daemon, 0)
    with lease(tmp_path, "neo", "second"):
        assert "second" in (tmp_path / "neo.lease").read_text()
