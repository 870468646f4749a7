"""The whole Redis drill on child processes: what its replica saves, and what is lost without one."""

from __future__ import annotations

import pytest

from flows.drill_redis import RedisDrill, drill_redis
from recoup.records import RecoveryRecord, StoreLoss, Verdict
from tasks.redis_fault import RedisFault


def lost(record: RecoveryRecord) -> StoreLoss:
    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.rto_met
    (store,) = record.stores
    assert store.met
    assert store.acknowledged_writes
    return store


def test_with_a_replica_a_wiped_redis_has_what_was_written_since_the_backup() -> None:
    record = drill_redis.fn(RedisDrill(fault=RedisFault.WIPE))
    # What had not been sent when it was killed is a handful; what came since the backup is twenty and more.
    store = lost(record)
    assert store.acknowledged_writes_lost is not None
    assert store.acknowledged_writes_lost < 10
    assert record.backup is not None
    assert record.backup.why.startswith("the freshest there is")


def test_without_one_it_has_what_the_backup_has() -> None:
    record = drill_redis.fn(RedisDrill(fault=RedisFault.WIPE, replica=False))
    store = lost(record)
    assert store.acknowledged_writes_lost is not None
    assert store.acknowledged_writes_lost >= 20


@pytest.mark.parametrize("replica", [True, False])
def test_a_killed_one_is_started_and_nothing_restored(replica: bool) -> None:
    record = drill_redis.fn(RedisDrill(fault=RedisFault.KILL, replica=replica))
    lost(record)
    assert record.backup is None
