"""The certificate of the door users come in by: a wrong one fails, one that cannot be looked at is unproven."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

import pytest

from deployments.options import DEFAULT_PLAN
from recoup.plan import Certificates, Plan, load_plan
from recoup.records import Outcome
from tasks.checklist_access import certificates_are_valid
from tasks.checklist_found import Found
from tasks.sandbox_certificate import Authority, Issued
from tests.web import answering, serving, tls_of

CA = Authority.make("recoup tests")


def plan_of(url: str, directory: Path, days: int) -> Plan:
    plan = load_plan(DEFAULT_PLAN)
    (directory / "ca.pem").write_bytes(CA.pem)
    gateway = plan.platform.gateway.model_copy(update={"url": url, "ca": directory / "ca.pem"})
    own = {"gateway": gateway, "address": url, "certificates": Certificates(min_days=days)}
    return plan.model_copy(update={"platform": plan.platform.model_copy(update=own)})


def look(plan: Plan) -> Found:
    # The plan names the door, so that no stack is asked where it is.
    return certificates_are_valid(plan, None)  # type: ignore[arg-type]


def shown(issued: Issued, directory: Path, days: int = 14) -> Found:
    with serving(answering(lambda method, path, body, headers: (200, b"")), tls_of(issued, directory)) as port:
        return look(plan_of(f"https://127.0.0.1:{port}", directory, days))


@pytest.mark.parametrize(("days", "outcome"), [(89, Outcome.PASSED), (91, Outcome.FAILED)])
def test_the_days_that_are_left_are_held_against_the_plan(days: int, outcome: Outcome, tmp_path: Path) -> None:
    found = shown(CA.issue("127.0.0.1", lasts=timedelta(days=90, minutes=1)), tmp_path, days)
    assert (found.outcome, "90 days left" in found.seen) == (outcome, True)


@pytest.mark.parametrize(
    ("issued", "told"),
    [
        (CA.issue("127.0.0.1", lasts=timedelta(hours=-1)), "certificate expired"),
        (CA.issue("api.example.com"), "certificate of another host"),
        (Authority.make("somebody else").issue("127.0.0.1"), "certificate of an unknown issuer"),
    ],
)
def test_a_certificate_that_is_wrong_fails_by_what_is_wrong(issued: Issued, told: str, tmp_path: Path) -> None:
    found = shown(issued, tmp_path)
    assert found.outcome is Outcome.FAILED
    assert told in found.seen


def test_a_door_that_does_not_answer_is_unproven(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        found = look(plan_of(f"https://127.0.0.1:{closed.getsockname()[1]}", tmp_path, 14))
    assert found.outcome is Outcome.UNPROVEN
    assert "connection refused" in found.seen


def test_a_platform_without_https_is_unproven(tmp_path: Path) -> None:
    assert look(plan_of("http://127.0.0.1:1", tmp_path, 14)).outcome is Outcome.UNPROVEN
