"""Backup and restore, ours beside the written plan's commands and the other tools: `python -m benchmarks.database`.

One server, one set of data, one run, while a writer lives. Needs a Docker engine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.bench import RESTORED, Bench, bench, size_of
from benchmarks.rounds import Contestant, machine, markdown, play, screen, working_place
from benchmarks.writer import RATE, Writer, writing
from recoup.errors import RecoveryError
from tasks.postgres_backup import take_database_backup
from tasks.postgres_base import take_base
from tasks.postgres_choice import choose_base
from tasks.postgres_replay import replay_wal, start_replayed
from tasks.postgres_restore import restore_beside

RAW_ZSTD, RAW_LZ4 = "`pg_basebackup` + `tar`, zstd", "`pg_basebackup` + `tar`, lz4"
PGBACKREST_ZSTD, PGBACKREST_LZ4, BARMAN = "pgBackRest, zstd", "pgBackRest, lz4", "Barman, zstd"
OUR_BASE, OUR_DUMP = "ours: base backup", "ours: dump"
PLAN_BACKUP, PLAN_RESTORE = "the plan: `pg_dump \\| gzip`", "the plan: `gunzip \\| psql`, empty database"
NOTHING = "no backup"
QUIET = 8.0
ZSTD, LZ4 = "server-zstd:level=1,workers=2", "server-lz4"


class Ways:
    """The ways to back a server up and to restore it, each as its tool's own command line."""

    def __init__(self, of: Bench) -> None:
        self.of, self.tools = of, of.tools
        self.dump_id = self.base_id = ""

    # -- backups -------------------------------------------------------------------------------------------------

    def plan_backup(self) -> None:
        self.tools.run('pg_dump --no-password | gzip >"$1/plan-database.sql.gz"', str(self.tools.place))

    def our_dump(self) -> None:
        self.dump_id = take_database_backup.fn(self.of.server, self.of.repository).set_id

    def our_base(self) -> None:
        self.base_id = take_base(self.of.server, self.of.repository, False).set_id

    def raw(self, packer: str) -> Callable[[], None]:
        script = (
            'rm -rf "$1"; exec pg_basebackup --pgdata="$1" --format=tar --compress="$2" --wal-method=fetch '
            "--checkpoint=fast"
        )
        return lambda: self._do(script, str(self._raw(packer)), packer)

    def pgbackrest(self, kind: str, command: str, *options: str) -> Callable[[], None]:
        # A repository for each kind of compression: "latest" is then of that kind.
        options = (f"--repo1-path={self.tools.place}/pgbackrest-{kind}", *options)
        return lambda: self.tools.pgbackrest(command, *options)

    def barman(self, *arguments: str) -> None:
        self.tools.barman(*arguments)

    # -- restores, into the server's own data directory, until it takes writes ------------------------------------

    def plan_restore(self) -> None:
        script = 'gunzip -c "$1/plan-database.sql.gz" | psql --no-psqlrc --no-password --dbname="$2" >"$1/out"'
        self._do(script, str(self.tools.place), RESTORED)

    def our_dump_restore(self) -> None:
        restore_beside.fn(self.of.server, self.of.repository, self.dump_id, RESTORED)

    def our_base_restore(self) -> float:
        """Choose (every checksum), put aside, unpack, verify, replay, look, make durable, start, receive WAL again.

        Gives the moment at which the service took writes; its WAL is received again a little later.
        """
        server, repository = self.of.server, self.of.repository
        chosen = choose_base.fn(server, repository, "latest")
        if chosen.set_id != self.base_id:
            raise RecoveryError(f"{chosen} was chosen", state="the figures would be worth nothing")
        scratch = self.of.place / "scratch"
        with ThreadPoolExecutor(1) as pool:
            replay_wal.fn(server, repository, chosen.set_id, "latest", self.of.label(), scratch)
            taking_writes = pool.submit(self.of.taking_writes)
            start_replayed.fn(server)
            return taking_writes.result()

    def raw_restore(self, packer: str) -> Callable[[], None]:
        program = "zstd" if packer == ZSTD else "lz4"
        script = f'{program} -dcq "$1"/base.tar.* | tar -xf - -C "$2"'
        return lambda: self._do(script, str(self._raw(packer)), self.tools.data)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _do(self, script: str, *arguments: str) -> None:
        self.tools.run(script, *arguments)

    def prepare(self) -> None:
        """Set the other tools up on the server, and read all data once into memory, for all alike."""
        for kind in ("zst", "lz4"):
            self.pgbackrest(kind, "stanza-create")()
        self.tools.run(f"nohup barman -q -c {self.tools.place}/barman.conf receive-wal bench >/dev/null 2>&1 &")
        time.sleep(2)
        # It backs nothing up before a first segment was archived.
        self.barman("switch-wal", "--force", "--archive", "bench")
        self.our_base()

    def finish_barman(self) -> None:
        """Have Barman archive the WAL its backups need, and end its receiver."""
        self.barman("switch-wal", "--force", "--archive", "bench")
        self.barman("receive-wal", "--stop", "bench")

    def then_up(self, restore: Callable[[], None]) -> Callable[[], float]:
        """Give a restore with the start of the server after it."""

        def both() -> float:
            restore()
            return self.of.come_up()

        return both

    def _raw(self, packer: str) -> Path:
        return self.tools.place / f"raw-{packer.partition(':')[0]}"

    def size(self, name: str) -> int:
        """Give the bytes of the last backup of a kind."""
        places = {
            PLAN_BACKUP: self.tools.place / "plan-database.sql.gz",
            OUR_DUMP: self.of.repository.root / self.dump_id,
            OUR_BASE: self.of.repository.root / self.base_id,
            RAW_ZSTD: self._raw(ZSTD),
            RAW_LZ4: self._raw(LZ4),
            PGBACKREST_ZSTD: self.tools.place / "pgbackrest-zst",
            PGBACKREST_LZ4: self.tools.place / "pgbackrest-lz4",
            BARMAN: max((self.tools.place / "barman" / "bench" / "base").iterdir()),
        }
        return size_of(places[name])


