"""A long copy tells how far it is, by the server's own word."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

from recoup.plan import load_plan
from recoup.progress import Silent
from recoup.stacks.process import ProcessStack
from tasks.postgres import Server
from tasks.postgres_base import base_command
from tasks.postgres_progress import copying
from tasks.sandbox import Sandbox
from tasks.step import Watched, watching
from tests.stack_behaviour import SOON


class Notes(Silent):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def test_a_slow_base_backup_says_bytes_rate_and_time_left(
    sandbox: Sandbox, stack: ProcessStack, tmp_path: Path
) -> None:
    server = Server.of(load_plan(sandbox.plan), stack, None)
    argv = (*base_command(server, tmp_path / "base", "server-gzip:1", None), "--max-rate=2M")
    seen = Notes()
    with watching(Watched(seen)), copying(server):
        server.tool(argv, timeout=max(SOON, timedelta(minutes=2)), mounts=[tmp_path])
    told = [re.fullmatch(r"copied (\d+) of (\d+) MB, \d+ MB/s(, .+ left)?", text) for text in seen.told]
    assert told, "it was copied before anything was told"
    assert all(told), seen.told
    assert any(match and match[3] for match in told), seen.told
