"""What all tests share: the markers, and the guard that keeps unit tests off the network and away from programs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections import Counter
from pathlib import Path
from typing import NoReturn

import pytest

from tests.anvil import anvil_binary

pytest.register_assert_rewrite("tests.chain_looks", "tests.stack_behaviour", "tests.step_behaviour")

_UNIT = Path(__file__).parent / "unit"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "docker: needs a real Docker engine")
    config.addinivalue_line("markers", "slow: takes more than ten seconds")


@pytest.fixture(scope="session")
def anvil(pytestconfig: pytest.Config) -> Path:
    """Give the program of a real EVM node; ``tests.anvil.evm_node`` runs it."""
    cache = pytestconfig.cache
    assert cache is not None
    return anvil_binary(cache.mkdir("anvil"))


@pytest.fixture(scope="session")
def terraform() -> None:
    """Skip aloud where there is no Terraform, or fail where it was promised."""
    if shutil.which("terraform") is None:
        if os.environ.get("RECOUP_REQUIRE_TERRAFORM"):
            pytest.fail("RECOUP_REQUIRE_TERRAFORM is set, and there is no terraform on PATH")
        pytest.skip("NOTHING WAS PROVED ABOUT TERRAFORM: there is none on this machine")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what this run could not prove, by its reason."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    if not reasons:
        return
    terminalreporter.section("not proven by this run")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:>5} {'test' if count == 1 else 'tests'}: {reason}")


@pytest.fixture(autouse=True)
def _unit_tests_touch_nothing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.path.is_relative_to(_UNIT):
        return

    def refuse(*_: object, **__: object) -> NoReturn:
        pytest.fail("a unit test may neither open a connection nor run a program; it belongs into tests/services")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
