"""A Redis server on a stack: how it is reached, how it keeps its data, and what state it is in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol, cast

import redis

from recoup.errors import PreconditionError, RecoveryError, first_line
from recoup.plan import Plan, RedisComponent
from recoup.records import Frozen
from recoup.secrets import resolve
from recoup.stacks import Stack
from tasks.step import note

CONNECT = timedelta(seconds=3)
ANSWER = timedelta(seconds=30)
RESTART = timedelta(minutes=2)
LOAD = timedelta(hours=1)
# INFO tells durations in whole seconds of two readings of the clock.
ROUNDING = timedelta(seconds=1)
Word = str | bytes | int


class Condition(StrEnum):
    """What a Redis server was found to be."""

    HEALTHY = "healthy"
    DOWN = "down"
    LOADING = "loading"
    REFUSING = "refusing connections"
    UNSAVED = "up but cannot save"
    EMPTY = "up but its data are gone"
    CHANGED = "up with other keys than its last backup"


class Diagnosis(Frozen):
    """The condition of a server, with what was seen; ``count`` how many keys it holds, where that was looked at."""

    condition: Condition
    seen: str
    count: int = 0

    def __str__(self) -> str:
        return f"{self.condition}: {self.seen}"


class Mode(StrEnum):
    """How a server keeps its data: snapshots alone, one append-only file (6), or one of several parts (7 and later)."""

    SNAPSHOT = "snapshots only"
    SINGLE = "one append-only file"
    PARTS = "append-only file in parts"


class Layout(Frozen):
    """Where a server keeps its data, as it says itself; ``directory`` is a path as the server sees it."""

    mode: Mode
    directory: str
    dump: str
    append: str
    append_directory: str
    fsync: str
    databases: int


class Wire(Protocol):
    """What is used of redis-py's own connection, which is not annotated."""

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    def send_command(self, *words: Word) -> None: ...

    def send_packed_command(self, command: list[bytes]) -> None: ...

    def read_response(self) -> object: ...


_over_tcp = cast(Callable[..., Wire], redis.Connection)
_over_socket = cast(Callable[..., Wire], redis.UnixDomainSocketConnection)


class Link:
    """One connection, its answers raw: nothing is decoded, and an error is raised as redis-py names it."""

    def __init__(self, connection: Wire) -> None:
        self._connection = connection

    def ask(self, *words: Word) -> object:
        """Send one command and give its answer."""
        self._connection.send_command(*words)
        return self._connection.read_response()

    def ask_all(self, commands: Sequence[tuple[Word, ...]]) -> list[object]:
        """Send commands at once and give their answers in order; an error of one is given in its place."""
        connection = self._connection
        connection.send_packed_command([packed(commands)])
        answers: list[object] = []
        for _ in commands:
            try:
                answers.append(connection.read_response())
            except redis.ResponseError as error:
                answers.append(error)
        return answers

    def info(self, *sections: str) -> dict[str, str]:
        """Give the fields of INFO's sections."""
        lines = [line for one in sections for line in text(self.ask("INFO", one)).splitlines()]
        return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))

    def setting(self, name: str) -> str:
        """Give a setting of CONFIG; empty when this version has none of that name."""
        found = items(self.ask("CONFIG", "GET", name))
        return text(found[1]) if len(found) == 2 else ""

    def clock(self) -> datetime:
        """Give the server's own time, to the microsecond."""
        seconds, micros = items(self.ask("TIME"))
        return datetime.fromtimestamp(number(seconds), UTC) + timedelta(microseconds=number(micros))

    def keys(self) -> dict[int, int]:
        """Give how many keys each database holds that is not empty, expired ones still counted."""
        found = self.info("keyspace").items()
        return {int(name[2:]): int(value.split(",")[0].removeprefix("keys=")) for name, value in found}


@dataclass(frozen=True)
class RedisServer:
    """The server of one redis component of the plan, on a stack."""

    stack: Stack
    component: str
    spec: RedisComponent

    @classmethod
    def of(cls, plan: Plan, stack: Stack, component: str | None) -> RedisServer:
        """Give the named redis component's server, or the plan's only one."""
        name, spec = plan.redis(component)
        return cls(stack, name, spec)

    @contextmanager
    def connect(self, *, answer: timedelta = ANSWER) -> Iterator[Link]:
        """Give a connection.

        Raises redis.RedisError when there is no answer, PreconditionError when the password is turned away, or when
        the server asks for none although the plan has one.
        """
        host, port = self.stack.endpoint(self.spec.service, self.spec.port)
        password = resolve(self.spec.password).get_secret_value() if self.spec.password else None
        connection = _over_tcp(
            host=host,
            port=port,
            password=password,
            protocol=2,
            socket_connect_timeout=CONNECT.total_seconds(),
            socket_timeout=answer.total_seconds(),
        )
        try:
            try:
                connection.connect()
            except redis.RedisError as error:
                self._turned_away(error)
                raise
            yield Link(connection)
        finally:
            connection.disconnect()

    @contextmanager
    def asking(self, what: str, *, state: str) -> Iterator[Link]:
        """Give a connection, and turn whatever the server refuses in the block into a RecoveryError."""
        try:
            with self.connect() as link:
                yield link
        except redis.RedisError as error:
            raise RecoveryError(
                f"{self.component} did not answer ({what}): {first_line(error)}",
                state=state,
                next_step=f"read the log of {self.spec.service}; recoup recover redis --dry-run tells its condition",
            ) from None

    def _turned_away(self, error: redis.RedisError) -> None:
        said = str(error)
        if "without any password" in said or "no password is set" in said:
            raise PreconditionError(
                f"{self.component} asks for no password although the plan has one: it runs without its configuration",
                next_step=f"see how {self.spec.service} is started; everybody who reaches it can read and change it",
            ) from None
        if isinstance(error, redis.AuthenticationError) or "WRONGPASS" in said or "NOAUTH" in said:
            named = f"see that {self.spec.password} holds the password the server knows"
            raise PreconditionError(
                f"{self.component} turned the login away: {first_line(error)}",
                next_step=named if self.spec.password else "name its password in the plan (password: env:NAME)",
            ) from None


