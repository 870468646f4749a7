"""The plan's requests: which wait for which, what an answer must look like, and what is not made at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest

from recoup.errors import PreconditionError
from recoup.plan import Request
from recoup.records import Check, Outcome
from tasks.smoke_requests import make_all, misshapen, waits_for


def get(name: str, path: str = "", **more: object) -> Request:
    return Request.model_validate({"name": name, "method": "GET", "path": path or f"/{name}", **more})


def post(name: str) -> Request:
    return get(name).model_copy(update={"method": "POST"})


def make(requests: list[Request], answer: Callable[[httpx.Request], httpx.Response]) -> list[Check]:
    client = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://gateway")
    return list(make_all(client, requests, lambda _: "token", "unique-1"))


def outcomes(checks: list[Check]) -> list[Outcome]:
    return [check.outcome for check in checks]


def ok(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"height": 7, "name": "n3"})


@pytest.mark.parametrize(
    ("requests", "waits"),
    [
        ([get("a"), get("b")], ()),
        ([post("write"), get("read")], (0,)),
        ([get("a"), post("write")], ()),
        ([get("a", "/x"), get("again", "/x")], (0,)),
        ([post("write"), get("b", after=[])], ()),
        ([get("a"), get("b"), get("c", after=["a"])], (0,)),
    ],
)
def test_what_the_last_request_waits_for(requests: list[Request], waits: tuple[int, ...]) -> None:
    assert waits_for(requests, len(requests) - 1) == waits


def test_independent_requests_are_made_at_the_same_time() -> None:
    meet = threading.Barrier(2, timeout=10)

    def answer(request: httpx.Request) -> httpx.Response:
        meet.wait()
        return ok(request)

    assert outcomes(make([get("a"), get("b")], answer)) == [Outcome.PASSED, Outcome.PASSED]


def test_what_waits_is_made_after_and_sees_the_same_unique_id() -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            time.sleep(0.05)
        seen.append(f"{request.method} {request.url.path} {request.headers.get('authorization', '')}".strip())
        return ok(request)

    make([post("write"), get("read", "/records/{unique}", login=True)], answer)
    assert seen == ["POST /write", "GET /records/unique-1 Bearer token"]


def test_what_waits_for_a_failed_request_is_not_made_and_unproven() -> None:
    made: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        made.append(request.url.path)
        return httpx.Response(500 if request.url.path == "/write" else 200, text="no")

    checks = make([post("write"), get("read"), get("free", after=[])], answer)
    assert outcomes(checks) == [Outcome.FAILED, Outcome.UNPROVEN, Outcome.PASSED]
    assert checks[1].seen == "not made: write did not pass"
    assert "/read" not in made


def test_a_lasting_answer_fails_by_its_bound() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        time.sleep(0.02)
        return ok(request)

    bound = get("a").model_copy(update={"within": timedelta(milliseconds=1)})
    (late,) = make([bound], answer)
    assert late.outcome is Outcome.FAILED
    assert "at most 1 ms" in late.seen
    assert outcomes(make([bound.model_copy(update={"within": timedelta(minutes=1)})], answer)) == [Outcome.PASSED]


@pytest.mark.parametrize(
    ("shape", "wrong"),
    [
        ({"height": "integer", "name": "string"}, ""),
        ({"height": "number"}, ""),
        ({"height": "string"}, "height is no string"),
        ({"absent": "null"}, "absent is no null"),
        ({"up": "boolean", "list": "array", "inner": "object", "none": "null"}, ""),
        ({"up": "integer"}, "up is no integer"),
    ],
)
def test_the_shape_of_an_answer(shape: dict[str, str], wrong: str) -> None:
    answer = {"height": 7, "name": "n3", "up": True, "list": [], "inner": {}, "none": None}
    assert misshapen(shape, answer) == wrong


def test_an_answer_of_another_shape_fails() -> None:
    (check,) = make([get("a", shape={"height": "string"})], ok)
    assert (check.outcome, check.seen) == (Outcome.FAILED, "the answer has another shape: height is no string")


def test_a_login_that_is_refused_fails_those_who_need_it_alone() -> None:
    def refused(_: httpx.Client) -> str:
        raise httpx.DecodingError("the login answered without token")

    client = httpx.Client(transport=httpx.MockTransport(ok), base_url="http://gateway")
    checks = make_all(client, [get("open"), get("closed", login=True)], refused, "u")
    assert outcomes(list(checks)) == [Outcome.PASSED, Outcome.FAILED]


def test_a_plan_without_login_is_told_and_not_a_failed_check() -> None:
    def none(_: httpx.Client) -> str:
        raise PreconditionError("the plan's gateway has no login")

    client = httpx.Client(transport=httpx.MockTransport(ok), base_url="http://gateway")
    with pytest.raises(PreconditionError, match="has no login"):
        make_all(client, [get("closed", login=True)], none, "u")
