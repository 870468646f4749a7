"""Sandboxes for whole procedures: one for each module that may share it, each with one good backup set."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.backup import run_backup
from recoup.plan import load_plan
from recoup.stacks.process import ProcessStack
from tasks.sandbox import create, destroy
from tests.drills.platform import Platform


@pytest.fixture(scope="session", autouse=True)
def state() -> Iterator[Path]:
    """Give a state directory that every user can enter; the same each time, so that a run sweeps after a killed one."""
    place = Path(tempfile.gettempdir()) / f"recoup-tests-{os.getuid()}"
    place.mkdir(exist_ok=True)
    assert place.lstat().st_uid == os.getuid(), f"{place} belongs to somebody else"
    place.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOUP_STATE", str(place))
        yield place


@pytest.fixture(scope="module")
def platform(state: Path) -> Iterator[Platform]:
    """Give a running sandbox with one good backup set; a test that breaks it leaves it recovered."""
    made = create("process")
    try:
        plan = load_plan(made.plan)
        platform = Platform(made, plan, ProcessStack.open(made.directory))
        run_backup(plan, platform.stack, verify=False)
        yield platform
    finally:
        destroy(made)
