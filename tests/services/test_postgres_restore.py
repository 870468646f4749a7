"""A restore into a new database: everything comes back, what does not is found, and the old one stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from recoup.catalog import MANIFEST, BackupSet
from recoup.errors import RecoveryError
from recoup.manifest import DatabaseDump, Manifest
from recoup.records import Outcome
from tasks.postgres_backup import Taken, take_database_backup
from tasks.postgres_compare import compare
from tasks.postgres_restore import Restored, find_backup, restore_beside
from tasks.sandbox import Sandbox
from tests.postgres_scratch import Scratch, scratch
from tests.services.odd_database import DATABASE, SAME, SCHEMA

TABLES = ['"Odd Place"."Da ""Table"', '"Odd Place".empty', '"Odd Place".without_columns', "parts", "loose", "documents"]


@dataclass(frozen=True)
class Copied:
    source: Scratch
    taken: Taken
    restored: Restored

    @property
    def one(self) -> BackupSet:
        return self.source.repository.get("database", self.taken.set_id)


@pytest.fixture(scope="module")
def copied(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copied]:
    with scratch(sandbox, tmp_path_factory.mktemp("backups"), SCHEMA) as source:
        source.sql(DATABASE.format(source.name))
        taken = take_database_backup.fn(source.server, source.repository)
        restored = restore_beside.fn(source.server, source.repository, taken.set_id, f"{source.name}_copy")
        yield Copied(source, taken, restored)
    source.sql("DROP ROLE scratch_reader", "postgres")


@pytest.mark.parametrize("what", SAME)
def test_it_comes_back_as_it_was(what: str, copied: Copied) -> None:
    asked = "SET search_path TO public; " + SAME[what]
    before, after = (sorted(copied.source.sql(asked, name).splitlines()) for name in ("", copied.restored.database))
    assert before
    assert after == before


@pytest.mark.parametrize("table", TABLES)
def test_every_row_comes_back(table: str, copied: Copied) -> None:
    name = table if "." in table else f"public.{table}"
    assert copied.source.content(name, copied.restored.database) == copied.source.content(name)


def test_the_copy_works_and_was_found_the_same(copied: Copied) -> None:
    assert {check.outcome for check in copied.restored.checks} == {Outcome.PASSED}
    write = "SET default_transaction_read_only TO off; "
    said = copied.source.sql(
        write + "INSERT INTO public.documents (body) VALUES ('{}') RETURNING id; SELECT what FROM public.log "
        "ORDER BY at DESC LIMIT 1; SELECT nextval('public.lonely')",
        copied.restored.database,
    )
    assert said.split() == ["301", "301", "42"], "sequence, trigger and function go on where they were"


@pytest.mark.parametrize(
    ("alteration", "check", "seen"),
    [
        ("UPDATE parts SET v = 'y' WHERE k = 7", "row counts and digests", "differs"),
        ("DELETE FROM loose WHERE k IS NULL", "row counts and digests", "2 rows, 3 expected"),
        ("DROP TABLE \"Odd Place\".empty", "row counts and digests", "is missing"),
        # Two rows exchange a value: every column's sum stays what it was.
        ("UPDATE documents SET body = (SELECT d.body FROM documents d WHERE d.id = 3 - documents.id) WHERE id < 3",
         "row counts and digests", "differs"),
        # A column that bears the alias of the row in the digest's own query must not stand for the row.
        ('UPDATE "Odd Place"."Da ""Table" SET share = 99 WHERE "Id" = 1', "row counts and digests", "differs"),
        ("ALTER TABLE parts ALTER v SET DEFAULT 'z'", "schema fingerprint", ""),
        ("ALTER TABLE documents ALTER body DROP NOT NULL", "schema fingerprint", ""),
        ("DROP TRIGGER noted ON documents", "schema fingerprint", ""),
        ("REVOKE SELECT ON documents FROM scratch_reader", "schema fingerprint", ""),
        ("ALTER TABLE loose ALTER k TYPE bigint", "schema fingerprint", ""),
        ("SELECT setval('lonely', 40)", "sequences are not behind", "lonely"),
        ("ALTER TABLE loose ADD CONSTRAINT other CHECK (k > 1) NOT VALID", "constraints and indexes", "other"),
    ],
)  # fmt: skip
def test_what_differs_is_found(alteration: str, check: str, seen: str, copied: Copied) -> None:
    target = f"{copied.source.name}_altered"
    copied.source.sql(
        f"DROP DATABASE IF EXISTS {target}; CREATE DATABASE {target} TEMPLATE {copied.restored.database}", "postgres"
    )
    # The trigger's row of the test above is in the template; that table is the one thing not compared here.
    copied.source.sql("DELETE FROM public.documents WHERE id = 301; TRUNCATE public.log", target)
    before = {one.name: one.outcome for one in compare(copied.source.server, copied.one, target)}
    assert set(before.values()) == {Outcome.PASSED}
    copied.source.sql(alteration, target)
    failed = [one for one in compare(copied.source.server, copied.one, target) if one.outcome is Outcome.FAILED]
    assert any(one.name.startswith(check) and seen in one.seen for one in failed), failed


def altered(one: BackupSet, change: Callable[[Manifest], Manifest]) -> None:
    assert one.manifest is not None
    (one.path / MANIFEST).write_text(change(one.manifest).model_dump_json())


def wrong_digest(manifest: Manifest) -> Manifest:
    dump = manifest.holds
    assert isinstance(dump, DatabaseDump)
    tables = tuple(table.model_copy(update={"digest": "1"}) for table in dump.content.tables)
    content = dump.content.model_copy(update={"tables": tables})
    return manifest.model_copy(update={"holds": dump.model_copy(update={"content": content})})


def test_a_restore_that_is_not_what_was_backed_up_is_refused_and_the_old_database_is_untouched(
    copied: Copied,
) -> None:
    one, source = copied.one, copied.source
    good = (one.path / MANIFEST).read_text()
    before = source.content("public.documents")
    target = f"{source.name}_refused"
    try:
        altered(one, wrong_digest)
        with pytest.raises(RecoveryError, match="is not what was backed up") as refused:
            restore_beside.fn(source.server, source.repository, one.set_id, target)
    finally:
        (one.path / MANIFEST).write_text(good)
    assert f"kept as {target}" in refused.value.state
    assert "--backup" in refused.value.next_step
    assert target in source.databases(), "to be looked at"
    assert source.content("public.documents") == before
    # The next attempt of the same run makes it anew.
    assert restore_beside.fn(source.server, source.repository, one.set_id, target).database == target


def test_a_dump_that_cannot_be_read_leaves_no_half_made_database(copied: Copied) -> None:
    one, source = copied.one, copied.source
    toc = one.path / "dump" / "toc.dat"
    whole = toc.read_bytes()
    target = f"{source.name}_half"
    try:
        toc.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(RecoveryError, match="pg_restore failed") as failed:
            restore_beside.fn(source.server, source.repository, one.set_id, target)
    finally:
        toc.write_bytes(whole)
    assert "the half-made one was removed" in failed.value.state
    assert target not in source.databases()


def test_roles_that_a_new_server_lacks_come_back_with_their_rights(sandbox: Sandbox, copied: Copied) -> None:
    schema = (
        "CREATE ROLE scratch_group NOLOGIN; CREATE ROLE scratch_app LOGIN PASSWORD 'kept' CONNECTION LIMIT 7 "
        "IN ROLE scratch_group; CREATE TABLE t (k int); ALTER TABLE t OWNER TO scratch_app; "
        "GRANT SELECT ON t TO scratch_group; ALTER ROLE scratch_app SET work_mem TO '5MB'"
    )
    asked = (
        "SELECT rolname, rolcanlogin, rolconnlimit, rolpassword, rolconfig, pg_has_role(oid, 'scratch_group', 'member')"
        " FROM pg_authid LEFT JOIN LATERAL"
        " (SELECT setconfig AS rolconfig FROM pg_db_role_setting WHERE setrole = oid) s ON true"
        " WHERE rolname ~ '^scratch_(app|group)$' ORDER BY 1"
    )
    with scratch(sandbox, copied.source.repository.root / "roles", schema) as source:
        before = source.sql(asked)
        taken = take_database_backup.fn(source.server, source.repository)
        # As good as a new server: neither database nor roles.
        source.sql(f"DROP DATABASE {source.name}", "postgres")
        source.sql("DROP ROLE scratch_app; DROP ROLE scratch_group", "postgres")
        restore_beside.fn(source.server, source.repository, taken.set_id, f"{source.name}_new")
        assert source.sql(asked, "postgres") == before
        assert source.sql(
            "SELECT relowner::regrole, relacl FROM pg_class WHERE relname = 't'", f"{source.name}_new"
        ) == ("scratch_app|{scratch_app=arwdDxtm/scratch_app,scratch_group=r/scratch_app}")
        source.sql(f"DROP DATABASE {source.name}_new; ", "postgres")
    source.sql("DROP ROLE scratch_app; DROP ROLE scratch_group", "postgres")


def test_the_newest_whole_set_is_chosen_and_an_older_one_when_it_is_named(copied: Copied) -> None:
    source = copied.source
    second = take_database_backup.fn(source.server, source.repository)
    assert find_backup(source.server, source.repository, "latest").set_id == second.set_id
    assert find_backup(source.server, source.repository, copied.taken.set_id).set_id == copied.taken.set_id