def backups(ways: Ways) -> list[Contestant]:
    """Give the ways to back up, and a while without any, to hold the writer's latency against."""
    acts = {
        RAW_ZSTD: ways.raw(ZSTD),
        RAW_LZ4: ways.raw(LZ4),
        PGBACKREST_ZSTD: ways.pgbackrest("zst", "backup", "--type=full", "--compress-type=zst"),
        PGBACKREST_LZ4: ways.pgbackrest("lz4", "backup", "--type=full", "--compress-type=lz4"),
        BARMAN: lambda: ways.barman("backup", "bench"),
    }
    settle = ways.of.settle
    return [
        Contestant(NOTHING, lambda: time.sleep(QUIET), before=settle, ours=True),
        Contestant(PLAN_BACKUP, ways.plan_backup, before=settle, rounds=1),
        *(Contestant(name, act, before=settle) for name, act in acts.items()),
        Contestant(OUR_BASE, ways.our_base, before=settle, ours=True),
        Contestant(OUR_DUMP, ways.our_dump, before=settle, ours=True, rounds=1),
    ]


def restores(ways: Ways) -> list[Contestant]:
    """Give the ways to restore a killed server whose data directory is empty, and a dump into an empty database."""
    of = ways.of
    acts = {
        RAW_ZSTD: ways.raw_restore(ZSTD),
        RAW_LZ4: ways.raw_restore(LZ4),
        PGBACKREST_ZSTD: ways.pgbackrest("zst", "restore", "--type=none"),
        PGBACKREST_LZ4: ways.pgbackrest("lz4", "restore", "--type=none"),
        BARMAN: lambda: ways.barman("recover", "bench", "latest", ways.tools.data),
    }

    def dump(name: str, act: Callable[[], None], before: Callable[[], None], ours: bool) -> Contestant:
        return Contestant(name, act, of.same_dump, before, of.drop_restored, ours=ours, rounds=1)

    return [
        dump(PLAN_RESTORE, ways.plan_restore, of.empty_database, False),
        dump(OUR_DUMP, ways.our_dump_restore, of.settle, True),
        *(Contestant(name, ways.then_up(act), of.same_content, of.destroy) for name, act in acts.items()),
        Contestant(OUR_BASE, ways.our_base_restore, of.same_content, of.destroy, of.drop_old_data, ours=True),
    ]


