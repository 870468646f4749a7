"""A real embedded sandbox for the tests of this directory."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from recoup.secrets import resolve
from recoup.stacks import proctable
from recoup.stacks.process import ProcessStack
from tasks import enclave_quote
from tasks.sandbox import Sandbox, create, destroy, sweep
from tests.enclave_platform import EnclavePlatform, enclave_platform


@pytest.fixture(scope="session")
def sandbox_state() -> Iterator[Path]:
    """Give this run a state directory that every user can enter; what a killed run left is cleaned away first."""
    home = Path(tempfile.gettempdir()) / f"recoup-tests-{os.getuid()}"
    home.mkdir(exist_ok=True)
    assert home.lstat().st_uid == os.getuid(), f"{home} belongs to somebody else"
    home.chmod(0o755)
    for old in home.glob("[0-9]*-[0-9]*"):
        pid, start = (int(part) for part in old.name.split("-"))
        if not proctable.alive(proctable.Identity(pid, start, proctable.boot())):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("RECOUP_STATE", str(old))
                sweep()
            shutil.rmtree(old, ignore_errors=True)
    me = proctable.myself()
    place = home / f"{me.pid}-{me.start}"
    place.mkdir()
    place.chmod(0o755)
    (place / "sandboxes").mkdir()
    yield place
    shutil.rmtree(place)


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


@pytest.fixture(scope="session")
def enclaves(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnclavePlatform]:
    with enclave_platform(tmp_path_factory.mktemp("enclave")) as made:
        yield made


@pytest.fixture
def platform(enclaves: EnclavePlatform, monkeypatch: pytest.MonkeyPatch) -> EnclavePlatform:
    """Give a platform with an enclave as it is in the beginning: a sound processor, no secret in the enclave."""
    enclaves.reset()
    monkeypatch.setattr(enclave_quote, "ROOT", enclaves.first.root)
    return enclaves
