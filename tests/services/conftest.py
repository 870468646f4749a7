"""A real embedded sandbox for the tests of this directory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from recoup.secrets import resolve
from recoup.stacks.process import ProcessStack
from tasks.sandbox import Sandbox, create, destroy


@pytest.fixture(scope="session")
def sandbox_state() -> Path:
    """Give a state directory that every user can enter; the same each time, so that a run sweeps after a killed one."""
    place = Path(tempfile.gettempdir()) / f"recoup-tests-{os.getuid()}"
    place.mkdir(exist_ok=True)
    assert place.lstat().st_uid == os.getuid(), f"{place} belongs to somebody else"
    place.chmod(0o755)
    return place


@pytest.fixture(scope="session")
def sandbox(sandbox_state: Path) -> Iterator[Sandbox]:
    """Give one embedded sandbox for the whole session; a test that breaks it mends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOUP_STATE", str(sandbox_state))
        made = create("process")
    yield made
    destroy(made)


@pytest.fixture(scope="session")
def stack(sandbox: Sandbox) -> ProcessStack:
    return ProcessStack.open(sandbox.directory)


@pytest.fixture(scope="session")
def db_password(sandbox: Sandbox) -> SecretStr:
    return resolve(f"file:{sandbox.directory / 'secrets' / 'db_password'}")
