"""A real Docker engine, or a loud word that there is none; one sandbox for all the tests of a module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import docker
import pytest
from pydantic import SecretStr

from recoup.errors import PreconditionError
from recoup.plan import ComposeSite
from recoup.stacks.compose import ComposeStack
from recoup.stacks.compose_project import connect
from tasks import sandbox_compose


@dataclass(frozen=True)
class Sandbox:
    identity: str
    directory: Path
    site: ComposeSite
    url: str

    @property
    def db_password(self) -> SecretStr:
        return SecretStr((self.directory / "secrets" / "db_password").read_text(encoding="utf-8"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.docker)


@pytest.fixture(scope="session")
def engine() -> docker.DockerClient:
    try:
        client, _ = connect()
    except PreconditionError as error:
        if os.environ.get("RECOUP_REQUIRE_DOCKER") == "1":
            pytest.fail(f"RECOUP_REQUIRE_DOCKER=1, and {error}")
        pytest.skip(f"NOTHING WAS PROVED ABOUT DOCKER: {error.what}")
    return client


# Not for the whole session: the engine would run a health check in each of its containers, every two seconds, until the
# last test of the suite.
@pytest.fixture(scope="module")
def sandbox(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    identity, directory = f"test-{uuid4().hex[:8]}", tmp_path_factory.mktemp("sandbox")
    site, url = sandbox_compose.bring_up(directory, identity, print)
    yield Sandbox(identity, directory, site, url)
    sandbox_compose.tear_down(identity, directory)


@pytest.fixture
def stack(sandbox: Sandbox) -> ComposeStack:
    return ComposeStack.open(sandbox.site)


@pytest.fixture
def db_password(sandbox: Sandbox) -> SecretStr:
    return sandbox.db_password
