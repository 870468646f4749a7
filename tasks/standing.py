"""Looks at every store's backup sets, here and in the copies, for the judgement whether a recovery could be carried."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from recoup.catalog import BackupSet, Repository, base_series, to_come
from recoup.errors import RecoupError, first_line
from recoup.manifest import BaseBackup
from recoup.plan import (
    BackupPolicy,
    Component,
    ComposeSite,
    ConfigurationComponent,
    Copy,
    DirectoryCopy,
    Plan,
    PostgresComponent,
    RedisComponent,
)
from recoup.readiness import PlaceSeen, StoreSeen
from recoup.records import now
from recoup.stacks import open_stack
from recoup.wal import parse_lsn, places, reach
from tasks.configuration import Configuration
from tasks.configuration_backup import unprotected_drift
from tasks.copies import CopyPlace
from tasks.heartbeat import CLOCKS_AGREE, witness_of
from tasks.postgres import Server
from tasks.postgres_standby_build import pair_of

HERE = "this machine's disk"
_UNPROTECTED = "in no backup set as it is"


def stores_seen(plan: Plan) -> tuple[StoreSeen, ...]:
    """Give what is seen of every store that can be backed up; a place that cannot be looked at says so in itself."""
    repository = Repository(plan.platform.repository)
    found = []
    for name, component in plan.components.items():
        if isinstance(component, PostgresComponent | RedisComponent | ConfigurationComponent):
            found.append(_store(plan, repository, name, component))
    return tuple(found)


def _store(
    plan: Plan,
    repository: Repository,
    name: str,
    component: PostgresComponent | RedisComponent | ConfigurationComponent,
) -> StoreSeen:
    series = list(_series(component))
    sets = sorted(
        (one for s in series for one in repository.sets(s) if _good(one) and not to_come(one)), key=_point, reverse=True
    )
    passed = [one for one in sets if one.verified is not None and one.verified.passed]
    usable = [one for one in sets if one.verified is None or not one.verified.failed]
    stack = plan.platform.stack
    home = stack.file.parent if isinstance(stack, ComposeSite) else stack.directory
    local = PlaceSeen(
        name=str(repository.root),
        kind=_disk(repository.root, home),
        offsite=False,
        point=_point(usable[0]) if usable else None,
    )
    policy: BackupPolicy | None = component.backup
    received, trouble = received_until(component, usable)
    standby, standby_ready = _standby(plan, name, component)
    return StoreSeen(
        name=component.store,
        rpo=plan.objectives.rpo.get(component.store, timedelta(0)),
        interval=policy.interval if policy else timedelta(hours=24),
        local=local,
        copies=tuple(_copied(spec, repository, series, usable, home) for spec in plan.platform.copies),
        continuous=received,
        wal_trouble=trouble,
        proven=_point(passed[0]) if passed else None,
        failed=bool(sets) and sets[0].verified is not None and bool(sets[0].verified.failed),
        unprotected=_unprotected(plan, name) if isinstance(component, ConfigurationComponent) else "",
        standby=standby,
        standby_ready=standby_ready,
    )


def received_until(
    component: PostgresComponent | RedisComponent | ConfigurationComponent, sets: Sequence[BackupSet]
) -> tuple[datetime | None, str]:
    """Give the last heartbeat that can be replayed onto a set that is there, or why received WAL does not count."""
    if not isinstance(component, PostgresComponent) or component.continuous is None:
        return None, ""
    wal = component.continuous.wal
    bases = (one.manifest.holds for one in sets if one.manifest)
    base = next((holds for holds in bases if isinstance(holds, BaseBackup)), None)
    if base is None:
        return None, "there is no base backup to replay it on"
    try:
        dirs = places(wal, base.system_identifier)
        found = reach(dirs, base)
        if found.wrong:
            return None, found.wrong
        witness = witness_of(wal)
        if component.continuous.heartbeat is None:
            return None, ""
        if witness is None or not witness.demanded(dirs, base):
            lacking = f"no heartbeat of this server, and of its present history, has been noted in {wal}"
            return None, f"{lacking}; run recoup serve, or recoup watch"
    except RecoupError as error:
        return None, first_line(error)
    if parse_lsn(witness.lsn) > found.whole + (base.segment_size if found.partial else 0):
        return None, f"it ends before the last heartbeat, {witness.lsn}"
    seen = witness.seen or witness.at
    if seen > now() + CLOCKS_AGREE:
        return None, f"the last heartbeat was noted at {seen}, which is still to come: a clock was set back"
    return seen, ""


def _standby(plan: Plan, name: str, component: Component) -> tuple[str, bool]:
    if not isinstance(component, PostgresComponent) or component.standby is None:
        return "", False
    try:
        found = pair_of(Server.of(plan, open_stack(plan), name))
    except RecoupError as error:
        return first_line(error), False
    return str(found), found.ready


def _copied(spec: Copy, repository: Repository, series: list[str], here: list[BackupSet], home: Path) -> PlaceSeen:
    copy = CopyPlace.open(spec, repository.root)
    kind = _disk(spec.path, home) if isinstance(spec, DirectoryCopy) else f"the bucket {spec.bucket}"
    try:
        copy.place.check()
        there = [one.note.recovery_point for s in series for one in copy.sets(s) if one.note and not one.broken]
    except RecoupError as error:
        return PlaceSeen(spec.name, kind, spec.offsite, trouble=first_line(error))
    newest = max(there, default=None)
    missing = [_point(one) for one in here if newest is None or _point(one) > newest]
    return PlaceSeen(spec.name, kind, spec.offsite, point=newest, lacks_since=min(missing, default=None))


def _series(component: PostgresComponent | RedisComponent | ConfigurationComponent) -> Iterator[str]:
    yield component.store
    if isinstance(component, PostgresComponent) and component.continuous:
        yield base_series(component.store)


def _good(one: BackupSet) -> bool:
    """Say whether the files are there in their sizes; their content is compared by ``recoup backup verify``."""
    if one.manifest is None or one.broken or not one.manifest.files:
        return False
    try:
        return all((one.path / entry.path).stat().st_size == entry.size for entry in one.manifest.files)
    except OSError:
        return False


def _point(one: BackupSet) -> datetime:
    assert one.manifest is not None
    return one.manifest.recovery_point


def _disk(path: Path, home: Path) -> str:
    """Name the disk a path is on: that of the platform, or another one."""
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    platform = next(parent for parent in (home.absolute(), *home.absolute().parents) if parent.exists())
    if there.stat().st_dev == platform.stat().st_dev:
        return HERE
    while not os.path.ismount(there):
        there = there.parent
    return f"the disk at {there}"


def _unprotected(plan: Plan, component: str) -> str:
    try:
        lines = unprotected_drift(Configuration.of(plan, component), Repository(plan.platform.repository))
    except RecoupError as error:
        return first_line(error)
    changed = [line for line in lines if line.endswith(_UNPROTECTED)]
    return f"{changed[0]}" + (f", and {len(changed) - 1} more" if len(changed) > 1 else "") if changed else ""
