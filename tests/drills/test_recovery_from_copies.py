"""A host that lost its own backups too: what is restored comes from a copy elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.backup import run_backup
from flows.copies import run_copies
from flows.database import DatabaseRecovery, run_recovery
from recoup.places import ledger_path
from recoup.plan import DirectoryCopy, Plan
from recoup.records import Verdict
from tasks.postgres import Server
from tasks.postgres_fault import Fault, inject
from tests.drills.platform import Platform


def gone(repository: Path) -> None:
    shutil.rmtree(repository)


def spoilt(repository: Path) -> None:
    for toc in repository.glob("*-database/dump/toc.dat"):
        toc.write_bytes(b"not a table of contents")


@pytest.mark.parametrize("lose", [gone, spoilt])
def test_it_recovers_from_a_copy_when_no_set_here_is_good(
    platform: Platform, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    plan = with_copy(platform.plan, tmp_path)
    run_backup(plan, platform.stack, verify=False)
    assert run_copies(plan).complete
    lose(plan.platform.repository)
    inject(Server.of(plan, platform.stack, None), Fault.WIPE, platform.sandbox.id)

    record = run_recovery(plan, DatabaseRecovery(plan=platform.sandbox.plan), ledger=ledger_path(plan))

    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.backup is not None
    assert (tmp_path / str(record.backup.set_id) / "copy.json").is_file()


def with_copy(plan: Plan, path: Path) -> Plan:
    copies = (DirectoryCopy(name="disk", path=path),)
    return plan.model_copy(update={"platform": plan.platform.model_copy(update={"copies": copies})})
