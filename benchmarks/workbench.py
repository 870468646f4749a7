"""A container beside the sandbox's server with the other tools in it, Barman and pgBackRest, thrown away afterwards.

It has the server's socket, its data directory, its received WAL and one directory of this machine, and stays up: no
rival pays for the start of a container. Nothing of it is a part of the product.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from benchmarks.rounds import screen
from recoup.process import Command, Completed, run
from recoup.stacks.compose_project import SANDBOX_LABEL
from tasks.postgres import Server
from tasks.wal_receiver import continuous_of

RECIPE = Path(__file__).resolve().parent / "rivals.Dockerfile"
LIMIT = timedelta(hours=2)
SOCKETS = "/var/run/postgresql"
# Where a package can be had from is this machine's affair: the first mirror of Debian that its own apt knows.
_MIRROR = (
    "apt-get indextargets --format '$(COMPONENT) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' "
    "| awk '$1 == \"main\" && $2 !~ /-/ { print $3; exit }'"
)

_PGBACKREST = """
[global]
repo1-path={place}/pgbackrest
repo1-retention-full=1
repo1-bundle=y
log-level-file=off
log-level-console=off
log-level-stderr=error
lock-path={place}/lock
process-max=2
compress-level=1
start-fast=y
archive-check=n
archive-mode-check=n

[bench]
pg1-path={data}
pg1-socket-path={sockets}
pg1-user={user}
pg1-database={database}
"""

_BARMAN = """
[barman]
barman_home = {place}/barman
barman_user = postgres
log_file = {place}/barman.log
barman_lock_directory = {place}/lock

[bench]
conninfo = host={sockets} user={user} dbname={database}
streaming_conninfo = host={sockets} user={user}
backup_method = postgres
streaming_archiver = on
slot_name = barman
create_slot = auto
immediate_checkpoint = true
backup_compression = zstd
backup_compression_level = 1
backup_compression_workers = 2
backup_compression_location = server
backup_compression_format = tar
recovery_staging_path = {place}
"""

# What a server is given that comes up on a tool's copy: all WAL that was received, and to recover with it to the end.
HAND_OVER = """
cd "$1"
first=$(awk '/^START WAL LOCATION/ { sub(/\\)/, "", $6); print $6 }' backup_label)
for file in "$2"/*; do
  name=$(basename "$file" .partial)
  case $name in *[!0-9A-F]*) continue ;; esac
  if [ "$name" \\< "$first" ]; then continue; fi
  cp "$file" "pg_wal/$name"
done
echo "restore_command = '/bin/false'" >>postgresql.auto.conf
touch recovery.signal
"""


@dataclass(frozen=True)
class Workbench:
    """The container; ``place`` is its directory, the same inside and outside, ``data`` the server's data directory."""

    container: str
    server: Server
    place: Path
    data: str

    def run(self, script: str, *arguments: str, user: str = "postgres", check: bool = True) -> Completed:
        """Run a shell script with arguments to its end, as the server's user."""
        env = (f"PGHOST={SOCKETS}", f"PGUSER={self.server.spec.user}", f"PGDATABASE={self.server.spec.database}")
        flags = [part for pair in env for part in ("--env", pair)]
        argv = ("docker", "exec", "--user", user, *flags, self.container, "sh", "-euc", script, "bench", *arguments)
        return run(Command(argv), timeout=LIMIT, check=check)

    def pgbackrest(self, command: str, *options: str) -> None:
        """Run one command of pgBackRest."""
        self.run(f'exec pgbackrest --config={self.place}/pgbackrest.conf --stanza=bench "$@"', *options, command)

    def barman(self, *arguments: str) -> Completed:
        """Run one command of Barman."""
        return self.run(f'exec barman --quiet --config {self.place}/barman.conf "$@"', *arguments)


@contextmanager
def workbench(server: Server, sandbox_id: str, place: Path) -> Iterator[Workbench]:
    """Give the container, for the sandbox's running server, with the other tools' settings; it is gone afterwards."""
    label = ("--filter", f"label={SANDBOX_LABEL}={sandbox_id}", "--filter", "label=com.docker.compose.service=postgres")
    database = _docker("ps", "--quiet", *label).text
    image = _docker("inspect", "--format", "{{.Config.Image}}", database).text
    data = server.tool(("sh", "-c", 'echo "$PGDATA"'), timeout=LIMIT).text
    wal = continuous_of(server).wal
    mounts = [part for path in (place, wal) for part in ("--mount", f'type=bind,"source={path}","target={path}"')]
    container = _docker(
        "run", "--detach", "--label", f"{SANDBOX_LABEL}={sandbox_id}", "--network", "none",
        "--volumes-from", database, *mounts, "--user", "0", "--init", "--entrypoint", "sleep", _image(image),
        "infinity",
    ).text  # fmt: skip
    found = Workbench(container, server, place, data)
    try:
        found.run('mkdir -p "$1/lock" && chown postgres "$1" "$1/lock"', str(place), user="0")
        for name, text in (("pgbackrest", _PGBACKREST), ("barman", _BARMAN)):
            spec = server.spec
            text = text.format(place=place, data=data, sockets=SOCKETS, user=spec.user, database=spec.database)
            found.run('echo "$1" >"$2"', text, str(place / f"{name}.conf"))
        yield found
    finally:
        found.run('find "$1" -mindepth 1 -delete', str(place), user="0", check=False)
        _docker("rm", "--force", "--volumes", container)


def _image(base: str) -> str:
    """Build the image with the other tools on the server's own, where it is not there yet, and give its name."""
    tag = f"recoup-benchmark/rivals:{base.rpartition(':')[2]}"
    screen.print("looking for the image with the other tools, building it where it is missing", style="dim")
    with tempfile.TemporaryDirectory() as context:
        # The official image knows its mirrors; the sandbox's own base does not.
        ask = '. /etc/os-release; echo "$VERSION_CODENAME"; cat /etc/apt/sources.list /etc/apt/sources.list.d/* || true'
        suite, _, known = _docker("run", "--rm", "--entrypoint", "sh", base, "-c", ask).text.partition("\n")
        mirror = "" if known else run(Command(("sh", "-c", _MIRROR)), timeout=LIMIT).text
        line = f"deb {mirror} {suite} main\n" if mirror else ""
        Path(context, "debian.list").write_text(line, encoding="utf-8")
        _docker("build", "--quiet", "--tag", tag, "--file", str(RECIPE), "--build-arg", f"BASE={base}", context)
    return tag


def _docker(*argv: str) -> Completed:
    return run(Command(("docker", *argv)), timeout=timedelta(minutes=15))
