"""Faults for drills: ways to break a PostgreSQL server for real. They act on a sandbox alone."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

import psycopg
from psycopg import sql

from recoup.errors import PreconditionError, RecoupError, RecoveryError
from recoup.records import now
from tasks.postgres import Server, wait_until_it_answers

TABLE = "public.records"
RELATION = "public.accounts"
SOON = timedelta(seconds=30)


class Fault(StrEnum):
    """How to break the database."""

    KILL = "kill"
    STOP = "stop"
    DROP_TABLE = "drop-table"
    CORRUPT = "corrupt"
    WIPE = "wipe"
    EXHAUST = "exhaust"
    CONTROL_FILE = "control-file"


MEANING = {
    Fault.KILL: "SIGKILL of the server",
    Fault.STOP: "an orderly stop",
    Fault.DROP_TABLE: f"DROP TABLE {TABLE} CASCADE",
    Fault.CORRUPT: f"bytes of the file of {RELATION} overwritten",
    Fault.WIPE: "the data directory emptied and the server killed",
    Fault.EXHAUST: "every connection taken",
    Fault.CONTROL_FILE: "pg_control overwritten and the server killed: it cannot start",
}


@dataclass
class Injected:
    """A fault that was injected at ``at``; ``held`` are connections that an exhaustion keeps open."""

    fault: Fault
    at: datetime
    held: ExitStack = field(default_factory=ExitStack)


def inject(server: Server, fault: Fault, sandbox: str) -> Injected:
    """Break the server of a sandbox and give the moment just before; PreconditionError on anything else."""
    if not sandbox or server.stack.sandbox != sandbox:
        raise PreconditionError(
            f"{server.stack.fingerprint} is not the sandbox {sandbox or '(none)'}: a fault is never injected there",
            next_step="run the drill on a sandbox: recoup drill database",
        )
    directory = _data_directory(server)
    begun = Injected(fault, now())
    service = server.spec.service
    match fault:
        case Fault.KILL:
            server.stack.kill(service)
        case Fault.STOP:
            server.stack.stop(service)
        case Fault.DROP_TABLE:
            with server.connect() as connection:
                connection.execute(sql.SQL("DROP TABLE {} CASCADE").format(sql.SQL(TABLE)))
        case Fault.CORRUPT:
            _corrupt(server, directory)
        case Fault.WIPE:
            # The living server may put a file into a directory that is just being emptied.
            script = 'for n in 1 2 3 4 5; do find "$1" -mindepth 1 -delete && break; done; true'
            with suppress(RecoupError):
                _shell(server, script, directory)
                script = ""
            server.stack.kill(service)
            if script:
                # Its data gone, the server ended by itself, and the shell in its container with it.
                server.stack.beside(service, ("sh", "-c", script, "fault", directory), timeout=SOON)
        case Fault.EXHAUST:
            _exhaust(server, begun.held)
        case Fault.CONTROL_FILE:
            _shell(server, 'dd if=/dev/urandom of="$1/global/pg_control" bs=8192 count=1 conv=notrunc', directory)
            server.stack.kill(service)
    return begun


def _corrupt(server: Server, directory: str) -> None:
    with server.connect() as connection:
        row = connection.execute("SELECT pg_relation_filepath(%s)", [RELATION]).fetchone()
        connection.execute("CHECKPOINT")
    assert row is not None
    for page in (0, 3):
        _shell(
            server,
            f'dd if=/dev/urandom of="$1/$2" bs=1 count=256 seek={page * 8192 + 4096} conv=notrunc',
            directory,
            str(row[0]),
        )
    # The overwritten pages are still whole in the server's memory; a restart makes it read them from the disk.
    server.stack.restart(server.spec.service)
    wait_until_it_answers(server)


def _exhaust(server: Server, held: ExitStack) -> None:
    for _ in range(2000):
        try:
            held.enter_context(server.connect())
        except psycopg.OperationalError:
            return
    raise RecoveryError("2000 connections were not enough to exhaust the server", state="they are being closed")


def _data_directory(server: Server) -> str:
    with server.connect() as connection:
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    return str(row[0])


def _shell(server: Server, script: str, *arguments: str) -> None:
    server.stack.execute(server.spec.service, ("sh", "-c", script, "fault", *arguments), timeout=SOON)
