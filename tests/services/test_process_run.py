"""Programs are really run, and really ended."""

from __future__ import annotations

import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from recoup.errors import ProgramError
from recoup.process import Command, run

SHORT = timedelta(seconds=10)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_input_bytes_and_files_go_in_and_output_comes_out() -> None:
    big = os.urandom(300_000)
    assert run(Command(("cat",)), timeout=SHORT, stdin=big).stdout == big
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(big)
        source.seek(0)
        done = run(Command(("cat",)), timeout=SHORT, stdin=source, stdout=target)
        target.seek(0)
        assert target.read() == big
        assert done.stdout == b""


def test_a_failure_carries_code_and_error_output_without_the_secret() -> None:
    command = Command(("sh", "-c", 'echo "denied for $PW" >&2; exit 3'), secrets={"PW": SecretStr("hunter2")})
    with pytest.raises(ProgramError) as raised:
        run(command, timeout=SHORT)
    assert raised.value.returncode == 3
    assert "denied for ********" in str(raised.value)
    assert "hunter2" not in str(raised.value) + raised.value.stderr
    assert run(command, timeout=SHORT, check=False).returncode == 3


def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(ProgramError, match="could not be started"):
        run(Command(("no-such-program",)), timeout=SHORT)


def test_at_the_time_out_the_whole_group_is_ended(tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > {tmp_path}/child; sleep 60"
    with pytest.raises(ProgramError, match="without finishing"):
        run(Command(("sh", "-c", script)), timeout=timedelta(seconds=0.5))
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)
