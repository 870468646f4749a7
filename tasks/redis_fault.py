"""Drilling a Redis: a client that writes to it until it is broken, and ways to break it. On a sandbox alone."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

import redis

from recoup.errors import PreconditionError
from recoup.records import now
from tasks.canary import PAUSE, Writer
from tasks.redis_server import RedisServer, layout, number

SOON = timedelta(seconds=30)
EXPIRES = 24 * 3600


class RedisFault(StrEnum):
    """How to break Redis: SIGKILL, and with ``WIPE`` its data directory emptied besides."""

    KILL = "kill"
    WIPE = "wipe"


class RedisCanary(Writer):
    """Sets keys ``<prefix>-<n>`` until Redis answers no more: what is restored then is nobody's but the backup's."""

    def __init__(self, server: RedisServer, prefix: str) -> None:
        super().__init__()
        self.server = server
        self.prefix = prefix

    def lost(self) -> tuple[str, ...]:
        """Give the acknowledged keys that are gone."""
        names = sorted(self.acknowledged)
        with self.server.asking("which keys are there", state="the recovery is done") as link:
            answers = link.ask_all([("EXISTS", name) for name in names])
        return tuple(name for name, there in zip(names, answers, strict=True) if not number(there))

    def _write(self) -> None:
        try:
            with self.server.connect() as link:
                while not self._stop.wait(PAUSE):
                    name = f"{self.prefix}-{len(self.acknowledged) + 1:06d}"
                    link.ask("SET", name, "canary", "EX", EXPIRES)
                    self.acknowledged[name] = now()
        except redis.RedisError:
            return


def inject(server: RedisServer, fault: RedisFault, sandbox: str) -> datetime:
    """Break the Redis of a sandbox and give the moment just before; PreconditionError on anything else."""
    if not sandbox or server.stack.sandbox != sandbox:
        raise PreconditionError(
            f"{server.stack.fingerprint} is not the sandbox {sandbox or '(none)'}: a fault is never injected there",
            next_step="run the drill on a sandbox: recoup drill redis",
        )
    service = server.spec.service
    with server.asking("where its data are", state="nothing was broken yet") as link:
        directory = layout(link).directory
    at = now()
    server.stack.kill(service)
    if fault is RedisFault.WIPE:
        empty = ("sh", "-c", 'find "$1" -mindepth 1 -delete', "fault", directory)
        server.stack.beside(service, empty, timeout=SOON)
    return at
