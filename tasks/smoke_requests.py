"""One round of the plan's requests: independent ones at the same time, the others after what they wait for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta

import httpx

from recoup.clock import human
from recoup.plan import Request
from recoup.records import Check, Outcome, Subject

WORKERS = 4
_READING = ("GET", "HEAD")
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "number": (int, float),
    "integer": (int,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


def make_all(
    client: httpx.Client, requests: Sequence[Request], login: Callable[[httpx.Client], str], unique: str
) -> tuple[Check, ...]:
    """Make each request once and give a check for each, in the plan's order.

    A request whose predecessor did not pass is not made, and so unproven. Raises what ``login`` raises, but for
    httpx.HTTPError, which fails the requests that need it.
    """
    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        token = pool.submit(login, client) if any(request.login for request in requests) else None
        round_ = _Round(client, token, unique)
        made: list[Future[Check]] = []
        for number, request in enumerate(requests):
            # Submitted in the plan's order: whatever one waits for has begun before it.
            before = [(requests[earlier].name, made[earlier]) for earlier in waits_for(requests, number)]
            made.append(pool.submit(round_.make, request, before))
        return tuple(one.result() for one in made)


def waits_for(requests: Sequence[Request], number: int) -> tuple[int, ...]:
    """Give which earlier requests one waits for: those it names, else all that write and all of the same path."""
    request = requests[number]
    earlier = enumerate(requests[:number])
    if request.after is not None:
        return tuple(n for n, one in earlier if one.name in request.after)
    return tuple(n for n, one in earlier if one.method not in _READING or one.path == request.path)


def misshapen(shape: dict[str, str], found: dict[str, object]) -> str:
    """Say what in an answer is not of the type it should be; empty when all is."""
    wrong = [f"{key} is no {kind}" for key, kind in shape.items() if not _is(found.get(key), kind, key in found)]
    return ", ".join(wrong)


@dataclass(frozen=True)
class _Round:
    client: httpx.Client
    token: Future[str] | None
    unique: str

    def make(self, request: Request, before: list[tuple[str, Future[Check]]]) -> Check:
        for name, earlier in before:
            if earlier.result().outcome is not Outcome.PASSED:
                return _result(request, Outcome.UNPROVEN, f"not made: {name} did not pass")
        try:
            return self._make(request)
        except httpx.HTTPError as error:
            return _result(request, Outcome.FAILED, words(error))

    def _make(self, request: Request) -> Check:
        token = self.token.result() if self.token and request.login else ""
        body = {k: v.replace("{unique}", self.unique) for k, v in request.body.items()} if request.body else None
        began = time.monotonic()
        answer = self.client.request(
            request.method,
            request.path.replace("{unique}", self.unique),
            json=body,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=request.timeout.total_seconds(),
        )
        took = timedelta(seconds=time.monotonic() - began)
        if answer.status_code != request.status:
            return _result(request, Outcome.FAILED, f"status {answer.status_code}: {answer.text[:200]}")
        found = json_object(answer)
        absent = [key for key in request.contains if key not in found]
        if absent:
            return _result(request, Outcome.FAILED, f"the answer lacks {', '.join(absent)}")
        if request.shape and (wrong := misshapen(dict(request.shape), found)):
            return _result(request, Outcome.FAILED, f"the answer has another shape: {wrong}")
        if request.within is not None and took > request.within:
            late = f"answered after {human(took)}, at most {human(request.within)}"
            return _result(request, Outcome.FAILED, late)
        return _result(request, Outcome.PASSED, f"status {answer.status_code} in {human(took)}")


def json_object(answer: httpx.Response) -> dict[str, object]:
    """Give an answer's JSON object; empty when it is none."""
    try:
        found = answer.json()
    except ValueError:
        return {}
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def words(error: httpx.HTTPError) -> str:
    """Give what an error of a request or of the login means."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"login gave status {error.response.status_code}"
    return f"{type(error).__name__}: {error}"


def _result(request: Request, outcome: Outcome, seen: str) -> Check:
    expected = f"{request.method} {request.path} gives {request.status}"
    return Check(name=f"gateway: {request.name}", subject=Subject.USER, outcome=outcome, expected=expected, seen=seen)


def _is(value: object, kind: str, there: bool) -> bool:
    if isinstance(value, bool) and kind != "boolean":
        return False
    return there and isinstance(value, _TYPES[kind])
