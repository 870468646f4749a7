"""A replica of a Redis: kept from emptying itself with its primary, used as the freshest source, attached again.

A replica that follows a primary which lost its data takes over the loss. So before anything starts such a primary its
replica is told to follow nobody, and where it cannot be told, it is stopped.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import redis
from pydantic import AwareDatetime, ValidationError

from recoup.errors import RecoupError, RecoveryError, first_line
from recoup.plan import ComposeSite, Plan
from recoup.records import Frozen
from tasks.redis_backup import take_snapshot
from tasks.redis_server import CONNECT, LOAD, RESTART, ROUNDING, Link, RedisServer
from tasks.step import note, step

_PROGRESS = ("master_link_status", "master_sync_left_bytes", "loading_loaded_bytes")


class Following(Frozen):
    """Whom a replica follows, and how far; where nothing tells that, both moments are None.

    ``point`` is the moment up to which it surely has every write, ``until`` the one up to which it was connected.
    ``history`` and ``offset`` are the primary's own (``master_replid``) and how far in it the replica has come.
    """

    host: str
    port: int
    history: str
    offset: int
    point: AwareDatetime | None
    until: AwareDatetime | None
    basis: str

    def __str__(self) -> str:
        reached = f"it has every write up to {self.point:%Y-%m-%d %H:%M:%S}" if self.point else "how far is unknown"
        return f"it follows {self.host}:{self.port}; {reached} ({self.basis})"


class Detached(Frozen):
    """A replica that follows nobody; ``followed`` is what it did before, ``stopped`` why it had to be stopped."""

    service: str
    followed: Following | None = None
    stopped: str = ""

    def __str__(self) -> str:
        if self.stopped:
            return f"{self.service} could not be told to follow nobody and was stopped: {self.stopped}"
        return f"{self.service} follows nobody; before, {self.followed or 'it followed nobody either'}"


class Attached(Frozen):
    """What became of a replica at the end; ``trouble`` is empty when it follows, ``aside`` where its old data are."""

    service: str
    seen: str = ""
    trouble: str = ""
    aside: str = ""

    def __str__(self) -> str:
        kept = f"; its old data are at {self.aside}" if self.aside else ""
        return f"{self.service}: {self.trouble or self.seen}{kept}"


@dataclass(frozen=True)
class Replica:
    """The replica of a redis component. ``home`` is where it reaches its primary when it does not remember.

    ``noted`` is the file that keeps whom it followed, and how far, for as long as it is detached.
    """

    primary: RedisServer
    server: RedisServer
    home: tuple[str, int]
    noted: Path

    @classmethod
    def of(cls, plan: Plan, primary: RedisServer) -> Replica | None:
        """Give the replica that the plan names for a redis component, None when it names none."""
        spec = primary.spec
        if spec.replica is None:
            return None
        own = spec.model_copy(update={"service": spec.replica.service, "port": spec.replica.port, "replica": None})
        # Between containers a service is reached by its name, whatever address it has today.
        inside = isinstance(plan.platform.stack, ComposeSite)
        home = (spec.service, spec.port) if inside else primary.stack.endpoint(spec.service, spec.port)
        noted = plan.platform.state / f"{plan.platform.name}.{primary.component}.detached.json"
        return cls(primary, RedisServer(primary.stack, primary.component, own), home, noted)

    @property
    def service(self) -> str:
        return self.server.spec.service

    def remembered(self) -> Following | None:
        """Give whom it followed when it was detached; None when that was not noted, or cannot be read."""
        try:
            return Following.model_validate_json(self.noted.read_bytes())
        except (OSError, ValidationError):
            return None

    def remember(self, following: Following) -> None:
        beside = self.noted.with_suffix(".part")
        self.noted.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8") as file:
            file.write(following.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        beside.rename(self.noted)


def followed(said: dict[str, str], clock: datetime, silence: timedelta) -> Following | None:
    """Read INFO's replication section of a server at its own ``clock``; None when it follows nobody.

    What a primary sends comes in order: whatever it did before the last thing that was heard has arrived. When the link
    is broken, that may have been ``silence`` (repl-timeout) before the break.
    """
    if said["role"] != "slave":
        return None
    point: datetime | None = None
    until: datetime | None = None
    if said["master_link_status"] == "up":
        heard = int(said["master_last_io_seconds_ago"])
        until = clock - timedelta(seconds=heard)
        point, basis = until - ROUNDING, f"it heard from its primary {heard} s before"
    elif said.get("master_sync_in_progress") == "1":
        basis = "it is taking its primary's data anew"
    elif (broken := int(said.get("master_link_down_since_seconds", -1))) < 0:
        basis = "it has not been connected since it was started"
    else:
        until = clock - timedelta(seconds=broken)
        point = until - silence - ROUNDING
        basis = f"its link broke {broken} s before, after at most {silence.total_seconds():.0f} s of silence"
    return Following(
        host=said["master_host"],
        port=int(said["master_port"]),
        history=said["master_replid"],
        offset=int(said["slave_repl_offset"]),
        point=point,
        until=until,
        basis=basis,
    )


def following(link: Link) -> Following | None:
    """Say whom a server follows, and how far; None when it follows nobody."""
    silence = timedelta(seconds=int(link.setting("repl-timeout") or 60))
    return followed(link.info("replication"), link.clock(), silence)


@step(timeout=timedelta(minutes=2), retries=1)
def detach_redis_replica(replica: Replica) -> Detached:
    """Have the replica follow nobody, keeping what it has; where it cannot be told, stop it.

    Raises RecoveryError when neither succeeds: then nothing may start the primary.
    """
    return detach(replica)


def detach(replica: Replica) -> Detached:
    """Have a replica follow nobody, or stop it; what it followed is noted first, and read back when that was before."""
    server = replica.server
    state = server.stack.state(replica.service)
    why = f"it is {state.status}"
    if state.running:
        try:
            with server.connect(answer=CONNECT) as link:
                if found := following(link):
                    replica.remember(found)
                    link.ask("REPLICAOF", "NO", "ONE")
                    if following(link):
                        raise RecoveryError("it was told to follow nobody and goes on")
            return Detached(service=replica.service, followed=found or replica.remembered())
        except (redis.RedisError, RecoupError, OSError) as error:
            why = first_line(error)
    note(f"stopping {replica.service}: it cannot be told to follow nobody ({why})")
    try:
        # Also one that is down: nothing but this procedure is to start it, for it would follow at once.
        server.stack.stop(replica.service)
    except RecoveryError as error:
        raise RecoveryError(
            f"the replica {replica.service} can neither be told to follow nobody ({why}) nor be stopped: {error.what}",
            state="the primary was not started, for the replica would take over its loss",
            next_step=f"stop {replica.service} by hand, then run the recovery again",
        ) from None
    return Detached(service=replica.service, followed=replica.remembered(), stopped=why)


@step(timeout=2 * LOAD)
def attach_redis_replica(replica: Replica, keep: bool, label: str) -> Attached:
    """Have the replica follow its primary again and wait until it does; ``keep``: put aside what it holds.

    Raises nothing that is about the replica: the platform is recovered without it. What is wrong stands in the result.
    """
    aside = ""
    try:
        if keep:
            aside = _put_aside(replica, label)
        server = replica.server
        if not server.stack.state(replica.service).running:
            server.stack.start(replica.service)
        seen = _follow(replica)
    except (redis.RedisError, RecoupError) as error:
        what = error.what if isinstance(error, RecoupError) else first_line(error)
        return Attached(service=replica.service, trouble=what, aside=aside)
    replica.noted.unlink(missing_ok=True)
    return Attached(service=replica.service, seen=seen, aside=aside)


def state_of(replica: Replica) -> str:
    """Say in one line whom a replica follows, changing nothing."""
    state = replica.server.stack.state(replica.service)
    if not state.running:
        return f"{replica.service} is {state.status}"
    try:
        with replica.server.connect(answer=CONNECT) as link:
            found = following(link)
    except (redis.RedisError, RecoupError) as error:
        return f"{replica.service} runs and does not tell: {first_line(error)}"
    before = replica.remembered()
    apart = f"it follows nobody; detached by a recovery, before: {before}" if before else "it follows nobody"
    return f"{replica.service}: {found or apart}"


def _put_aside(replica: Replica, label: str) -> str:
    server, service = replica.server, replica.service
    if server.stack.state(service).running:
        with server.connect() as link:
            if following(link) or not any(link.keys().values()):
                return ""
            note(f"saving what {service} holds before it is put aside")
            take_snapshot(link)
        server.stack.stop(service)
    return server.stack.put_aside(service, label=label)


def _follow(replica: Replica) -> str:
    before = replica.remembered()
    host, port = (before.host, before.port) if before else replica.home
    last, moved = "", time.monotonic()
    while True:
        try:
            with replica.server.connect() as link:
                said = link.info("replication", "persistence")
                if said["role"] != "slave":
                    link.ask("REPLICAOF", host, port)
                    said["master_link_status"] = "asked for"
                elif said["master_link_status"] == "up":
                    keys = sum(link.keys().values())
                    return f"it follows {said['master_host']}:{said['master_port']}, with {keys:,} keys"
                seen = "; ".join(f"{name} {said[name]}" for name in _PROGRESS if name in said)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            seen = first_line(error)
        # A large copy takes its time: it is given up when nothing has changed for a while.
        if seen != last:
            last, moved = seen, time.monotonic()
            note(f"waiting until {replica.service} follows {host}:{port}")
        if time.monotonic() - moved > RESTART.total_seconds():
            said_last = replica.server.stack.logs(replica.service, tail=3).strip()
            raise RecoveryError(f"it does not come to follow {host}:{port} ({last}): {said_last}")
        time.sleep(0.2)
