"""The accounts service: who may log in, and the accounts themselves."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
    database = Database(settings, "accounts-service", metrics)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await database.open()
        yield
        await database.close()

    async def health(_: Request) -> JSONResponse:
        async with database.transaction() as connection:
            await connection.execute("SELECT id FROM accounts LIMIT 1")
        return JSONResponse({"status": "ok"})

    async def verify(request: Request) -> JSONResponse:
        """Say whether the password is right and the user is in the database; only the smoke user has a password."""
        body = await json_object(request)
        username, password = str(body.get("username", "")), str(body.get("password", ""))
        async with database.transaction() as connection:
            cursor = await connection.execute("SELECT id FROM users WHERE username = %s AND active", (username,))
            row = await cursor.fetchone()
        known = row is not None and username == settings.smoke_user and settings.smoke_password != ""
        if not known or not hmac.compare_digest(password.encode(), settings.smoke_password.encode()):
            raise HTTPException(401, "wrong user or password")
        return JSONResponse({"user_id": row[0] if row else None})

    async def read(request: Request) -> JSONResponse:
        async with database.transaction() as connection:
            cursor = await connection.execute(
                "SELECT id, user_id, address, balance, attributes FROM accounts WHERE id = %s",
                (request.path_params["id"],),
            )
            row = await cursor.fetchone()
        if row is None:
            raise HTTPException(404, "no such account")
        return JSONResponse(
            {"id": row[0], "user_id": row[1], "address": row[2], "balance": str(row[3]), "attributes": row[4]}
        )

    return application(
        [
            Route("/health", health),
            Route("/verify", verify, methods=["POST"]),
            Route("/accounts/{id:int}", read),
        ],
        metrics,
        lifespan,
    )
