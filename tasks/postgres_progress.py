"""How far a copy of a PostgreSQL server is, by what the server itself says of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from recoup.errors import RecoupError
from recoup.progress import Pace
from tasks.postgres import Server
from tasks.step import telling

# The server adds up the total only where it was asked to show progress: its databases are nearly all of it.
_COPIED = """
SELECT backup_streamed, coalesce(backup_total, (SELECT sum(pg_database_size(oid)) FROM pg_database))
  FROM pg_stat_progress_basebackup ORDER BY pid DESC LIMIT 1
"""


@contextmanager
def copying(server: Server, *, whole: bool = True) -> Iterator[None]:
    """Tell, while the block runs, how far its base backup is; one that is not ``whole`` has no known end."""
    pace = Pace("copied")

    def look() -> str:
        try:
            with server.connect(server.spec.maintenance_database) as connection:
                row = connection.execute(_COPIED).fetchone()
        except (psycopg.Error, RecoupError):
            return ""
        if row is None or row[0] is None:
            return ""
        return Pace(pace.done, int(str(row[1] or 0)) if whole else 0, pace.began).at(int(str(row[0])))

    with telling(look):
        yield
