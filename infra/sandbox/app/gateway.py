"""The API gateway: the only door users have. It talks to the microservices, to Redis and to the RPC nodes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import httpx
import jwt
import redis.asyncio
import redis.exceptions
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.door import door
from app.metrics import Metrics
from app.service import Unavailable, application, json_object
from app.settings import PATIENCE, Settings

_TOKEN_SECONDS = 3600
_CACHE_SECONDS = 30
# What the gateway needs, as Prometheus is told it: the names of the services and components.
RECORDS, ACCOUNTS, REDIS, N3, X = "records-service", "accounts-service", "redis", "neo-n3", "neo-x"


def build(settings: Settings) -> Starlette:
    metrics = Metrics()
    bases = {
        RECORDS: settings.records_url,
        ACCOUNTS: settings.accounts_url,
        N3: settings.neo_n3_rpc_url,
        X: settings.neo_x_rpc_url,
    }
    metrics.needs(*bases, REDIS)
    # The services give up after PATIENCE themselves; the margin lets their own 503 through.
    web = httpx.AsyncClient(timeout=PATIENCE + 0.5, trust_env=False)
    cache = redis.asyncio.Redis(
        host=settings.redis_host,
        port=settings.redis_port,
        password=settings.redis_password or None,
        socket_timeout=PATIENCE,
        socket_connect_timeout=PATIENCE,
        health_check_interval=1,
        decode_responses=True,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with door(settings):
            yield
        await web.aclose()
        await cache.aclose()

    async def upstream(service: str, method: str, path: str, body: object = None) -> httpx.Response:
        url = f"{bases[service]}{path}"
        try:
            answer = await (web.request(method, url, json=body) if body is not None else web.request(method, url))
        except httpx.HTTPError as error:
            metrics.failed(service, error)
            raise Unavailable(f"{url.split('?')[0]}: {type(error).__name__}") from error
        metrics.worked(service)
        return answer

    async def cached(command: Awaitable[str | None]) -> str | None:
        try:
            found = await command
        except (redis.exceptions.RedisError, OSError) as error:
            metrics.failed(REDIS, error)
            raise Unavailable(f"redis: {type(error).__name__}") from error
        metrics.worked(REDIS)
        return found

    def user(request: Request) -> str:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise HTTPException(401, "a bearer token is needed")
        try:
            return str(jwt.decode(token, settings.jwt_secret, algorithms=["HS256"])["sub"])
        except (jwt.InvalidTokenError, KeyError):
            raise HTTPException(401, "the token is not valid") from None

    async def records_health() -> str:
        try:
            answer = await upstream(RECORDS, "GET", "/health")
        except Unavailable as error:
            return str(error)
        return "ok" if answer.status_code == 200 else answer.text[:300]

    async def redis_health() -> str:
        try:
            await asyncio.wait_for(cache.ping(), PATIENCE * 1.5)
        except (redis.exceptions.RedisError, OSError, TimeoutError) as error:
            metrics.failed(REDIS, error)
            return f"{type(error).__name__}: {error}"[:300]
        metrics.worked(REDIS)
        return "ok"

    async def health(_: Request) -> JSONResponse:
        database, redis_state = await asyncio.gather(records_health(), redis_health())
        if database == redis_state == "ok":
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "unavailable", "database": database, "redis": redis_state}, status_code=503)

    async def login(request: Request) -> Response:
        body = await json_object(request)
        answer = await upstream(ACCOUNTS, "POST", "/verify", body)
        if answer.status_code != 200:
            return _passed_on(answer)
        claims = {"sub": str(body.get("username")), "exp": int(time.time()) + _TOKEN_SECONDS}
        return JSONResponse({"token": jwt.encode(claims, settings.jwt_secret, algorithm="HS256")})

    async def write(request: Request) -> Response:
        user(request)
        return _passed_on(await upstream(RECORDS, "POST", "/records", await json_object(request)))

    async def ids(request: Request) -> Response:
        user(request)
        prefix = httpx.QueryParams({"prefix": request.query_params.get("prefix", "")})
        return _passed_on(await upstream(RECORDS, "GET", f"/records?{prefix}"))

    async def read(request: Request) -> Response:
        user(request)
        return _passed_on(await upstream(RECORDS, "GET", f"/records/{request.path_params['id']}"))

    async def account(request: Request) -> Response:
        user(request)
        identity = request.path_params["id"]
        key = f"account:{identity}"
        if kept := await cached(cache.get(key)):
            return JSONResponse(json.loads(kept), headers={"X-Cache": "hit"})
        answer = await upstream(ACCOUNTS, "GET", f"/accounts/{identity}")
        if answer.status_code != 200:
            return _passed_on(answer)
        await cached(cache.set(key, answer.text, ex=_CACHE_SECONDS))
        return JSONResponse(answer.json(), headers={"X-Cache": "miss"})

    async def height(request: Request) -> Response:
        chain, method = {
            "n3": (N3, "getblockcount"),
            "x": (X, "eth_blockNumber"),
        }.get(request.path_params["chain"], ("", ""))
        if not chain:
            raise HTTPException(404, "no such chain")
        answer = await upstream(chain, "POST", "", {"jsonrpc": "2.0", "method": method, "params": [], "id": 1})
        try:
            result = answer.json()["result"]
        except (ValueError, KeyError, TypeError) as error:
            metrics.failed(chain, error)
            raise Unavailable(f"{bases[chain]} gave no height: {answer.text[:200]}") from None
        return JSONResponse({"height": int(result, 16) if isinstance(result, str) else int(result)})

    return application(
        [
            Route("/health", health),
            Route("/api/v1/login", login, methods=["POST"]),
            Route("/api/v1/records", write, methods=["POST"]),
            Route("/api/v1/records", ids),
            Route("/api/v1/records/{id:path}", read),
            Route("/api/v1/accounts/{id:int}", account),
            Route("/api/v1/chain/{chain}/height", height),
        ],
        metrics,
        lifespan,
    )


def _passed_on(answer: httpx.Response) -> Response:
    return Response(answer.content, status_code=answer.status_code, media_type="application/json")
