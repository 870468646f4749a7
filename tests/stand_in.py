"""The sandbox's stand-ins for nodes, run as its stacks run them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx

from tasks.sandbox_process import free_ports
from tests.stack_behaviour import eventually

_APP = Path(__file__).parent.parent / "infra" / "sandbox"


@contextmanager
def stand_in(role: Literal["rpc-n3", "rpc-x", "rpc-backups"], **switches: int) -> Iterator[str]:
    """Give the URL of a stand-in while the block runs; ``switches`` make it ill, such as NODE_LAG=500."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    surroundings = {"PYTHONPATH": str(_APP), "HOST": "127.0.0.1", "PORT": str(port)}
    surroundings |= {name: str(value) for name, value in switches.items()}
    with subprocess.Popen([sys.executable, "-m", "app", role], env=surroundings, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(f"{role} answers", lambda: _answers(url))
            yield url
        finally:
            process.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
