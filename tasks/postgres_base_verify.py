"""The restore test of a base backup: replayed to the end of the WAL in a throwaway server, every index looked at."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from recoup.catalog import Repository, problems
from recoup.manifest import Verification
from recoup.records import Check, Outcome, Subject, now
from recoup.target import Target
from tasks.postgres import Server
from tasks.postgres_base import chain, series
from tasks.postgres_replay import WITNESSED, restored_server
from tasks.postgres_verify import Verified, check_indexes
from tasks.step import step


@step(timeout=timedelta(hours=12))
def verify_base_backup(server: Server, repository: Repository, set_id: str, scratch: Path) -> Verified:
    """Replay a base backup in a throwaway server, look at it, write what was found beside its manifest; gives that too.

    Raises RecoveryError when it could not be replayed at all: what is written of the set stays as it was, for the
    machine may be to blame.
    """
    one = repository.get(series(server), set_id)
    wrong = next((found for part in chain(repository, one) if (found := problems(part))), "")
    checks: tuple[Check, ...] = (
        Check(
            name="files match their sha256",
            subject=Subject.STATUS,
            outcome=Outcome.FAILED if wrong else Outcome.PASSED,
            expected="each file as the manifest says",
            seen=wrong or "all",
        ),
    )
    if not wrong:
        with restored_server(server, repository, set_id, Target(), scratch) as (beside, replayed):
            checks = (*checks, *replayed, check_indexes(beside, one, server.spec.database))
        # Whether anybody keeps watch is no property of the set.
        checks = tuple(c for c in checks if c.outcome is not Outcome.UNPROVEN or c.name != WITNESSED)
    repository.note_verified(one, Verification(at=now(), checks=checks))
    return Verified(set_id=set_id, recovery_point=one.recovery_point, checks=checks)
