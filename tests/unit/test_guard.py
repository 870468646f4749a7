"""The guard of this directory itself: a unit test that reaches out must fail."""

from __future__ import annotations

import socket
import subprocess
from datetime import timedelta

import pytest

from recoup.process import Command, run


def test_no_program_can_be_run() -> None:
    with pytest.raises(pytest.fail.Exception, match="run a program"):
        run(Command(("true",)), timeout=timedelta(seconds=1))
    with pytest.raises(pytest.fail.Exception):
        subprocess.run(["true"], check=False)


def test_no_connection_can_be_opened() -> None:
    with pytest.raises(pytest.fail.Exception, match="open a connection"):
        socket.create_connection(("127.0.0.1", 1), timeout=1)
