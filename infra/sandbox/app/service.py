"""What every role shares: the Starlette application with its error answers, and JSON bodies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from json import JSONDecodeError

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app.metrics import OWN, Metrics

JsonObject = dict[str, object]


class Unavailable(Exception):
    """Something this role needs did not answer in time; the user is told 503."""


def application(
    routes: Sequence[Route],
    metrics: Metrics,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
) -> Starlette:
    """Give an application in which every failure is JSON with an ``error`` key, and which tells its metrics."""
    return Starlette(
        routes=[Route(OWN, metrics.tell), *routes],
        middleware=[Middleware(metrics.watching)],
        lifespan=lifespan,
        exception_handlers={Unavailable: _unavailable, HTTPException: _refused},
    )


async def json_object(request: Request) -> JsonObject:
    """Give the request's JSON object; 422 when it is none."""
    try:
        body = await request.json()
    except (JSONDecodeError, UnicodeDecodeError):
        raise HTTPException(422, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(422, "the body is not a JSON object")
    return body


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "unavailable", "detail": str(error)}, status_code=503)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code)
