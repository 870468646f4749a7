"""A PostgreSQL server on a stack: how it is reached, and what state it is in.

SQLSTATE codes: PostgreSQL manual, appendix A.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import psycopg
from psycopg import sql

from recoup.errors import PreconditionError, RecoveryError
from recoup.plan import Plan, PostgresComponent
from recoup.process import Completed
from recoup.records import Frozen
from recoup.secrets import mask, resolve
from recoup.stacks import Stack
from tasks.step import note

CONNECT = timedelta(seconds=3)
STATEMENT = timedelta(seconds=30)
Connection = psycopg.Connection[tuple[object, ...]]
# In a data directory that a recovery makes, until the service is started on it; see infra/postgres/beside.sh.
MAKING = ".recoup-making"
SCRIPTS = Path(__file__).resolve().parent.parent / "infra" / "postgres"
# The port of a server that runs beside: a part of its socket's name, no more.
BESIDE = 5432
# How the comment of a database begins that a recovery restored and compared.
RESTORED = "recoup: "


class Condition(StrEnum):
    """What a database server was found to be."""

    HEALTHY = "healthy"
    DOWN = "down"
    STARTING = "starting"
    REFUSING = "refusing connections"
    EXHAUSTED = "pool exhausted"
    DAMAGED = "up but damaged"
    FOLLOWING = "a standby that takes no writes"


class Diagnosis(Frozen):
    """The condition of a server, with what was seen; ``missing`` names relations the last backup has and it has not.

    ``replaced``: it has data, but not those that were backed up; ``emptied``: it has none, and must not be started;
    ``fenced``: its standby was to take its place, and it must not be started either.
    """

    condition: Condition
    seen: str
    missing: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    replaced: bool = False
    emptied: bool = False
    fenced: bool = False

    @property
    def startable(self) -> bool:
        return not (self.emptied or self.fenced)

    def __str__(self) -> str:
        return f"{self.condition}: {self.seen}"


class Role(StrEnum):
    """What one of a pair of servers is. The last four are read from the data directory of one that does not answer."""

    PRIMARY = "takes writes"
    STANDBY = "follows"
    STOPPED = "down, and takes writes when it is started"
    FENCED = "fenced"
    EMPTY = "down, without data"
    UNKNOWN = "cannot be looked at"


@dataclass(frozen=True)
class Server:
    """The server of one postgres component of the plan, on a stack.

    ``at`` is set for a server that runs beside it: the directory of the socket by which alone that one is reached.
    """

    stack: Stack
    component: str
    spec: PostgresComponent
    at: Path | None = None

    @classmethod
    def of(cls, plan: Plan, stack: Stack, component: str | None) -> Server:
        """Give the named postgres component's server, or the plan's only one; of a pair the one in charge."""
        name, spec = plan.postgres(component)
        return cls(stack, name, spec).in_charge()

    @property
    def service(self) -> str:
        return self.spec.service

    def other(self) -> Server:
        """Give the other one of the pair, as if it were in charge; PreconditionError where the plan has no standby."""
        spec, standby = self.spec, self.spec.standby
        if standby is None:
            raise PreconditionError(
                f"the plan has no standby for {self.component}", next_step="add components.*.standby to the plan"
            )
        mine = {"service": spec.service, "container": spec.container, "port": spec.port}
        theirs = {"service": standby.service, "container": standby.container, "port": standby.port}
        return replace(self, spec=spec.model_copy(update={**theirs, "standby": standby.model_copy(update=mine)}))

    def named(self, service: str) -> Server:
        """Give the one of the pair that is this service of the stack."""
        return self if service == self.service else self.other()

    def in_charge(self) -> Server:
        """Give the one of the pair that takes writes, or did last; itself where the plan has no standby.

        Raises PreconditionError when both would: nobody but a person can tell which of them is to be kept.
        """
        if self.spec.standby is None:
            return self
        pair = (self, self.other())
        roles = [role_of(one) for one in pair]
        # What takes writes now counts before what would take them if it were started.
        for wanted in (Role.PRIMARY, Role.STOPPED, Role.FENCED):
            if found := [one for one, role in zip(pair, roles, strict=True) if role is wanted]:
                break
        else:
            found = [one for one, role in zip(pair, roles, strict=True) if role is not Role.STANDBY]
        if len(found) > 1 and roles[0] in (Role.PRIMARY, Role.STOPPED):
            doing = "take writes" if roles[0] is Role.PRIMARY else "would take writes if they were started"
            raise PreconditionError(
                f"{pair[0].service} and {pair[1].service} both {doing}: there are two histories of the database",
                next_step=f"look at both, then give one up: recoup standby build --give-up {pair[1].service}",
            )
        return found[0] if found else self

    @contextmanager
    def connect(self, database: str | None = None, *, statement: timedelta = STATEMENT) -> Iterator[Connection]:
        """Give a connection in autocommit mode, its text output independent of the server's settings.

        Raises psycopg.OperationalError when there is no answer, PreconditionError when the password is turned away.
        """
        host, port = (str(self.at), BESIDE) if self.at else self.stack.endpoint(self.spec.service, self.spec.port)
        password = resolve(self.spec.password)
        try:
            connection = psycopg.connect(
                host=host,
                port=port,
                user=self.spec.user,
                password=password.get_secret_value(),
                dbname=database or self.spec.database,
                connect_timeout=int(CONNECT.total_seconds()),
                application_name="recoup",
                autocommit=True,
                options=f"-c statement_timeout={int(statement.total_seconds() * 1000)} -c TimeZone=UTC "
                "-c DateStyle=ISO "
                "-c IntervalStyle=postgres -c extra_float_digits=1 -c bytea_output=hex -c search_path=pg_catalog "
                # What a server or role sets against forgotten sessions must not cut a snapshot that is held for hours.
                "-c idle_in_transaction_session_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off",
            )
        except psycopg.OperationalError as error:
            # The protocol gives no SQLSTATE to psycopg while connecting, only the server's words.
            if "password authentication failed" in str(error) or "no pg_hba.conf entry" in str(error):
                raise PreconditionError(
                    f"{self.component} turned the login of user {self.spec.user} away: "
                    + mask(str(error).strip().splitlines()[-1], (password,)),
                    next_step=f"see that {self.spec.password} holds the password the server knows",
                ) from None
            raise
        with connection:
            if connection.info.server_version >= 170000:
                connection.execute("SET transaction_timeout = 0")
            yield connection

    def tool(
        self,
        argv: tuple[str, ...],
        *,
        timeout: timedelta,
        mounts: Iterable[Path] = (),
        options: str = "",
        stdin: BinaryIO | None = None,
        stdout: BinaryIO | None = None,
        check: bool = True,
        socket: str = "",
    ) -> Completed:
        """Run one of PostgreSQL's own programs, of the server's own version, beside the server.

        ``socket`` is a directory of the server's socket to be tried first: replication is trusted there.
        """
        host, port = (str(self.at), BESIDE) if self.at else self.stack.inside(self.spec.service, self.spec.port)
        env = {
            "PGHOST": f"{socket},{host}" if socket else host,
            "PGPORT": str(port),
            "PGUSER": self.spec.user,
            "PGCONNECT_TIMEOUT": "10",
            "PGAPPNAME": "recoup",
        }
        return self.stack.beside(
            self.spec.service,
            argv,
            timeout=timeout,
            mounts=(*mounts, self.at) if self.at else mounts,
            env={**env, "PGOPTIONS": options} if options else env,
            secrets={"PGPASSWORD": resolve(self.spec.password)},
            stdin=stdin,
            stdout=stdout,
            check=check,
        )


def role_of(server: Server) -> Role:
    """Say what a server is, by its own word or else by what lies in its data directory; starts and changes nothing."""
    if server.stack.state(server.service).running and (live := live_role(server)):
        return live
    try:
        said = pair_script(server, "role").text
    except RecoveryError:
        return Role.UNKNOWN
    return {"standby": Role.STANDBY, "primary": Role.STOPPED, "fenced": Role.FENCED}.get(said, Role.EMPTY)


def live_role(server: Server) -> Role | None:
    """Say what a server that answers is, by its own word; None when it does not."""
    try:
        with server.connect(server.spec.maintenance_database) as connection:
            return Role.STANDBY if follows(connection) else Role.PRIMARY
    except (psycopg.Error, RecoveryError):
        return None


def follows(connection: Connection) -> bool:
    """Say whether the server is in recovery: it follows another one, or replays, and takes no writes."""
    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    return bool(row and row[0])


def pair_script(
    server: Server, *argv: str, env: Mapping[str, str] = {}, timeout: timedelta = timedelta(minutes=2)
) -> Completed:
    """Run infra/postgres/standby.sh beside one of a pair, which may be down, in its own data directory."""
    script = ("sh", str(SCRIPTS / "standby.sh"), *argv)
    own = {"PGUSER": server.spec.user, "PGAPPNAME": "recoup", **env}
    return server.stack.beside(server.service, script, timeout=timeout, mounts=(SCRIPTS,), env=own)


def answers(server: Server) -> Diagnosis:
    """Say whether the server takes a connection and answers a query: down, starting, refusing, exhausted or healthy."""
    state = server.stack.state(server.spec.service)
    if not state.running:
        return Diagnosis(condition=Condition.DOWN, seen=f"the service is {state.status}")
    try:
        with server.connect(server.spec.maintenance_database) as connection:
            if follows(connection):
                return Diagnosis(condition=Condition.FOLLOWING, seen="it is in recovery")
    except psycopg.Error as error:
        return refusal(error)
    try:
        with server.connect() as connection:
            connection.execute("SELECT 1")
    except psycopg.Error as error:
        said = str(error)
        if "too many" in said or "starting up" in said or "shutting down" in said:
            return refusal(error)
        return Diagnosis(condition=Condition.DAMAGED, seen=_last_line(error))
    return Diagnosis(condition=Condition.HEALTHY, seen="it answers a query")


def wait_until_it_answers(server: Server) -> Diagnosis:
    """Poll until the server answers, has ended, or its restart time-out is up; gives the last thing seen."""
    deadline = time.monotonic() + server.spec.restart_timeout.total_seconds()
    pause = 0.1
    ended = 0
    while True:
        found = answers(server)
        if found.condition in (Condition.HEALTHY, Condition.DAMAGED) or time.monotonic() > deadline:
            return found
        # A server that has exited does not come back by waiting; once may be the stack's own restart.
        ended = ended + 1 if found.condition is Condition.DOWN else 0
        if ended >= 5:
            return found
        note(f"{server.component}: {found}")
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)


def identity(connection: Connection) -> str:
    """Give the server's system identifier, made anew by every initdb."""
    row = connection.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
    assert row is not None
    return str(row[0])


