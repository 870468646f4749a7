"""A host that lost its data, its backups and its received WAL: what was shipped elsewhere brings the writes back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.continuous import run_base_backup
from flows.copies import run_copies
from flows.database import DatabaseRecovery, run_recovery
from recoup.catalog import Repository
from recoup.places import ledger_path
from recoup.plan import DirectoryCopy, Plan, load_plan
from recoup.records import Verdict
from recoup.sealing import new_key_pair
from recoup.stacks import open_stack
from tasks.copies import CopyPlace
from tasks.heartbeat import watching, witness_of
from tasks.postgres import Server
from tasks.postgres_fault import Fault, inject
from tasks.sandbox import Sandbox, create, destroy
from tasks.wal_shipping import Shipper, shipping
from tests.object_store import new_bucket, spec_of


@pytest.fixture(scope="module")
def sandbox(state: Path) -> Iterator[Sandbox]:
    made = create("process", policy="async")
    yield made
    destroy(made)


@pytest.mark.parametrize("kind", ["directory", pytest.param("s3", marks=pytest.mark.s3)])
def test_what_was_written_last_comes_back_from_the_copy_alone(sandbox: Sandbox, tmp_path: Path, kind: str) -> None:
    plan = with_sealed_copy(load_plan(sandbox.plan), tmp_path, bucket=new_bucket() if kind == "s3" else "")
    stack = open_stack(plan)
    server = Server.of(plan, stack, None)
    assert server.spec.continuous is not None
    wal, repository = server.spec.continuous.wal, plan.platform.repository
    copies = tuple(CopyPlace.open(spec, repository) for spec in plan.platform.copies)
    taken = run_base_backup(plan, stack)
    verified = Repository(repository).get("database-base", taken.set_id).verified
    assert verified is not None
    assert verified.passed, verified.checks
    assert run_copies(plan).complete
    said: list[str] = []
    with watching(server, said.append), shipping(wal, copies, said.append):
        with server.connect() as connection:
            connection.execute("DROP TABLE IF EXISTS public.last_words")
            connection.execute("CREATE TABLE public.last_words AS SELECT n FROM generate_series(1, 50000) n")
            connection.execute("SELECT pg_switch_wal()")
            connection.execute("INSERT INTO public.last_words VALUES (0)")
        wait_until_it_is_elsewhere(wal, copies[0])
    inject(server, Fault.WIPE, sandbox.id)
    shutil.rmtree(repository)
    for place in wal.iterdir():
        shutil.rmtree(place) if place.is_dir() else place.unlink()

    record = run_recovery(plan, DatabaseRecovery(plan=sandbox.plan), ledger=ledger_path(plan))

    assert record.verdict is Verdict.RECOVERED, record.why
    assert record.backup is not None
    assert record.backup.why.startswith("continuous")
    with server.connect() as connection:
        row = connection.execute("SELECT count(*), min(n) FROM public.last_words").fetchone()
    assert row == (50001, 0)


def test_nothing_of_it_lies_in_the_copy_in_clear(sandbox: Sandbox, tmp_path: Path) -> None:
    plan = with_sealed_copy(load_plan(sandbox.plan), tmp_path)
    server = Server.of(plan, open_stack(plan), None)
    assert server.spec.continuous is not None
    with server.connect() as connection:
        connection.execute("CREATE TABLE public.secrets AS SELECT 'hush-hush-hush' AS word")
    copy = CopyPlace.open(plan.platform.copies[0], plan.platform.repository)
    assert Shipper(server.spec.continuous.wal, copy).ship() > 0
    stored = [path.read_bytes() for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert stored
    assert not any(b"hush-hush" in one or one.startswith(b"\x1f\x8b") for one in stored)


def test_what_is_there_is_not_sent_again(sandbox: Sandbox, tmp_path: Path) -> None:
    plan = with_sealed_copy(load_plan(sandbox.plan), tmp_path)
    server = Server.of(plan, open_stack(plan), None)
    assert server.spec.continuous is not None
    copy = CopyPlace.open(plan.platform.copies[0], plan.platform.repository)
    Shipper(server.spec.continuous.wal, copy).ship()
    before = {key for key in copy.place.listing("wal/") if "partial@" not in key}
    Shipper(server.spec.continuous.wal, copy).ship()
    assert {key for key in copy.place.listing("wal/") if "partial@" not in key} >= before
    names = [key.partition("@")[0] for key in copy.place.listing("wal/")]
    assert len(names) == len(set(names)), "older versions of what grows are removed"


def with_sealed_copy(plan: Plan, path: Path, bucket: str = "") -> Plan:
    pair = new_key_pair()
    (path / "copy").mkdir()
    (path / "identity").write_text(pair.identity.get_secret_value())
    sealed = {"recipients": (pair.recipient,), "identity": f"file:{path / 'identity'}"}
    copy = spec_of(bucket, **sealed) if bucket else DirectoryCopy(name="disk", path=path / "copy", **sealed)
    return plan.model_copy(update={"platform": plan.platform.model_copy(update={"copies": (copy,)})})


def wait_until_it_is_elsewhere(wal: Path, copy: CopyPlace) -> None:
    """Wait until a heartbeat that was written from now on, and so all before it, lies in the copy."""
    begun = witness_of(wal)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(0.2)
        try:
            there = copy.place.get_text("wal/witness.json")
        except FileNotFoundError:
            continue
        now = witness_of(wal)
        if now and (begun is None or now.at > begun.at) and str(begun and begun.at) not in there:
            return
    raise AssertionError("the WAL was not shipped")
