"""Faults for drills: releases that went wrong. They act on a sandbox alone."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from recoup.errors import PreconditionError
from recoup.plan import Plan
from recoup.release import release_of
from recoup.stacks import Stack
from tasks.sandbox_release import commit_version, deploy


class ReleaseFault(StrEnum):
    """What is wrong with a release, or with the one before it."""

    BAD_RELEASE = "bad-release"
    BAD_VERSION = "bad-version"
    IRREVERSIBLE_MIGRATION = "irreversible-migration"


def inject(plan: Plan, stack: Stack, fault: ReleaseFault, sandbox: str) -> datetime:
    """Release a version to a sandbox and give the moment; PreconditionError on anything else."""
    if not sandbox or stack.sandbox != sandbox:
        raise PreconditionError(
            f"{stack.fingerprint} is not the sandbox {sandbox or '(none)'}: nothing bad is ever released there",
            next_step="run the drill on a sandbox: recoup drill rollback",
        )
    root = release_of(plan).checkout
    match fault:
        case ReleaseFault.BAD_RELEASE:
            # What runs is no good, and what was before it is.
            commit_version(root, "2.0.0", good=False, days_ago=1, migration="both")
        case ReleaseFault.BAD_VERSION:
            # What runs serves users, and what was before it would not.
            commit_version(root, "1.9.0", good=False, days_ago=2)
            commit_version(root, "2.0.0", good=True, days_ago=1, migration="both")
        case ReleaseFault.IRREVERSIBLE_MIGRATION:
            commit_version(root, "2.0.0", good=False, days_ago=1, migration="up")
    return deploy(plan, "2.0.0")