def crash_safe(server: Server) -> tuple[bool, str]:
    """Say whether a crash of the server can lose an acknowledged commit, by its settings (manual, section 28.1)."""
    with server.connect() as connection:
        rows = connection.execute(
            "SELECT name, setting FROM pg_settings "
            "WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') ORDER BY 1"
        ).fetchall()
    off = [f"{name}={setting}" for name, setting in rows if setting == "off"]
    return not off, (
        "the WAL was replayed; fsync, full_page_writes and synchronous_commit are on" if not off else ", ".join(off)
    )


def database_names(connection: Connection) -> frozenset[str]:
    return frozenset(str(row[0]) for row in connection.execute("SELECT datname FROM pg_database").fetchall())


def server_now(connection: Connection) -> datetime:
    """Give the server's clock as aware UTC."""
    row = connection.execute("SELECT now()").fetchone()
    assert row is not None and isinstance(row[0], datetime)
    return row[0].astimezone(UTC)


def comment_of(connection: Connection, database: str) -> str:
    """Give the comment of a database; empty when it has none or is not there."""
    row = connection.execute(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [database]
    ).fetchone()
    return str(row[0] or "") if row else ""


def quoted(name: str) -> sql.Identifier:
    return sql.Identifier(name)


def refusal(error: psycopg.Error) -> Diagnosis:
    said = str(error)
    if "too many clients" in said or "too many connections" in said or "remaining connection slots" in said:
        return Diagnosis(condition=Condition.EXHAUSTED, seen=_last_line(error))
    if "starting up" in said or "not yet accepting" in said or "recovery" in said:
        return Diagnosis(condition=Condition.STARTING, seen=_last_line(error))
    return Diagnosis(condition=Condition.REFUSING, seen=_last_line(error))


def _last_line(error: psycopg.Error) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("FATAL:").strip() if lines else type(error).__name__
