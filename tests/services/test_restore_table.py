"""One table or schema of a set beside the original: whole, under its own names, and the original as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.request import require_recovered
from flows.restore import ScratchRestore, TableRestore, run_scratch_restore, run_table_restore
from recoup.errors import BusyError, PreconditionError, RecoupError, RecoveryError
from recoup.journal import Journal
from recoup.lease import lease
from recoup.ledger import Ledger
from recoup.places import ledger_path
from recoup.records import Outcome, RecoveryRecord, Verdict
from recoup.report import history
from tasks.postgres_backup import take_database_backup
from tasks.postgres_part import fitting, renamed
from tasks.postgres_table import TableRestored
from tasks.postgres_verify import Copy
from tasks.sandbox import Sandbox
from tests.postgres_scratch import Scratch, scratch
from tests.services.odd_database import DATABASE, SCHEMA
from tests.services.test_postgres_restore import altered, wrong_digest

SHOP = """
CREATE ROLE scratch_shop NOLOGIN;
CREATE TABLE customers (id int PRIMARY KEY, name text);
CREATE TABLE orders (
    id bigserial PRIMARY KEY, number int GENERATED ALWAYS AS IDENTITY, customer int REFERENCES customers, above bigint
    CONSTRAINT parent REFERENCES orders, what text DEFAULT 'x' CHECK (what <> ''), UNIQUE (customer, what));