def backup_table(ways: Ways, taken: Sequence[Contestant], writer: Writer) -> str:
    """Give the table of the backups: seconds, against the plan's and the best rival's; size; what the writer felt."""
    plan, best = _plan_and_best(taken)
    quiet = writer.latency(next(one.windows for one in taken if one.name == NOTHING))
    rows = []
    for one in taken:
        felt = writer.latency(one.windows)
        wait = (f"{felt.p50:.1f}", f"{felt.p99:.1f}") if felt else ("", "")
        more = (f"{felt.p50 / quiet.p50:.1f}", f"{felt.p99 / quiet.p99:.1f}") if felt and quiet else ("", "")
        if one.name == NOTHING:
            rows.append((one.name, "", "", "", "", *wait, "1", "1", ""))
            continue
        rows.append(
            (
                one.name,
                f"{one.median:.1f}",
                f"{plan / one.median:.1f}",
                f"{one.median / best:.2f}",
                f"{ways.size(one.name) / 1e6:.0f}",
                *wait,
                *more,
                "  ".join(f"{s:.1f}" for s in one.seconds),
            )
        )
    columns = ("backup", "s", "× faster than the plan", "of the best tool", "MB")
    felt_columns = ("writer p50, ms", "p99, ms", "p50 ×", "p99 ×", "rounds")
    return markdown((*columns, *felt_columns), rows)


def restore_table(taken: Sequence[Contestant]) -> str:
    """Give the table of the restores: until writes are accepted, and until every row was read and found right."""
    plan, best = _plan_and_best(taken)
    columns = (
        "restore",
        "accepts writes, s",
        "all rows read, s",
        "× faster than the plan",
        "of the best tool",
        "rounds",
    )
    rows = [
        (
            one.name,
            f"{one.median:.1f}",
            f"{statistics.median(one.proven):.1f}",
            f"{plan / one.median:.1f}",
            f"{one.median / best:.2f}",
            "  ".join(f"{s:.1f}" for s in one.seconds),
        )
        for one in taken
    ]
    return markdown(columns, rows)


def _plan_and_best(taken: Sequence[Contestant]) -> tuple[float, float]:
    plan = next(one.median for one in taken if one.name in (PLAN_BACKUP, PLAN_RESTORE))
    return plan, min(one.median for one in taken if not one.ours)


def main() -> None:
    """Measure, and print the tables as Markdown on standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.database", description=__doc__)
    parser.add_argument("--size-gb", type=float, default=1.0, help="size of the database with its indexes (1)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument("--patience", type=float, default=3, help="seconds to wait for a quiet machine (3)")
    parser.add_argument("--scratch", type=Path, help="directory with room for six times the size")
    asked = parser.parse_args()
    where = machine()
    screen.print(str(where))
    with working_place(asked.scratch) as place, bench(asked.size_gb, place) as of:
        ways = Ways(of)
        with writing(of.tools, of.accounts) as writer:
            ways.prepare()
            backed_up = backups(ways)
            play(backed_up, asked.rounds, asked.patience)
        ways.finish_barman()
        of.note_content()
        restored = restores(ways)
        play(restored, asked.rounds, asked.patience)
        shown = backup_table(ways, backed_up, writer), restore_table(restored)
    how = f"{asked.size_gb:g} GB, {RATE} transactions a second, {asked.rounds} rounds in shuffled order, medians"
    print(f"{how} ({where})", *shown, sep="\n\n")


if __name__ == "__main__":
    main()
