"""The user-level check: the plan's requests, made through the gateway as a user would."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

import httpx

from recoup.errors import PreconditionError
from recoup.plan import Gateway, Plan, Request
from recoup.records import Check, Frozen, Outcome, Subject, now
from recoup.secrets import resolve
from recoup.stacks import Stack
from tasks.step import note, step

TIMEOUT = httpx.Timeout(5.0)


class UserCheck(Frozen):
    """What a user saw; ``restored`` is the moment the last request passed, None unless all did."""

    checks: tuple[Check, ...]
    restored: datetime | None

    def __str__(self) -> str:
        failed = [check for check in self.checks if check.outcome is not Outcome.PASSED]
        return f"{failed[0].name}: {failed[0].seen}" if failed else f"{len(self.checks)} requests passed"


@dataclass(frozen=True)
class Door:
    """The gateway as a user reaches it."""

    url: str
    gateway: Gateway

    @classmethod
    def of(cls, plan: Plan, stack: Stack) -> Door:
        """Give the plan's gateway URL, or the address the stack gives for it."""
        gateway = plan.platform.gateway
        if gateway.url:
            return cls(gateway.url.rstrip("/"), gateway)
        host, port = stack.endpoint(plan.service(gateway.component), gateway.port)
        return cls(f"http://{host}:{port}", gateway)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=TIMEOUT, verify=self.gateway.verify_tls, trust_env=False)

    def login(self, client: httpx.Client) -> str:
        """Give a token; raises httpx.HTTPError when the gateway refuses or does not answer."""
        login = self.gateway.login
        if login is None:
            raise PreconditionError(
                "a request needs a login and the plan's gateway has none",
                next_step="add platform.gateway.login to the plan",
            )
        body = {
            "username": resolve(login.username).get_secret_value(),
            "password": resolve(login.password).get_secret_value(),
        }
        answer = client.post(login.path, json=body)
        answer.raise_for_status()
        token = _json(answer).get(login.token_field, "")
        if not token:
            raise httpx.DecodingError(f"the login answered without {login.token_field}")
        return token


@step(timeout=timedelta(minutes=5))
def check_as_user(plan: Plan, stack: Stack, deadline: timedelta) -> UserCheck:
    """Make the plan's requests through the gateway until all pass or the deadline is up; gives the last round.

    Failures are checks, not errors: a gateway that does not answer is what is to be found out.
    """
    end = time.monotonic() + deadline.total_seconds()
    pause = 0.1
    while True:
        # The stack may give the gateway another address after a restart.
        seen = round_of_requests(Door.of(plan, stack))
        if all(check.outcome is Outcome.PASSED for check in seen) and seen:
            return UserCheck(checks=seen, restored=now())
        if time.monotonic() > end or not seen:
            return UserCheck(checks=seen or (_no_requests(),), restored=None)
        failed = next(check for check in seen if check.outcome is not Outcome.PASSED)
        note(f"not yet: {failed.name}: {failed.seen}")
        time.sleep(pause)
        pause = min(pause * 1.5, 2.0)


def round_of_requests(door: Door) -> tuple[Check, ...]:
    """Make each of the plan's requests once, in order, ending at the first that fails; gives a check for each."""
    unique = f"recoup-{uuid4().hex[:12]}"
    checks: list[Check] = []
    token = ""
    with door.client() as client:
        for request in door.gateway.requests:
            try:
                if request.login and not token:
                    token = door.login(client)
                check = _make(client, request, token, unique)
            except httpx.HTTPError as error:
                check = _result(request, Outcome.FAILED, _words(error))
            checks.append(check)
            if check.outcome is Outcome.FAILED:
                break
    return tuple(checks)


def _make(client: httpx.Client, request: Request, token: str, unique: str) -> Check:
    body = {k: v.replace("{unique}", unique) for k, v in request.body.items()} if request.body else None
    answer = client.request(
        request.method,
        request.path.replace("{unique}", unique),
        json=body,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=request.timeout.total_seconds(),
    )
    if answer.status_code != request.status:
        return _result(request, Outcome.FAILED, f"status {answer.status_code}: {answer.text[:200]}")
    absent = [key for key in request.contains if key not in _json(answer)]
    if absent:
        return _result(request, Outcome.FAILED, f"the answer lacks {', '.join(absent)}")
    return _result(request, Outcome.PASSED, f"status {answer.status_code}")


def _result(request: Request, outcome: Outcome, seen: str) -> Check:
    expected = f"{request.method} {request.path} gives {request.status}"
    return Check(name=f"gateway: {request.name}", subject=Subject.USER, outcome=outcome, expected=expected, seen=seen)


def _no_requests() -> Check:
    return Check(
        name="gateway", subject=Subject.USER, outcome=Outcome.UNPROVEN, seen="the plan names no request to make"
    )


def _json(answer: httpx.Response) -> dict[str, str]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _words(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"login gave status {error.response.status_code}"
    return f"{type(error).__name__}: {error}"
