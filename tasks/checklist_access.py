"""Checklist: whether users get in and others do not, what the API answers, and the certificates."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from recoup.plan import Plan
from recoup.records import Outcome, now
from recoup.secrets import resolve
from recoup.stacks import Stack
from tasks.checklist_found import PATIENCE, Found, failed, passed, together, unproven
from tasks.health import Answer, told, trusting
from tasks.smoke import Door, round_of_requests
from tasks.smoke_requests import words

_REFUSED = (401, 403)
_OF_TLS = (Answer.EXPIRED, Answer.OTHER_HOST, Answer.UNKNOWN_ISSUER, Answer.TLS)


def authentication_works(plan: Plan, stack: Stack) -> Found:
    """A good login gets in, a bad one does not, and a protected path is refused to who has none."""
    door = Door.of(plan, stack)
    login = door.gateway.login
    if login is None:
        return unproven("the plan's gateway has no login")
    username = resolve(login.username).get_secret_value()
    resolve(login.password)
    protected = next((one for one in door.gateway.requests if one.login and one.method == "GET"), None)
    try:
        with door.client() as client:
            door.login(client)
            bad = client.post(login.path, json={"username": username, "password": uuid4().hex})
            if bad.status_code not in _REFUSED:
                return failed(f"a login with a wrong password gave status {bad.status_code}")
            if protected is None:
                return unproven("login works; no request of the plan needs one, so nothing protected is known")
            path = protected.path.replace("{unique}", uuid4().hex)
            without = client.get(path)
            if without.status_code not in _REFUSED:
                return failed(f"GET {path} without a login gave status {without.status_code}")
    except httpx.HTTPError as error:
        return failed(words(error))
    return passed("a good login got in, a wrong password and a request without token were refused")


def endpoints_answer(plan: Plan, stack: Stack) -> Found:
    """The plan's requests, made as a user would, all pass."""
    checks = round_of_requests(Door.of(plan, stack))
    bad = [check for check in checks if check.outcome is not Outcome.PASSED]
    if not bad:
        return passed(f"{len(checks)} requests passed") if checks else unproven("the plan names no request to make")
    return failed(f"{len(bad)} of {len(checks)} requests did not pass; {bad[0].name}: {bad[0].seen}")


def certificates_are_valid(plan: Plan, stack: Stack) -> Found:
    """Each https address users come in by has a trusted certificate of its name, for long enough still."""
    named = (Door.of(plan, stack).url, plan.platform.address or "")
    addresses = dict.fromkeys(url for url in named if url.startswith("https:"))
    trust = trusting(plan.platform.gateway.ca)
    least = plan.platform.certificates.min_days
    return together((_certificate(url, trust, least) for url in addresses), "no address of the platform is https")


def _certificate(url: str, trust: ssl.SSLContext, least: int) -> Found:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    try:
        with (
            socket.create_connection((host, port), PATIENCE.total_seconds()) as plain,
            trust.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            ends = (wrapped.getpeercert() or {}).get("notAfter")
    except OSError as error:
        kind, detail = told(error)
        seen = f"{host}:{port}: {kind} {detail}".strip()
        return failed(seen) if kind in _OF_TLS else unproven(seen)
    if not isinstance(ends, str):
        return unproven(f"{host}:{port} does not say how long its certificate is valid")
    left = datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC) - now()
    seen = f"{host}:{port}: chain and name are right, {left.days} days left"
    return passed(seen) if left >= timedelta(days=least) else failed(f"{seen}, fewer than {least}")
