"""Faults for drills: ways in which nodes of a chain go wrong, really done to those of a sandbox and to no others."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from recoup.errors import PreconditionError
from recoup.records import now
from recoup.stacks import Stack
from tasks.sandbox_process import BACKUP_NODES

NODES = ("neo-n3-rpc", "neo-x-rpc")
# The networks for tests: https://docs.neo.org/docs/n3/develop/network/testnet.html, https://xdocs.ngd.network.
_TEST_NETWORKS = {"neo-n3-rpc": "894710606", "neo-x-rpc": "12227332"}
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
    return at
