"""Faults for drills: ways in which nodes of a chain go wrong, really done to those of a sandbox and to no others."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from enum import StrEnum

from recoup.errors import PreconditionError, RecoveryError
from recoup.records import now
from recoup.stacks import Health, Stack
from tasks.sandbox_process import BACKUP_NODES

NODES = ("neo-n3-rpc", "neo-x-rpc")
# The networks for tests: https://docs.neo.org/docs/n3/develop/network/testnet.html, https://xdocs.ngd.network.
_TEST_NETWORKS = {"neo-n3-rpc": "894710606", "neo-x-rpc": "12227332"}
_UP = timedelta(seconds=60)
_LAG, _FORK = "50000", "1000"


class ChainFault(StrEnum):
    """How the nodes go wrong that are in use."""

    SILENT = "silent"
    LAGGING = "lagging"
    FORKED = "forked"
    WRONG_NETWORK = "wrong-network"
    ALL_DOWN = "all-down"


def inject(stack: Stack, fault: ChainFault, sandbox: str) -> datetime:
    """Make the nodes of a sandbox go wrong and give the moment just before; PreconditionError on anything else."""
    if not sandbox or stack.sandbox != sandbox:
        raise PreconditionError(
            f"{stack.fingerprint} is not the sandbox {sandbox or '(none)'}: a fault is never injected there",
            next_step="run the drill on a sandbox: recoup drill blockchain",
        )
    at = now()
    for node in NODES:
        match fault:
            case ChainFault.SILENT:
                # Connections are still taken, and nothing is ever answered.
                stack.freeze(node)
            case ChainFault.LAGGING:
                stack.recreate(node, env={"NODE_LAG": _LAG})
            case ChainFault.FORKED:
                stack.recreate(node, env={"NODE_FORK": _FORK})
            case ChainFault.WRONG_NETWORK:
                stack.recreate(node, env={"NODE_NETWORK": _TEST_NETWORKS[node]})
            case ChainFault.ALL_DOWN:
                stack.kill(node)
    if fault is ChainFault.ALL_DOWN:
        stack.kill(BACKUP_NODES)
    if fault in (ChainFault.LAGGING, ChainFault.FORKED, ChainFault.WRONG_NETWORK):
        # Until they answer again they are merely down, which is another fault.
        for node in NODES:
            _wait_for(stack, node)
    return at


def _wait_for(stack: Stack, node: str) -> None:
    until = time.monotonic() + _UP.total_seconds()
    while stack.state(node).health is not Health.HEALTHY:
        if time.monotonic() > until:
            raise RecoveryError(f"{node} did not come up again with the fault", state="the sandbox is taken down again")
        time.sleep(0.1)