def packed(commands: Sequence[tuple[Word, ...]]) -> bytes:
    """Give commands as they are sent (RESP, arrays of bulk strings); redis-py's own packing takes ten times as long."""
    parts: list[bytes] = []
    for command in commands:
        parts.append(b"*%d\r\n" % len(command))
        for word in command:
            plain = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(plain), plain))
    return b"".join(parts)


def dial(path: str) -> Wire:
    """Give a connection to a server's socket, still to be connected."""
    return _over_socket(path=path, protocol=2, socket_timeout=ANSWER.total_seconds())


def answers(server: RedisServer) -> Diagnosis:
    """Say whether the server answers: down, loading, refusing, unable to save, or healthy; looks at no data."""
    state = server.stack.state(server.spec.service)
    if not state.running:
        return Diagnosis(condition=Condition.DOWN, seen=f"the service is {state.status}")
    try:
        with server.connect(answer=CONNECT) as link:
            link.ask("PING")
    except redis.BusyLoadingError as error:
        return Diagnosis(condition=Condition.LOADING, seen=first_line(error))
    except redis.RedisError as error:
        said = first_line(error)
        if said.startswith("MISCONF"):
            return Diagnosis(condition=Condition.UNSAVED, seen=said)
        if "NOAUTH" in said:
            server._turned_away(error)
        return Diagnosis(condition=Condition.REFUSING, seen=said)
    except RecoveryError as error:
        # It ended between being looked at and being asked.
        return Diagnosis(condition=Condition.DOWN, seen=error.what)
    return Diagnosis(condition=Condition.HEALTHY, seen="it answers")


def wait_until_it_answers(server: RedisServer) -> Diagnosis:
    """Poll until the server answers, has ended, or its time is up (an hour while it loads, else two minutes)."""
    began = time.monotonic()
    pause, ended = 0.05, 0
    while True:
        found = answers(server)
        patience = LOAD if found.condition is Condition.LOADING else RESTART
        if found.condition in (Condition.HEALTHY, Condition.UNSAVED):
            return found
        if time.monotonic() - began > patience.total_seconds():
            return found
        # A server that has exited does not come back by waiting; once may be the stack's own restart.
        ended = ended + 1 if found.condition is Condition.DOWN else 0
        if ended >= 5:
            return found
        note(f"{server.component}: {found}")
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)


def layout(link: Link) -> Layout:
    """Give where and how the server keeps its data; PreconditionError when it does not tell (CONFIG taken away)."""
    try:
        if link.setting("appendonly") == "yes":
            mode = Mode.PARTS if link.setting("appenddirname") else Mode.SINGLE
        else:
            mode = Mode.SNAPSHOT
        return Layout(
            mode=mode,
            directory=link.setting("dir"),
            dump=link.setting("dbfilename"),
            append=link.setting("appendfilename"),
            append_directory=link.setting("appenddirname"),
            fsync=link.setting("appendfsync"),
            databases=int(link.setting("databases")),
        )
    except redis.ResponseError as error:
        raise PreconditionError(
            f"Redis does not tell its configuration: {first_line(error)}",
            next_step="let the plan's user run CONFIG GET (rename-command, ACL)",
        ) from None


def version(info: dict[str, str]) -> tuple[int, ...]:
    """Give the version of Redis whose commands the server knows, from INFO."""
    return tuple(int(part) for part in re.findall(r"\d+", info["redis_version"])[:3])


def text(answer: object) -> str:
    return answer.decode("utf-8", "surrogateescape") if isinstance(answer, bytes) else str(answer)


def items(answer: object) -> list[object]:
    """Give an answer that is a list; raises the error that stands in its place."""
    if isinstance(answer, redis.ResponseError):
        raise answer
    if not isinstance(answer, list):
        raise redis.ResponseError(f"a list was expected, not {type(answer).__name__}")
    return answer


def number(answer: object) -> int:
    """Give an answer that is a whole number; raises the error that stands in its place."""
    if isinstance(answer, redis.ResponseError):
        raise answer
    return int(text(answer))


def blob(answer: object) -> bytes:
    if isinstance(answer, redis.ResponseError):
        raise answer
    if not isinstance(answer, bytes):
        raise redis.ResponseError(f"a string was expected, not {type(answer).__name__}")
    return answer
