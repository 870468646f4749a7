"""The fault of a platform drill: everything is gone, but for the backups, the plan and who runs the recovery."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from recoup.errors import PreconditionError
from recoup.plan import ConfigurationComponent, Plan, ProcessSite
from recoup.records import now
from recoup.stacks import Stack

_OF_A_PROCESS_STACK = ("services", "run", "logs")


class PlatformFault(StrEnum):
    """What is gone: services and their data, or with them the backups that are kept on this host."""

    EVERYTHING = "everything"
    BACKUPS_TOO = "backups-too"


MEANING = {
    PlatformFault.EVERYTHING: "containers, networks, volumes or data directories, and the deployed configuration",
    PlatformFault.BACKUPS_TOO: "the same, and the repository: a copy elsewhere is all there is",
}


def inject(plan: Plan, stack: Stack, fault: PlatformFault, sandbox: str) -> datetime:
    """Take everything of a sandbox away and give the moment just before; PreconditionError on anything else."""
    if not sandbox or stack.sandbox != sandbox:
        raise PreconditionError(
            f"{stack.fingerprint} is not the sandbox {sandbox or '(none)'}: a fault is never injected there",
            next_step="run the drill on a sandbox: recoup drill platform",
        )
    at = now()
    site = plan.platform.stack
    if isinstance(site, ProcessSite):
        names = [one.service for one in stack.services()]
        with ThreadPoolExecutor(max_workers=len(names)) as pool:
            list(pool.map(stack.kill, names))
        for name in _OF_A_PROCESS_STACK:
            _remove(site.directory / name)
    else:
        from tasks.sandbox_compose import remove_from_engine

        remove_from_engine(sandbox)
    for one in plan.components.values():
        if isinstance(one, ConfigurationComponent):
            _remove(one.checkout)
    if fault is PlatformFault.BACKUPS_TOO:
        _remove(plan.platform.repository)
    return at


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
