"""Proving a logical backup set: restored into a throwaway server, compared, its indexes checked against its rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from recoup.catalog import BackupSet, Repository, problems
from recoup.errors import PreconditionError, ProgramError, RecoveryError, first_line
from recoup.manifest import Verification
from recoup.records import Check, Frozen, Outcome, Subject, now
from tasks.postgres import BESIDE, Server
from tasks.postgres_beside import empty_server
from tasks.postgres_load import RESTORE, RESTORE_OPTIONS, name_beside, restore_into
from tasks.step import note, step

# How old the newest heartbeat in a set may be: several times what lies between two of them.
HEARTBEAT = timedelta(minutes=1)
RESTORES = "the set restores into an empty server"
_AMCHECK = "indexes agree with their tables (amcheck)"
# Said by programs and by the server alike (strerror of ENOSPC and EDQUOT): the machine's fault, and not the set's.
_NO_ROOM = ("No space left on device", "Disk quota exceeded")


class Verified(Frozen):
    """What the restore test of a set found."""

    set_id: str
    recovery_point: datetime | None
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.outcome is Outcome.FAILED)

    @property
    def unproven(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.outcome is Outcome.UNPROVEN)

    def __str__(self) -> str:
        said = "; ".join(f"{check.outcome}: {check.name}: {check.seen}" for check in (*self.failed, *self.unproven))
        passed = sum(check.outcome is Outcome.PASSED for check in self.checks)
        return f"restored for a test: {passed} of {len(self.checks)} checks passed" + (f"; {said}" if said else "")


@dataclass(frozen=True)
class Copy:
    """A set restored into a throwaway server, and what was found of it."""

    server: Server
    database: str
    checks: tuple[Check, ...]

    @property
    def command(self) -> tuple[str, ...]:
        """The argv that connects to it from this machine, with no password."""
        at, spec = self.server.at, self.server.spec
        return ("psql", "-h", str(at), "-p", str(BESIDE), "-U", spec.user, "-d", self.database)


@step(timeout=RESTORE, retries=0)
def verify_database_backup(server: Server, repository: Repository, set_id: str, scratch: Path) -> Verified:
    """Restore a set into a throwaway server, look at it, and write what was found beside its manifest; gives that too.

    A set that fails is written down as failed, and nothing is raised. Raises RecoveryError when it could not be tested
    at all (no room in ``scratch``, the server there died): what is written of it stays as it was.
    """
    one = repository.get(server.spec.store, set_id)
    checks: tuple[Check, ...] = (_files(one),)
    if checks[0].outcome is not Outcome.FAILED:
        with restored_copy(server, one, scratch) as copy:
            checks = (*checks, *copy.checks)
    if one.manifest:
        repository.note_verified(one, Verification(at=now(), checks=checks))
    return Verified(set_id=set_id, recovery_point=one.recovery_point, checks=checks)


@contextmanager
def restored_copy(server: Server, one: BackupSet, scratch: Path) -> Iterator[Copy]:
    """Give a set restored into a throwaway server, with the checks that were made of it; gone after the block.

    What the set is to blame for is a failed check; raises RecoveryError for what the machine is to blame for, and
    PreconditionError when the set holds no dump.
    """
    if one.manifest and one.dump is None:
        raise PreconditionError(
            f"{one.set_id} holds no logical copy of a database but a {one.manifest.holds.kind}",
            next_step="name a set that recoup backup list shows with its rows",
        )
    database = name_beside(server, one)
    with empty_server(server, scratch) as beside:
        yield Copy(beside, database, _look(beside, one, database))


def _files(one: BackupSet) -> Check:
    note(f"reading the files of {one.set_id}")
    wrong = problems(one)
    count = len(one.manifest.files) if one.manifest else 0
    if one.manifest is None and not wrong:
        outcome, seen = Outcome.UNPROVEN, "a plain dump has no manifest"
    else:
        outcome, seen = Outcome.FAILED if wrong else Outcome.PASSED, wrong or f"{count} files"
    return Check(
        name="files match their sha256", subject=Subject.STATUS, outcome=outcome, expected=f"{count} files", seen=seen
    )


def _look(beside: Server, one: BackupSet, database: str) -> tuple[Check, ...]:
    name, expected = RESTORES, "no error"
    try:
        checks = restore_into(beside, one, database)
        checks = (*checks, *_heartbeat(beside, one, database), check_indexes(beside, one, database))
    except (ProgramError, psycopg.Error, OSError) as error:
        what = error.what if isinstance(error, ProgramError) else first_line(error)
        _blame_the_machine(beside, one, what, error)
        return (Check(name=name, subject=Subject.DATA, outcome=Outcome.FAILED, expected=expected, seen=what),)
    restored = Check(name=name, subject=Subject.DATA, outcome=Outcome.PASSED, expected=expected, seen="restored")
    return (restored, *checks)


def _blame_the_machine(beside: Server, one: BackupSet, what: str, error: Exception) -> None:
    """Raise RecoveryError when a restore failed for want of room or time, or because the server under it is gone."""
    try:
        with beside.connect(beside.spec.maintenance_database):
            alive = True
    except psycopg.Error:
        alive = False
    # A program that was ended or is not there has no code of its own; 126 and 127 are a shell's and Docker's word.
    never_ran = isinstance(error, ProgramError) and error.returncode in (None, 125, 126, 127)
    if alive and not never_ran and not any(said in what for said in _NO_ROOM):
        return
    raise RecoveryError(
        f"{one.set_id} could not be tested: {what}",
        state="the set is as it was, and so is what an earlier test found of it",
        next_step="see to the space in the plan's platform.scratch and to what is named, then: recoup backup verify",
    )


def _heartbeat(beside: Server, one: BackupSet, database: str) -> tuple[Check, ...]:
    """Compare the newest heartbeat that was restored with the moment the set claims; none where there is no table."""
    with beside.connect(database) as connection:
        there = connection.execute("SELECT to_regclass('recoup.heartbeat') IS NOT NULL").fetchone()
        if one.recovery_point is None or there is None or not there[0]:
            return ()
        row = connection.execute("SELECT max(at) FROM recoup.heartbeat").fetchone()
    claimed = one.recovery_point
    at = row[0] if row else None
    near = isinstance(at, datetime) and abs(claimed - at) <= HEARTBEAT
    seen = f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if isinstance(at, datetime) else "the table is empty"
    return (
        Check(
            name="the newest heartbeat is of the set's own time",
            subject=Subject.DATA,
            # Whoever writes it may have been down, and that makes no bad set of a good one.
            outcome=Outcome.PASSED if near else Outcome.UNPROVEN,
            expected=f"within {HEARTBEAT.seconds} s of {claimed.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
            seen=seen,
        ),
    )


def check_indexes(beside: Server, one: BackupSet, database: str) -> Check:
    """Look for every row in every index and at every page of a restored database."""
    with beside.connect(database) as connection:
        there = connection.execute("SELECT FROM pg_available_extensions WHERE name = 'amcheck'").fetchone()
    if there is None:
        return _amcheck(Outcome.UNPROVEN, "the server's image has no extension amcheck")
    note("checking every index against its table (amcheck)")
    try:
        done = beside.tool(amcheck_command(beside, database), timeout=RESTORE, options=RESTORE_OPTIONS, check=False)
    except ProgramError as error:
        return _amcheck(Outcome.UNPROVEN, error.what)
    if done.returncode == 0:
        return _amcheck(Outcome.PASSED, "every index and every page")
    # Two: damage was found. One: it could not look.
    said = " ".join((done.text if done.returncode == 2 else done.stderr).split())
    if done.returncode == 2:
        return _amcheck(Outcome.FAILED, said[:500])
    if done.returncode in (126, 127):
        return _amcheck(Outcome.UNPROVEN, "the server's image has no pg_amcheck")
    _blame_the_machine(beside, one, said, RecoveryError(said))
    return _amcheck(Outcome.UNPROVEN, f"pg_amcheck could not look: {said[:500]}")


def amcheck_command(server: Server, database: str) -> tuple[str, ...]:
    """Give the argv that checks every table and index of a database, each row being looked for in each index."""
    # It takes a pattern; in quotes that is the name itself.
    name = database.replace('"', '""')
    return (
        "pg_amcheck",
        "--heapallindexed",
        "--install-missing",
        f"--jobs={server.spec.backup.jobs}",
        "--no-password",
        f'--database="{name}"',
    )


def _amcheck(outcome: Outcome, seen: str) -> Check:
    return Check(name=_AMCHECK, subject=Subject.DATA, outcome=outcome, expected="no damage", seen=seen)
