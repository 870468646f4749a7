"""A running sandbox whose WAL is received, as the tests of continuous backup see it: from outside, with psql."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import uuid4

import pytest

from recoup.plan import ContinuousPolicy, Plan, WalPolicy, load_plan
from recoup.records import Check, Outcome
from recoup.stacks import proctable
from recoup.stacks.process import ProcessStack
from recoup.target import parse_target
from recoup.wal import parse_lsn, places
from tasks.postgres import Server, identity
from tasks.postgres_base import BaseTaken, take_base
from tasks.postgres_replay import restored_server
from tasks.sandbox import Sandbox, create, destroy
from tasks.wal_receiver import continuous_of, have_it_received, receiver_of
from tests.database_in_use import DatabaseInUse
from tests.stack_behaviour import SOON, eventually

RECEIVER = "wal-receiver"


@dataclass(frozen=True)
class Continuous(DatabaseInUse):
    """A sandbox with a receiver; its plan may point at a copy of what was received."""

    sandbox: Sandbox
    plan: Plan = field(repr=False)
    stack: ProcessStack = field(repr=False)

    @property
    def wal(self) -> Path:
        return continuous_of(self.server).wal

    @property
    def dirs(self) -> tuple[Path, ...]:
        with self.server.connect() as connection:
            return places(self.wal, identity(connection))

    def with_policy(self, **changes: object) -> Continuous:
        """Give the same with another policy of continuous backup."""
        name, spec = self.plan.postgres()
        assert spec.continuous is not None
        policy = ContinuousPolicy.model_validate({**spec.continuous.model_dump(), **changes})
        components = {**self.plan.components, name: spec.model_copy(update={"continuous": policy})}
        return replace(self, plan=self.plan.model_copy(update={"components": components}))

    def sql(self, statement: str, *, beside: Server | None = None) -> str:
        """Run SQL as the owner through a socket, past everything that is tested."""
        argv = ("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "neo", "-d", "neo_service_layer", "-c", statement)
        at = ("-h", str(beside.at), "-p", "5432") if beside else ()
        return self.stack.execute("postgres", (*argv, *at), timeout=SOON).text.strip()

    def base(self, *, incremental: bool = False) -> BaseTaken:
        return take_base(self.server, self.repository, incremental)

    def received(self) -> None:
        """Wait until all that is written is on the receiver's disk."""
        wanted = parse_lsn(self.sql("SELECT pg_current_wal_flush_lsn()"))

        def there() -> bool:
            found = receiver_of(self.server)
            return found.streaming and parse_lsn(found.flushed) >= wanted

        eventually("all WAL is received", there)

    def copy(self, *, linked: bool = False) -> Continuous:
        """Give the same server with a copy of what was received and backed up, to be damaged.

        ``linked``: its files are those of this one until a test makes them its own.
        """
        place = self.sandbox.directory / f"copy-{uuid4().hex[:8]}"
        place.mkdir()
        place.chmod(0o755)
        for source, target in ((self.wal, place / "wal"), (self.repository.root, place / "backups")):
            shutil.copytree(source, target, copy_function=os.link if linked else shutil.copy2)
            _give(source, target)
        other = self.with_policy(wal=place / "wal")
        platform = other.plan.platform.model_copy(update={"repository": place / "backups"})
        return replace(other, plan=other.plan.model_copy(update={"platform": platform}))

    @contextmanager
    def restored(self, set_id: str, to: str) -> Iterator[tuple[Server, dict[str, Check]]]:
        """Give a throwaway server restored to a moment, and what was seen of it."""
        target, scratch = parse_target(to), self.plan.platform.scratch
        with restored_server(self.server, self.repository, set_id, target, scratch) as (beside, checks):
            yield beside, {check.name: check for check in checks}

    def segments(self) -> list[Path]:
        """Give the segments that were received to their end, the oldest first, of all timelines."""
        return sorted(path for place in self.dirs for path in place.iterdir() if len(path.name) == 24)

    def partial(self) -> Path:
        (found,) = self.dirs[0].glob("*.partial")
        return found

    def receiving(self) -> list[proctable.Identity]:
        """Give the processes that receive."""
        home = self.sandbox.directory / "services" / RECEIVER
        return [who for who in proctable.dwelling(home) if b"pg_receivewal" in _argv(who.pid)]


@contextmanager
def continuous(policy: WalPolicy, state: Path) -> Iterator[Continuous]:
    """Give a new sandbox whose WAL is received."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECOUP_STATE", str(state))
        made = create("process", policy=policy)
    try:
        found = Continuous(made, load_plan(made.plan), ProcessStack.open(made.directory))
        have_it_received(found.server)
        yield found
    finally:
        destroy(made)


def flip(path: Path, at: int) -> None:
    """Turn one byte of a file into another."""
    with own(path).open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x55]))


def failed(checks: dict[str, Check]) -> list[str]:
    return [f"{check.name}: {check.seen}" for check in checks.values() if check.outcome is Outcome.FAILED]


def own(path: Path) -> Path:
    """Make a file of a linked copy one of its own, that can be damaged; gives it."""
    if path.is_file():
        new = path.with_name(f"{path.name}.new")
        shutil.copy2(path, new)
        _give(path, new)
        new.rename(path)
    return path


def _give(source: Path, target: Path) -> None:
    """Give the copies to whom the originals belong."""
    for path in (target, *target.rglob("*")) if os.geteuid() == 0 else ():
        original = source / path.relative_to(target)
        # The receiver may have ended a segment since, and begun the next under another name.
        stat = (original if original.exists() else original.parent).stat()
        os.chown(path, stat.st_uid, stat.st_gid)


def _argv(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return b""