CREATE INDEX by_what ON orders (lower(what));
CREATE STATISTICS told ON customer, what FROM orders;
INSERT INTO customers VALUES (1, 'one'), (2, 'two');
INSERT INTO orders (customer, above, what) VALUES (1, NULL, 'first'), (2, 1, 'second'), (NULL, 1, E'third\\nline');
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER noted BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION note();
COMMENT ON TABLE orders IS 'what was bought'; COMMENT ON COLUMN orders.what IS 'kept too';
COMMENT ON CONSTRAINT orders_customer_fkey ON orders IS 'a comment on what is left out';
GRANT SELECT ON orders TO scratch_shop; GRANT UPDATE (what) ON orders TO scratch_shop;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO scratch_shop;
CREATE MATERIALIZED VIEW total AS SELECT 1 / count(*) FROM customers;
"""
# Asked of the original, and of the copy with its name put back.
SAME = {
    "rows": "SELECT * FROM {0} ORDER BY 1",
    "columns": (
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attacl::text, "
        "col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = '{0}'::regclass AND attnum > 0 ORDER BY 1"
    ),
    "indexes": "SELECT indisunique, indisprimary, indisvalid, indkey, pg_get_expr(indexprs, indrelid) "
    "FROM pg_index WHERE indrelid = '{0}'::regclass ORDER BY indkey::text",
    "constraints": "SELECT contype, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = '{0}'::regclass "
    "AND (contype <> 'f' OR confrelid = conrelid) ORDER BY 1, 2",
    "triggers": "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = '{0}'::regclass AND NOT tgisinternal",
    "grants": "SELECT x.* FROM pg_class c, aclexplode(coalesce(relacl, acldefault('r', relowner))) x "
    "WHERE c.oid = '{0}'::regclass ORDER BY 1, 2, 3",
    "comment": "SELECT obj_description('{0}'::regclass)",
    "statistics": "SELECT count(*) FROM pg_statistic_ext WHERE stxrelid = '{0}'::regclass",
    "row security": "SELECT relrowsecurity, (SELECT count(*) FROM pg_policy WHERE polrelid = c.oid) FROM pg_class c "
    "WHERE oid = '{0}'::regclass",
    "sequences": "SELECT count(*) FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' "
    "WHERE d.refobjid = '{0}'::regclass",
}


@pytest.fixture
def shop(sandbox: Sandbox, tmp_path: Path) -> Iterator[Scratch]:
    with scratch(sandbox, tmp_path / "backups", SHOP) as made:
        yield made
        assert list(made.plan.platform.scratch.iterdir()) == []
    made.sql("DROP ROLE scratch_shop", "postgres")


def restored(source: Scratch, table: str = "", **more: str) -> TableRestored:
    """Restore it as the command does, and give the result of its step."""
    record = recorded(source, table, **more)
    require_recovered(record)
    journal = Journal.load(source.plan.platform.state / "runs" / f"{record.run_id}.jsonl")
    assert journal is not None
    found = journal.result_of("restore-table")
    assert found is not None
    return TableRestored.model_validate_json(found[1])


def recorded(source: Scratch, table: str = "", **more: str) -> RecoveryRecord:
    request = TableRestore.model_validate({"plan": "unused", "table": table, **more})
    return run_table_restore(source.plan, request, ledger=source.repository.root.parent / "ledger.jsonl")


def backed_up(source: Scratch) -> str:
    return take_database_backup.fn(source.server, source.repository).set_id


def whole(source: Scratch) -> str:
    """Give all that is there, as one text."""
    return source.shell('pg_dump --restrict-key=x -U "$DB_USER" -d "$DB_NAME"').text


def test_a_table_comes_back_beside_the_original_with_all_that_belongs_to_it(shop: Scratch) -> None:
    backed_up(shop)
    before = whole(shop)
    done = restored(shop, "public.orders")
    assert done.target.startswith("public.orders_restored_2")
    assert done.rows == 3
    for what, asked in SAME.items():
        copy = shop.sql(asked.format(done.target)).replace(done.target.removeprefix("public."), "orders")
        assert copy == shop.sql(asked.format("orders")), what
    (left_out,) = done.not_kept
    assert "REFERENCES public.customers(id)" in left_out
    shop.sql(left_out)
    shop.sql(f"DROP TABLE {done.target}")
    assert whole(shop) == before, "the copy takes nothing with it, and nothing else was changed"


def test_the_copy_and_the_original_do_not_share_a_sequence_nor_stop_each_other(shop: Scratch) -> None:
    backed_up(shop)
    name = restored(shop, "orders", new_name="Old Orders").target
    assert name == 'public."Old Orders"'
    shop.sql(f"INSERT INTO {name} (what) VALUES ('in the copy'), ('again')")
    assert shop.sql("INSERT INTO orders (what) VALUES ('in use') RETURNING id, number") == "4|4"
    # A foreign key of the copy would forbid this.
    shop.sql("DELETE FROM orders WHERE customer = 2; DELETE FROM customers WHERE id = 2")


def test_it_leaves_a_record_that_claims_no_objective(shop: Scratch) -> None:
    had = backed_up(shop)
    record = recorded(shop, "orders", new_name="looked_at", reason="a customer asks")
    assert (record.verdict, record.beside, record.reason) == (Verdict.RECOVERED, True, "a customer asks")
    assert record.backup is not None
    assert record.backup.set_id == had
    assert "public.looked_at" in record.state_left
    assert "REFERENCES public.customers(id)" in record.next_step
    shop.sql("DROP FUNCTION note CASCADE")
    failed = recorded(shop, "orders", new_name="again")
    assert failed.verdict is Verdict.NOT_RECOVERED
    assert Ledger(shop.repository.root.parent / "ledger.jsonl").records() == (record, failed)
    told = history([record, failed])
    assert "restored beside" in told
    assert "not restored" in told
    assert "No run claims an objective." in told


def test_a_dropped_table_is_found_in_the_set_that_still_has_it(shop: Scratch) -> None:
    had = backed_up(shop)
    shop.sql("DROP TABLE orders CASCADE")
    backed_up(shop)
    with pytest.raises(PreconditionError, match=r"no table orders") as unknown:
        restored(shop, "orders")
    assert had in unknown.value.next_step
    assert restored(shop, "orders", backup=had, new_name="orders").rows == 3
    assert shop.sql("SELECT count(*) FROM orders") == "3"


@pytest.mark.parametrize("name", ["customers", "total", "by_what", "told", "orders_id_seq"])
def test_a_name_that_is_taken_is_refused(name: str, shop: Scratch) -> None:
    backed_up(shop)
    before = whole(shop)
    with pytest.raises(PreconditionError, match=f"already a {name}"):
        restored(shop, "orders", new_name=name)
    assert whole(shop) == before


@pytest.mark.parametrize(
    ("asked", "what", "help"),
    [
        ({"table": "order"}, "no table order", "public.orders"),
        ({"table": "other.orders"}, "no table other.orders", "public.orders"),
        ({"whole_schema": "publik"}, "no schema publik", "public"),
        ({"table": "total"}, "is a view", "--schema"),
        ({"table": "orders", "backup": "20200101T000000Z-database"}, "no backup set", "latest"),
    ],
)
def test_what_is_unknown_is_said_with_what_is_like_it(
    asked: dict[str, str], what: str, help: str, shop: Scratch
) -> None:
    backed_up(shop)
    with pytest.raises(PreconditionError, match=what) as unknown:
        restored(shop, **asked)
    assert help in unknown.value.next_step


def test_what_is_not_what_was_backed_up_is_never_loaded(shop: Scratch) -> None:
    one = shop.repository.get("database", backed_up(shop))
    altered(one, wrong_digest)
    before = whole(shop)
    with pytest.raises(RecoveryError, match=r"public\.orders differs") as refused:
        restored(shop, "orders")
    assert "nothing was changed" in refused.value.state
    assert whole(shop) == before


def test_what_needs_something_that_is_gone_leaves_nothing_half_made(shop: Scratch) -> None:
    backed_up(shop)
    shop.sql("DROP FUNCTION note CASCADE")
    before = whole(shop)
    with pytest.raises(RecoveryError, match=r"function public\.note\(\) does not exist") as refused:
        restored(shop, "orders")
    assert "taken back" in refused.value.state
    assert whole(shop) == before


def test_a_schema_comes_back_beside_the_original_with_its_own_foreign_keys(shop: Scratch) -> None:
    backed_up(shop)
    shop.sql("UPDATE orders SET what = what || ' changed'")
    done = restored(shop, whole_schema="public", new_name="Before")
    assert done.target == '"Before"'
    assert done.not_kept == ()
    assert shop.sql('SELECT what FROM "Before".orders WHERE id = 1') == "first"
    assert shop.sql("SELECT what FROM orders WHERE id = 1") == "first changed"
    with pytest.raises(RecoupError, match="violates foreign key"):
        shop.sql('DELETE FROM "Before".customers')
    with pytest.raises(PreconditionError, match="already a Before"):
        restored(shop, whole_schema="public", new_name="Before")


def test_one_at_a_time_with_a_recovery(shop: Scratch) -> None:
    backed_up(shop)
    platform = shop.plan.platform
    with lease(platform.state, platform.name, "a recovery"), pytest.raises(BusyError, match="a recovery"):
        restored(shop, "orders")


def test_a_server_that_does_not_answer_is_said(shop: Scratch) -> None:
    backed_up(shop)
    shop.sql(f"ALTER DATABASE {shop.name} ALLOW_CONNECTIONS false", "postgres")
    with pytest.raises(PreconditionError, match="does not answer") as refused:
        restored(shop, "orders")
    assert "recover database" in refused.value.next_step


class TestOddOnes:
    @pytest.fixture(scope="class")
    @staticmethod
    def odd(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scratch]:
        with scratch(sandbox, tmp_path_factory.mktemp("backups"), SCHEMA) as source:
            source.sql(DATABASE.format(source.name))
            backed_up(source)
            yield source
        source.sql("DROP ROLE scratch_reader", "postgres")

    @pytest.mark.parametrize(
        ("table", "name"),
        [
            ('"Odd Place"."Da ""Table"', '"Odd Place"."Da ""Table"'),
            ("Odd Place.empty", '"Odd Place".empty'),
            ("without_columns", '"Odd Place".without_columns'),
            ("parts Low", 'public."parts Low"'),
            ("documents", "public.documents"),
            ("loose", "public.loose"),
        ],
    )
    def test_it_comes_back(self, table: str, name: str, odd: Scratch) -> None:
        done = restored(odd, table)
        assert done.source == name
        assert odd.content(done.target) == odd.content(name)
        for what in ("grants", "comment", "row security", "statistics"):
            assert odd.sql(SAME[what].format(done.target)) == odd.sql(SAME[what].format(name)), what

    def test_a_partitioned_table_is_told_from_its_partitions(self, odd: Scratch) -> None:
        with pytest.raises(PreconditionError, match="is partitioned"):
            restored(odd, "parts")

    def test_a_whole_database_to_be_looked_at(self, odd: Scratch, sandbox: Sandbox) -> None:
        """Read through the very command that is printed."""
        path = sandbox.directory / "odd.yaml"
        path.write_text(odd.plan.dump_yaml(), encoding="utf-8")
        places: list[Path] = []

        def look(copy: Copy) -> None:
            asked = (*copy.command, "-XAtqc", "SELECT count(*) FROM public.documents")
            assert odd.stack.execute("postgres", asked, timeout=copy.server.spec.restart_timeout).text == "300"
            assert copy.server.at is not None
            places.append(copy.server.at)
            # It may be looked at for hours: a recovery does not wait for it.
            with lease(odd.plan.platform.state, odd.plan.platform.name, "a recovery"):
                pass

        record = run_scratch_restore(ScratchRestore(plan=path, reason="what did it hold?"), look)
        assert (record.verdict, record.beside, record.reason) == (Verdict.RECOVERED, True, "what did it hold?")
        assert {check.outcome for check in record.checks} == {Outcome.PASSED}
        assert Ledger(ledger_path(odd.plan)).last() == record
        (place,) = places
        assert not place.parent.exists()


def test_names_that_are_too_long_stay_apart() -> None:
    long = "ä" * 40
    assert len(fitting(long).encode()) <= 63
    assert fitting(long + "a") != fitting(long + "b")
    taken: set[str] = set()
    names = [renamed(f"{'x' * 50}_{n}", "x" * 50, "y" * 60, taken) for n in range(3)]
    assert len(set(names)) == 3
    assert renamed("t_pkey", "t", "u", taken) == "u_pkey"
    assert renamed("t_pkey", "t", "u", taken) == "u_pkey_2"
