"""The user-level check: the plan's requests, made through the gateway as a user would."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

import httpx

from recoup.errors import PreconditionError
from recoup.plan import Gateway, Plan
from recoup.records import Check, Frozen, Outcome, Subject, now
from recoup.secrets import resolve
from recoup.stacks import Stack
from tasks.health import trusting
from tasks.smoke_requests import json_object, make_all
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
        """Give the plan's gateway URL, or the address the stack gives for it.

        Raises PreconditionError, or RecoveryError from the stack, when there is none.
        """
        gateway = plan.platform.gateway
        if gateway.url:
            return cls(gateway.url.rstrip("/"), gateway)
        host, port = stack.endpoint(plan.service(gateway.component), gateway.port)
        return cls(f"http://{host}:{port}", gateway)

    @classmethod
    def at(cls, url: str, plan: Plan) -> Door:
        """Give the door at another address, asked by the same plan; PreconditionError when it is no http address."""
        if not url.startswith(("http://", "https://")):
            raise PreconditionError(f"{url!r} is no address", next_step="write it as https://host or http://host:port")
        return cls(url.rstrip("/"), plan.platform.gateway)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=TIMEOUT, verify=self.trust(), trust_env=False)

    def trust(self) -> ssl.SSLContext | bool:
        """Give what the gateway's certificate is verified with; PreconditionError when its CA cannot be read."""
        verified = self.gateway.verify_tls and self.url.startswith("https:")
        return trusting(self.gateway.ca) if verified else False

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
        token = json_object(answer).get(login.token_field)
        if not isinstance(token, str) or not token:
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
    """Make each of the plan's requests once and give a check for each, in the plan's order."""
    with door.client() as client:
        return make_all(client, door.gateway.requests, door.login, f"recoup-{uuid4().hex[:12]}")


def _no_requests() -> Check:
    return Check(
        name="gateway", subject=Subject.USER, outcome=Outcome.UNPROVEN, seen="the plan names no request to make"
    )
