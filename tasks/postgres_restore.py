"""Restoring a PostgreSQL database: into a new one beside the old, compared with its manifest, swapped by rename."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg import sql

from recoup.catalog import BackupSet, Repository, problems
from recoup.errors import PreconditionError, ProgramError, RecoupError, RecoveryError, first_line
from recoup.records import Check, Frozen, Outcome, SkippedSet
from tasks.copies import CopyPlace
from tasks.copies_fetch import here_or_fetched
from tasks.postgres import (
    RESTORED,
    Condition,
    Connection,
    Server,
    comment_of,
    database_names,
    quoted,
    wait_until_it_answers,
)
from tasks.postgres_load import RESTORE, restore_into
from tasks.step import note, step

_COMPLETE = b"-- PostgreSQL database dump complete"


class Chosen(Frozen):
    """The newest good backup set, and the newer ones that were skipped with the reason."""

    set_id: str
    recovery_point: datetime | None
    legacy: bool
    skipped: tuple[SkippedSet, ...] = ()
    tested: str = ""

    def __str__(self) -> str:
        skipped = (
            f"; skipped {len(self.skipped)}: " + "; ".join(f"{s.set_id} ({s.reason})" for s in self.skipped)
            if self.skipped
            else ""
        )
        return self.set_id + (f", {self.tested}" if self.tested else "") + skipped


class Made(Frozen):
    """A server that answers; ``aside`` says where the old data are, empty when they were not moved."""

    aside: str = ""

    def __str__(self) -> str:
        return f"a new server answers; the old data are at {self.aside}" if self.aside else "the server answers"


class Restored(Frozen):
    """A database that was restored beside the old one and compared with its manifest."""

    database: str
    checks: tuple[Check, ...]

    def __str__(self) -> str:
        return f"restored into {self.database}"


class Swapped(Frozen):
    """The restored database bears the name; the old one is kept under ``kept``."""

    kept: str

    def __str__(self) -> str:
        return f"the old database is kept as {self.kept}" if self.kept else "there was no old database"


@step(timeout=timedelta(hours=1))
def choose_backup(server: Server, repository: Repository, wanted: str, copies: tuple[CopyPlace, ...] = ()) -> Chosen:
    """Give the backup set to restore; see find_backup. Where none is good here, one is fetched from a copy."""
    return here_or_fetched(
        lambda one: find_backup(server, repository, one), copies, server.spec.store, repository, wanted
    )


def find_backup(server: Server, repository: Repository, wanted: str) -> Chosen:
    """Give the newest set that is whole (``latest``), or the named one; raises RecoveryError when there is none.

    A set is whole when every file has its sha256, for ``pg_restore --list`` read the dump before it was published; a
    dump of the written plan's script when its gzip ends well and the dump's own closing line stands in it. One that
    failed its last restore test is taken only by its name.
    """
    known = repository.sets(server.spec.store)
    candidates = known if wanted == "latest" else (repository.get(server.spec.store, wanted),)
    skipped: list[SkippedSet] = []
    for one in candidates:
        note(f"verifying {one.set_id}")
        wrong = _wrong(one) or (_failed_test(one) if wanted == "latest" else "")
        if not wrong:
            return Chosen(
                set_id=one.set_id,
                recovery_point=one.recovery_point,
                legacy=one.manifest is None,
                skipped=tuple(skipped),
                tested=_tested(one),
            )
        skipped.append(SkippedSet(set_id=one.set_id, reason=wrong))
    looked = "; ".join(f"{s.set_id}: {s.reason}" for s in skipped) or "there is no set at all"
    raise RecoveryError(
        f"no good backup set in {repository.root}: {looked}",
        state="no data was touched",
        next_step="bring a good set into the repository (a copy elsewhere?), then run the recovery again",
    )


@step(timeout=timedelta(minutes=15))
def make_new_server(server: Server, label: str) -> Made:
    """Move the data of a server that cannot start aside, whole, and let it begin with new ones."""
    server.stack.stop(server.spec.service)
    note("moving the old data aside")
    aside = server.stack.put_aside(server.spec.service, label=label)
    server.stack.start(server.spec.service)
    found = wait_until_it_answers(server)
    if found.condition is not Condition.HEALTHY:
        raise RecoveryError(
            f"the new server does not answer either: {found}; its log ends: {_last_words(server)}",
            state=f"the old data are at {aside}; the new data directory is empty or fresh",
            next_step="mend what the service's log names, run the recovery again",
        )
    return Made(aside=aside)


@step(timeout=RESTORE, retries=1)
def restore_beside(server: Server, repository: Repository, set_id: str, target: str) -> Restored:
    """Restore a set into a new database beside the old one and compare it with the manifest.

    A database of the same target name can only be an unfinished attempt of this run, and is made anew. Raises
    RecoveryError when the restore or the comparison fails; the old database is untouched and the half-made one removed.
    """
    one = repository.get(server.spec.store, set_id)
    try:
        checks = restore_into(server, one, target)
    except (ProgramError, psycopg.Error, OSError) as error:
        what = error.what if isinstance(error, ProgramError) else first_line(error)
        removed = _drop(server, target)
        raise RecoveryError(
            f"the restore of {set_id} failed: {what}{_newer(server, one)}",
            state="the old database is untouched; "
            + ("the half-made one was removed" if removed else f"{target} is half-made"),
            next_step="mend what is named (space on the database's disk? version?), then run the recovery again",
        ) from None
    failed = [check for check in checks if check.outcome is Outcome.FAILED]
    if failed:
        raise RecoveryError(
            f"what was restored from {set_id} is not what was backed up: "
            + "; ".join(f"{c.name}: {c.seen}" for c in failed[:3]),
            state=f"the old database is untouched; the restored one is kept as {target} to be looked at",
            next_step="run the recovery again with an older set: recoup recover database --backup SET",
        )
    with server.connect(server.spec.maintenance_database) as connection:
        # Goes with the database through its rename: only what bears it was compared, and may be swapped in.
        mark = sql.SQL("COMMENT ON DATABASE {} IS {}").format(quoted(target), sql.Literal(_mark(set_id, target)))
        connection.execute(mark)
    return Restored(database=target, checks=checks)


@step(timeout=timedelta(minutes=5), retries=2)
def swap_databases(server: Server, set_id: str, target: str, kept: str) -> Swapped:
    """Give the restored database its name and keep the old one under another, in one transaction; safe to repeat."""
    live = server.spec.database
    try:
        with server.connect(server.spec.maintenance_database) as connection:
            names, mark = database_names(connection), _mark(set_id, target)
            if target in names:
                if comment_of(connection, target) != mark:
                    raise _nothing_to_swap(live, target)
                had_old = live in names
                if had_old:
                    connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(quoted(live)))
                _end_sessions(connection, (live, target))
                with connection.transaction():
                    if had_old:
                        connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(quoted(live), quoted(kept)))
                    connection.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(quoted(target), quoted(live)))
            elif comment_of(connection, live) != mark:
                raise _nothing_to_swap(live, target)
            return Swapped(kept=kept if kept in database_names(connection) else "")
    except psycopg.Error as error:
        raise RecoveryError(
            f"the swap failed: {first_line(error)}",
            state=f"{live} may refuse connections; the restored database is kept as {target}",
            next_step="run the recovery again: it goes on here",
        ) from None


def _mark(set_id: str, target: str) -> str:
    return f"{RESTORED}{set_id} as {target}"


def _nothing_to_swap(live: str, target: str) -> RecoveryError:
    return RecoveryError(
        f"{target} is not there as it was restored and compared, so it cannot become {live}",
        state=f"{live} was left as it is",
        next_step="run the recovery again with --fresh",
    )


def _wrong(one: BackupSet) -> str:
    if one.broken:
        return one.broken
    if one.manifest is None:
        return _legacy_wrong(one.path)
    return problems(one)


def _failed_test(one: BackupSet) -> str:
    failed = one.verified.failed if one.verified else ()
    return f"its restore test failed: {'; '.join(f'{c.name}: {c.seen}' for c in failed[:3])}" if failed else ""


def _tested(one: BackupSet) -> str:
    if one.verified is None:
        return "not verified by a restore test yet"
    if failed := _failed_test(one):
        return f"although {failed}"
    at = f"{one.verified.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if one.verified.passed:
        return f"verified {at}"
    unproven = ", ".join(check.name for check in one.verified.checks if check.outcome is Outcome.UNPROVEN)
    return f"tested {at}, unproven: {unproven}"


def _newer(server: Server, one: BackupSet) -> str:
    """Say so when a set is of a newer major version than the server: that explains most of what pg_restore says."""
    if one.dump is None:
        return ""
    try:
        with server.connect(server.spec.maintenance_database) as connection:
            major = connection.info.server_version // 10000
    except (psycopg.Error, PreconditionError):
        return ""
    taken = one.dump.server_version // 10000
    return f" (the set is of PostgreSQL {taken}, the server of {major}: an older one)" if taken > major else ""


def _legacy_wrong(path: Path) -> str:
    last = b""
    try:
        with gzip.open(path) as file:
            while block := file.read(1 << 20):
                last = (last + block)[-4096:]
    except (OSError, EOFError) as error:
        return f"its gzip is damaged: {error}"
    return "" if _COMPLETE in last else "the dump's closing line is missing: pg_dump did not finish"


def _last_words(server: Server) -> str:
    try:
        return " / ".join(server.stack.logs(server.spec.service, tail=6).splitlines())
    except RecoupError as error:
        return f"(cannot be read: {error.what})"


def _end_sessions(connection: Connection, databases: tuple[str, ...]) -> None:
    connection.execute(
        "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity "
        "WHERE datname = ANY(%s) AND pid <> pg_backend_pid()",
        [list(databases)],
    )


def _drop(server: Server, target: str) -> bool:
    try:
        with server.connect(server.spec.maintenance_database) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(quoted(target)))
    except (psycopg.Error, PreconditionError):
        return False
    return True
