"""What the entry point of the official PostgreSQL image does, for a plain child process.

An empty data directory gets a new cluster with the database and its schema; then this process becomes the server.
Reads PGDATA, PGHOST (the socket's directory), PGPORT, POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, SCHEMA and,
when started as root, RUN_AS: PostgreSQL refuses to run as root. Needs the standard library alone.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

CONNECTIONS = 40
SETTINGS = (
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    f"max_connections={CONNECTIONS}",
    "logging_collector=off",
    "log_destination=stderr",
    "log_line_prefix=%m [%p] ",
    "log_timezone=UTC",
)
SECONDS = 120


def main() -> None:
    data, sockets, port = Path(os.environ["PGDATA"]), Path(os.environ["PGHOST"]), os.environ["PGPORT"]
    schema = Path(os.environ["SCHEMA"]).read_bytes()
    become(os.environ.get("RUN_AS"), (data, sockets))
    password = os.environ.pop("POSTGRES_PASSWORD")
    for lock in (data / "postmaster.pid", sockets / f".s.PGSQL.{port}.lock"):
        forget_a_zombie(lock)
    if not (data / "PG_VERSION").exists():
        make_cluster(data, sockets, port, password, schema)
    say("starting the server")
    options = (*SETTINGS, "listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={sockets}")
    os.execvp("postgres", server(data, options))


def become(user: str | None, places: tuple[Path, ...]) -> None:
    """Hand the places to the user and become it, when started as root."""
    os.umask(0o077)
    for place in places:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return
    if not user:
        sys.exit("PostgreSQL refuses to run as root: name another user in RUN_AS")
    entry = pwd.getpwnam(user)
    for place in places:
        if place.stat().st_uid != entry.pw_uid:
            os.chown(place, entry.pw_uid, entry.pw_gid)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)


def make_cluster(data: Path, sockets: Path, port: str, password: str, schema: bytes) -> None:
    """Make the cluster beside, and put it in its place only when it is whole: one cut short is never taken for one."""
    user, database = os.environ["POSTGRES_USER"], os.environ["POSTGRES_DB"]
    new = data.with_name(f"{data.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    say(f"making a new cluster in {data}")
    program(
        "initdb", f"--pgdata={new}", f"--username={user}", "--pwfile=/dev/stdin", "--encoding=UTF8", "--locale=C",
        "--auth-local=trust", "--auth-host=scram-sha-256", "--data-checksums", "--no-sync", "--no-instructions",
        # A killed server must leave nothing in /dev/shm, where one sandbox's files cannot be told from another's.
        "--set=dynamic_shared_memory_type=mmap",
        # A standby may be copied from it already while it is being made, and must not ask for less than it did.
        f"--set=max_connections={CONNECTIONS}",
        given=password.encode(),
    )  # fmt: skip
    options = ("listen_addresses=", f"port={port}", f"unix_socket_directories={sockets}", "fsync=off")
    shown = " ".join(f"-c {option}" for option in options)
    program("pg_ctl", "--silent", "--wait", f"--pgdata={new}", f"--options={shown}", "start")
    psql = ("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--username={user}")
    program(*psql, "--dbname=postgres", f'--command=CREATE DATABASE "{database}"')
    program(*psql, f"--dbname={database}", "--file=-", given=schema)
    program("pg_ctl", "--silent", "--wait", f"--pgdata={new}", "--mode=fast", "stop")
    new.rename(data)


def forget_a_zombie(lock: Path) -> None:
    """Remove the lock file of a killed server that nobody has reaped: PostgreSQL takes a zombie for a living one."""
    try:
        # Read as bytes: the user become may not enter the place where Python keeps its encodings.
        pid = int(lock.read_bytes().split(b"\n", 1)[0])
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, ValueError, IndexError):
        return
    if state in (b"Z", b"X"):
        say(f"process {pid} of {lock.name} is a zombie")
        lock.unlink(missing_ok=True)


def program(*argv: str, given: bytes = b"") -> None:
    """Run one of PostgreSQL's programs to its end; its output goes to the log."""
    done = subprocess.run(argv, input=given, timeout=SECONDS, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        say(f"{argv[0]} failed with code {done.returncode}")
        sys.exit(1)


def server(data: Path, options: tuple[str, ...]) -> list[str]:
    return ["postgres", "-D", str(data), *(part for option in options for part in ("-c", option))]


def say(text: str) -> None:
    print(f"start_postgres: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
