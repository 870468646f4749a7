"""The records service: what users write. A 201 is given only after the database committed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg.types.json import Jsonb
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app.database import Database
from app.metrics import Metrics
from app.service import application, json_object
from app.settings import Settings


def build(settings: Settings) -> Starlette:
    metrics = Metrics()
    database = Database(settings, "records-service", metrics)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await database.open()
        yield
        await database.close()

    async def health(_: Request) -> JSONResponse:
        async with database.transaction() as connection:
            await connection.execute("SELECT id FROM records LIMIT 1")
        return JSONResponse({"status": "ok"})

    async def write(request: Request) -> JSONResponse:
        body = await json_object(request)
        identity = body.get("id")
        if not isinstance(identity, str) or not identity or "body" not in body:
            raise HTTPException(422, "a record has a text id and a body")
        async with database.transaction() as connection:
            cursor = await connection.execute(
                "INSERT INTO records (id, body) VALUES (%s, %s) ON CONFLICT (id) DO NOTHING",
                (identity, Jsonb(body["body"])),
            )
            created = cursor.rowcount == 1
        # Past this line the transaction is committed: leaving the block above is what commits it.
        return JSONResponse({"id": identity}, status_code=201 if created else 200)

    async def read(request: Request) -> JSONResponse:
        async with database.transaction() as connection:
            cursor = await connection.execute(
                "SELECT id, body, created_at FROM records WHERE id = %s", (request.path_params["id"],)
            )
            row = await cursor.fetchone()
        if row is None:
            raise HTTPException(404, "no such record")
        return JSONResponse({"id": row[0], "body": row[1], "created_at": row[2].isoformat()})

    async def ids(request: Request) -> JSONResponse:
        async with database.transaction() as connection:
            cursor = await connection.execute(
                "SELECT id FROM records WHERE starts_with(id, %s)", (request.query_params.get("prefix", ""),)
            )
            rows = await cursor.fetchall()
        return JSONResponse({"ids": sorted(row[0] for row in rows)})

    return application(
        [
            Route("/health", health),
            Route("/records", write, methods=["POST"]),
            Route("/records", ids),
            Route("/records/{id:path}", read),
        ],
        metrics,
        lifespan,
    )
