"""A whole platform lost and rebuilt, beside the written plan's own sequence: `python -m benchmarks.platform`.

Each trial has a Compose sandbox of its own, whose network and volumes Terraform made, and takes all of it away. The
plan's sequence is its commands, one after the other: terraform apply, up -d, gunzip | psql with the gateway stopped, a
dump.rdb put back, up -d, sleep 30, requests. What each brought back is read from the stores. A new database of the
sandbox has its schema and seed, as one has after the migrations of a service that starts: psql restores into that.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import redis

from benchmarks.rounds import machine, markdown, screen, working_place
from flows.backup import run_backup
from flows.configuration import run_configuration_backup
from flows.platform import PlatformRecovery, run_platform_recovery
from flows.redis_store import run_redis_backup
from recoup.errors import RecoupError
from recoup.places import ledger_path
from recoup.plan import ComposeSite, Plan, load_plan
from recoup.process import Command, run
from recoup.records import Outcome, Verdict
from recoup.stacks import Stack, open_stack
from tasks import sandbox
from tasks.platform_fault import PlatformFault, inject
from tasks.postgres import Server
from tasks.redis_server import RedisServer
from tasks.smoke import Door, round_of_requests

LIMIT = timedelta(minutes=10)
COUNT = 500
WRITE = """INSERT INTO public.records (id, body) SELECT 'written-' || n, '"by a user"' FROM generate_series(1, %s) n"""


@dataclass(frozen=True)
class Rebuilt:
    """How long one rebuilding took, in seconds from the fault, whether users were served, and what was there then."""

    seconds: float
    served: bool
    written: int
    keys: int


@dataclass(frozen=True)
class Kept:
    """What the plan's own backup commands left."""

    dump: Path
    snapshot: Path


def by_recoup(plan: Plan, stack: Stack, made: sandbox.Sandbox, kept: Kept) -> bool:
    """Rebuild it by the procedure; says whether it was proven."""
    asked = PlatformRecovery(plan=made.plan)
    return run_platform_recovery(plan, asked, ledger=ledger_path(plan)).verdict is Verdict.RECOVERED


def by_the_plan(plan: Plan, stack: Stack, made: sandbox.Sandbox, kept: Kept) -> bool:
    """Rebuild it by the written plan's commands; says whether users were served at their end."""
    spec = plan.platform.terraform
    assert spec is not None
    # On a new host there is no state of the old one.
    (spec.root / "terraform.tfstate").unlink(missing_ok=True)
    _run("terraform", f"-chdir={spec.root}", "apply", "-auto-approve", f"-var-file={spec.var_file}")
    _compose(plan, "up", "--detach")
    _compose(plan, "stop", "api-gateway")
    container = f"{made.id}-neo-postgres"
    # Its script knows no waiting for the database either; without this it would restore nothing at all.
    _run("sh", "-c", 'until docker exec "$1" pg_isready -q -h 127.0.0.1; do sleep 0.2; done', "sh", container)
    restore = 'gunzip -c "$1" | docker exec -i "$2" psql -q -U neo -d neo_service_layer >/dev/null 2>&1; true'
    _run("sh", "-c", restore, "sh", str(kept.dump), container)
    _compose(plan, "start", "api-gateway")
    _compose(plan, "stop", "redis")
    _run("docker", "cp", str(kept.snapshot), f"{made.id}-neo-redis:/data/dump.rdb")
    _compose(plan, "start", "redis")
    _compose(plan, "up", "--detach")
    time.sleep(30)
    return all(one.outcome is Outcome.PASSED for one in round_of_requests(Door.of(plan, stack)))


WAYS = {"recoup recover platform": by_recoup, "the written plan's sequence": by_the_plan}


def trial(way: str) -> Rebuilt:
    """Make a platform with data and backups, take all of it away, and rebuild it one way."""
    made = sandbox.create("compose", provisioned=True)
    try:
        plan = load_plan(made.plan)
        stack = open_stack(plan)
        with RedisServer.of(plan, stack, None).connect() as link:
            for number in range(COUNT):
                link.ask("SET", f"key-{number}", "value")
        with Server.of(plan, stack, None).connect() as connection:
            # The trigger on the table names another one without its schema.
            connection.execute("SET search_path = public")
            connection.execute(WRITE, [COUNT])
        run_configuration_backup(plan)
        run_redis_backup(plan, stack)
        run_backup(plan, stack, verify=False)
        kept = _keep(made)
        inject(plan, stack, PlatformFault.EVERYTHING, made.id)
        began = time.monotonic()
        served = WAYS[way](plan, stack, made, kept)
        took = time.monotonic() - began
        return Rebuilt(took, served, _written(plan, stack), _keys(plan, stack))
    finally:
        sandbox.destroy(made)


def _keep(made: sandbox.Sandbox) -> Kept:
    """Back up as the written plan does."""
    dump, snapshot = made.directory / "plain-database.sql.gz", made.directory / "dump.rdb"
    argv = ("docker", "exec", f"{made.id}-neo-postgres", "pg_dump", "-U", "neo", "neo_service_layer")
    plain = run(Command(argv), timeout=LIMIT)
    dump.write_bytes(gzip.compress(plain.stdout))
    _run("docker", "exec", f"{made.id}-neo-redis", "redis-cli", "save")
    _run("docker", "cp", f"{made.id}-neo-redis:/data/dump.rdb", str(snapshot))
    return Kept(dump, snapshot)


def _written(plan: Plan, stack: Stack) -> int:
    """Count what users had written: the seed of a new database is no proof of anything."""
    with Server.of(plan, stack, None).connect() as connection:
        row = connection.execute("SELECT count(*) FROM public.records WHERE id LIKE 'written-%'").fetchone()
    return int(str(row[0])) if row else 0


def _keys(plan: Plan, stack: Stack) -> int:
    with suppress(redis.RedisError, RecoupError), RedisServer.of(plan, stack, None).connect() as link:
        return sum(1 for number in range(COUNT) if link.ask("EXISTS", f"key-{number}"))
    return 0


def _compose(plan: Plan, *words: str) -> None:
    site = plan.platform.stack
    assert isinstance(site, ComposeSite)
    files = [part for path in (site.file, *site.overrides) for part in ("--file", str(path))]
    _run("docker", "compose", "--project-name", site.project, *files, "--env-file", str(site.env_file), *words)


def _run(*argv: str) -> None:
    run(Command(argv), timeout=LIMIT)


def main() -> None:
    """Run the trials, one way after the other, and print a table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.platform", description=__doc__)
    parser.add_argument("--trials", type=int, default=3, help="how often each way (3)")
    asked = parser.parse_args()
    where = machine()
    found: dict[str, list[Rebuilt]] = {way: [] for way in WAYS}
    with working_place(None):
        for number in range(1, asked.trials + 1):
            for way in WAYS:
                found[way].append(trial(way))
                screen.print(f"{number}/{asked.trials} {way}: {found[way][-1]}")
    print(f"everything gone on Docker Compose, {asked.trials} trials ({where})\n")
    rows = [
        (
            way,
            f"{statistics.median(one.seconds for one in trials):.1f}",
            f"{max(one.seconds for one in trials):.1f}",
            f"{sum(one.served for one in trials)} of {len(trials)}",
            f"{min(one.written for one in trials)} of {COUNT}",
            f"{min(one.keys for one in trials)} of {COUNT}",
        )
        for way, trials in found.items()
    ]
    print(markdown(("rebuilt by", "median, s", "worst, s", "users served", "their records", "Redis keys"), rows))


if __name__ == "__main__":
    main()
