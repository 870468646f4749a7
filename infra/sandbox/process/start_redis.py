"""Start redis-server with a password that stands in no argument list: the configuration goes into a private file.

Reads REDIS_SERVER (the program), REDIS_DATA, PORT, REDIS_PASSWORD and, for a replica, REPLICA_OF (the primary's port).
Needs the standard library alone.
"""

from __future__ import annotations

import os
from pathlib import Path

CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir {data}
appendonly yes
appendfsync everysec
save 3600 1 300 100 60 10000
repl-diskless-sync-delay 0
daemonize no
logfile ""
"""
REPLICA = """\
replicaof 127.0.0.1 {primary}
masterauth {password}
"""


def main() -> None:
    os.umask(0o077)
    data = Path(os.environ["REDIS_DATA"])
    data.mkdir(parents=True, exist_ok=True)
    configuration = Path.cwd() / "redis.conf"
    password, primary = os.environ.pop("REDIS_PASSWORD"), os.environ.get("REPLICA_OF")
    text = CONFIGURATION.format(port=os.environ["PORT"], password=password, data=data)
    if primary:
        text += REPLICA.format(primary=primary, password=password)
    configuration.write_text(text, encoding="utf-8")
    program = os.environ["REDIS_SERVER"]
    os.execv(program, [program, str(configuration)])


if __name__ == "__main__":
    main()
