"""Whether somebody watches: what was away is looked at again once Prometheus has asked it anew, and not for ever."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest

from deployments.options import DEFAULT_PLAN
from recoup.plan import Monitoring, load_plan
from recoup.records import Outcome
from tasks import checklist_monitoring
from tasks.checklist_found import Found
from tests.web import answering, serving

NEVER, THEN, LATER = "0001-01-01T00:00:00Z", "2026-11-25T13:38:36.23565126Z", "2026-11-25T13:38:38.23565126Z"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checklist_monitoring, "SCRAPED", timedelta(seconds=1.5))


def target(health: str, scraped: str, name: str = "gateway") -> dict[str, str]:
    error = "connection refused" if health == "down" else ""
    return {"scrapeUrl": f"http://{name}/metrics", "health": health, "lastError": error, "lastScrape": scraped}


def look(url: str) -> Found:
    plan = load_plan(DEFAULT_PLAN)
    platform = plan.platform.model_copy(update={"monitoring": Monitoring(prometheus=url)})
    # Prometheus is asked, and no stack.
    return checklist_monitoring.monitoring_is_active(plan.model_copy(update={"platform": platform}), None)  # type: ignore[arg-type]


def told(*answers: Sequence[dict[str, str]]) -> Found:
    """Give what is found where these are the targets, answer by answer; the last one stays."""
    left: Iterator[Sequence[dict[str, str]]] = iter(answers)
    current: Sequence[dict[str, str]] = ()

    def reply(method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        nonlocal current
        current = next(left, current)
        return 200, json.dumps({"status": "success", "data": {"activeTargets": current}}).encode()

    with serving(answering(reply)) as port:
        return look(f"http://127.0.0.1:{port}")


def test_what_was_down_when_it_was_asked_last_may_have_come_back() -> None:
    found = told([target("down", THEN)], [target("down", THEN)], [target("up", LATER)])
    assert found == Found(Outcome.PASSED, "Prometheus answers; 1 targets are up")


def test_what_is_down_when_it_is_asked_anew_fails_though_others_are_up() -> None:
    others = target("up", THEN, "records")
    found = told([others, target("down", THEN)], [others, target("down", LATER)], [others, target("up", LATER)])
    assert found == Found(Outcome.FAILED, "http://gateway/metrics is down: connection refused")


def test_what_stays_down_without_being_asked_anew_fails() -> None:
    assert told([target("down", THEN)]).outcome is Outcome.FAILED


def test_one_that_has_just_begun_is_given_time_to_ask() -> None:
    assert told([], [target("unknown", NEVER)], [target("up", LATER)]).outcome is Outcome.PASSED


def test_what_was_never_asked_is_unproven_and_nothing_to_ask_is_a_failure() -> None:
    found = told([target("up", THEN, "records"), target("unknown", NEVER)])
    assert found == Found(Outcome.UNPROVEN, "http://gateway/metrics has not been scraped yet")
    assert told([]).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("status", "body", "seen"),
    [
        (503, b"", "answered with status 503"),
        (200, b"<html>", "is no Prometheus"),
        (200, b"[]", "is no Prometheus"),
        (200, b'{"data": {"activeTargets": [1]}}', "is no Prometheus"),
    ],
)
def test_what_is_no_prometheus_fails(status: int, body: bytes, seen: str) -> None:
    with serving(answering(lambda *_: (status, body))) as port:
        found = look(f"http://127.0.0.1:{port}")
    assert (found.outcome, seen in found.seen) == (Outcome.FAILED, True)


def test_a_prometheus_that_is_away_fails() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        found = look(f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert (found.outcome, "connection refused" in found.seen) == (Outcome.FAILED, True)
