"""A database of a test's own on a sandbox's server, looked at from outside with psql."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from recoup.plan import Plan, load_plan
from recoup.process import Completed
from recoup.stacks.process import ProcessStack
from tasks.sandbox import Sandbox
from tests.database_in_use import DatabaseInUse
from tests.stack_behaviour import SOON


@dataclass(frozen=True)
class Scratch(DatabaseInUse):
    """The plan with this database and repository in place of the platform's; whose name all copies begin with."""

    plan: Plan
    stack: ProcessStack
    name: str

    def sql(self, statement: str, database: str = "") -> str:
        """Run SQL as the owner through the server's own socket, past everything that is tested."""
        argv = ("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "neo", "-d", database or self.name, "-f", "-")
        return self.stack.execute("postgres", argv, stdin=statement.encode(), timeout=SOON).text

    def shell(self, script: str, stdin: bytes = b"") -> Completed:
        """Run a command of the written plan as it stands, this database being $DB_NAME and its owner $DB_USER."""
        env = {"DB_NAME": self.name, "DB_USER": "neo"}
        return self.stack.execute("postgres", ("sh", "-c", script), env=env, stdin=stdin, timeout=SOON, check=False)

    def plain_dump(self) -> bytes:
        """Take a dump with the written plan's own command, and give the SQL it holds."""
        done = self.shell('pg_dump -U "$DB_USER" -d "$DB_NAME" | gzip')
        assert done.returncode == 0, done.stderr
        return gzip.decompress(done.stdout)

    def put_legacy(self, sql: bytes, name: str = "20260101_030000-database.sql.gz") -> Path:
        """Put a dump into the repository under a name as the written plan's script gives."""
        self.repository.root.mkdir(parents=True, exist_ok=True)
        path = self.repository.root / name
        path.write_bytes(gzip.compress(sql))
        return path

    def databases(self) -> set[str]:
        """Give the databases whose names begin with this one's."""
        names = self.sql("SELECT datname FROM pg_database", "postgres").split()
        return {name for name in names if name.startswith(self.name)}

    def content(self, table: str, database: str = "") -> str:
        """Give rows and a digest of a table, by a formula that is not the one that is tested."""
        return self.sql(
            f"SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') FROM {table} t",
            database,
        )


@contextmanager
def scratch(sandbox: Sandbox, repository: Path, schema: str = "") -> Iterator[Scratch]:
    """Give a new database, filled by ``schema``; it and its copies are gone after the block."""
    name = f"scratch_{uuid4().hex[:8]}"
    whole = load_plan(sandbox.plan)
    postgres = whole.postgres()[1].model_copy(update={"database": name})
    platform = whole.platform.model_copy(update={"repository": repository})
    plan = whole.model_copy(update={"platform": platform, "components": {**whole.components, "postgres": postgres}})
    made = Scratch(plan, ProcessStack.open(sandbox.directory), name)
    made.sql(f"CREATE DATABASE {name}", "postgres")
    try:
        if schema:
            made.sql(schema)
        yield made
    finally:
        for database in made.databases():
            made.sql(f"DROP DATABASE {database} WITH (FORCE)", "postgres")
