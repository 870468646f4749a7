"""The services' way to PostgreSQL: a pool that comes back by itself, and 503 while it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from app.metrics import Metrics
from app.service import Unavailable
from app.settings import PATIENCE, Settings


class Database:
    """A pool of connections to one database; ``name`` is what the server sees as application_name."""

    def __init__(self, settings: Settings, name: str, metrics: Metrics) -> None:
        self._metrics = metrics
        metrics.before = self._tell
        metrics.needs("postgres")
        for broken in ("23", "XX"):
            metrics.count("neo_database_errors_total", 0, sqlstate=broken)
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection] = AsyncConnectionPool(
            kwargs={
                "host": settings.db_host,
                "port": settings.db_port,
                "dbname": settings.db_name,
                "user": settings.db_user,
                "password": settings.db_password,
                "application_name": f"neo-{name}",
                "client_encoding": "utf8",
                # Of a pair, the one that takes writes.
                "target_session_attrs": "read-write",
                "connect_timeout": int(PATIENCE),
                "options": f"-c statement_timeout={int(PATIENCE * 1000)}",
                # A restored database swapped in by name has other object ids; a prepared plan would keep the old ones.
                "prepare_threshold": None,
            },
            min_size=0,
            max_size=8,
            open=False,
            check=AsyncConnectionPool.check_connection,
            timeout=PATIENCE,
            # The pool's own back-off doubles up to minutes; giving up at once lets the next request try anew.
            reconnect_timeout=0.5,
            # Connections are young so that a server with none left is felt by users within seconds.
            max_lifetime=5.0,
            name=name,
        )

    async def open(self) -> None:
        await self._pool.open(wait=False)

    async def close(self) -> None:
        await self._pool.close(timeout=1.0)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """Give a connection whose work is committed on a normal exit; raises Unavailable when the database fails."""
        try:
            async with asyncio.timeout(PATIENCE * 1.5), self._pool.connection() as connection:
                yield connection
        except (psycopg.Error, PoolTimeout, TimeoutError, OSError) as error:
            self._metrics.failed("postgres", error)
            if isinstance(error, psycopg.Error) and error.sqlstate:
                self._metrics.count("neo_database_errors_total", sqlstate=error.sqlstate[:2])
            first = next(iter(str(error).strip().splitlines()), "")
            raise Unavailable(f"{type(error).__name__}: {first}") from error
        self._metrics.worked("postgres")

    def _tell(self) -> None:
        pool = self._pool.get_stats()
        self._metrics.put("neo_database_pool_connections", pool.get("pool_size", 0))
        self._metrics.put("neo_database_pool_waiting", pool.get("requests_waiting", 0))
        self._metrics.put("neo_database_pool_refused_total", pool.get("requests_errors", 0))
