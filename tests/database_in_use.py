"""What every helper that has a plan and its stack gives of the database and its backup sets."""

from __future__ import annotations

from recoup.catalog import Repository
from recoup.plan import Plan
from recoup.stacks import Stack
from tasks.postgres import Server


class DatabaseInUse:
    """The plan's database, on the stack that a helper has."""

    plan: Plan
    stack: Stack

    @property
    def server(self) -> Server:
        return Server.of(self.plan, self.stack, None)

    @property
    def repository(self) -> Repository:
        return Repository(self.plan.platform.repository)
