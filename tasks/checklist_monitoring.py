"""Checklist: whether Prometheus watches, and reaches all that it is told to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

import httpx

from recoup.plan import Plan
from recoup.stacks import Stack
from tasks.checklist_found import PATIENCE, Found, failed, passed, together, unproven
from tasks.health import told

# One that has just been started knows its targets after 5 s, and has asked them an interval later; a target that has
# just come back is down until it is asked again. Shorter than what a recovery gives the checklist.
SCRAPED = timedelta(seconds=8)


@dataclass(frozen=True)
class Target:
    """What Prometheus says of one target; ``scraped`` is when it was asked last, in its own words."""

    url: str
    health: str
    error: str
    scraped: str


def monitoring_is_active(plan: Plan, stack: Stack) -> Found:
    """Prometheus answers, and every target it scrapes is up: what was not is looked at again when it was asked anew."""
    if plan.platform.monitoring is None:
        return unproven("the plan names no Prometheus (platform.monitoring)")
    url = plan.platform.monitoring.prometheus.rstrip("/")
    end = time.monotonic() + SCRAPED.total_seconds()
    before: dict[str, str] = {}
    while True:
        targets = _targets(url)
        if isinstance(targets, Found):
            return targets
        # What does not say when it was asked is believed as it is.
        away = [one for one in targets if one.health != "up" and one.scraped]
        old = [one for one in away if before.setdefault(one.url, one.scraped) == one.scraped]
        if (targets and not old) or time.monotonic() > end:
            return _judged(url, targets)
        time.sleep(0.25)


def _targets(url: str) -> tuple[Target, ...] | Found:
    """Give the targets, or what is wrong with the one that was asked for them."""
    try:
        answer = httpx.get(
            f"{url}/api/v1/targets", params={"state": "active"}, timeout=PATIENCE.total_seconds(), trust_env=False
        )
        answer.raise_for_status()
        return tuple(
            Target(
                str(one["scrapeUrl"]), str(one["health"]), str(one.get("lastError", "")), str(one.get("lastScrape", ""))
            )
            for one in answer.json()["data"]["activeTargets"]
        )
    except httpx.HTTPStatusError as error:
        return failed(f"{url} answered with status {error.response.status_code}")
    except httpx.HTTPError as error:
        kind, detail = told(error)
        return failed(f"{url}: {kind} {detail}".strip())
    except (ValueError, KeyError, TypeError, AttributeError):
        return failed(f"{url} is no Prometheus: what it answers is not a list of targets")


def _judged(url: str, targets: tuple[Target, ...]) -> Found:
    if not targets:
        return failed(f"{url} scrapes nothing")
    down = [failed(f"{one.url} is {one.health}: {one.error}") for one in targets if one.health == "down"]
    unknown = [unproven(f"{one.url} has not been scraped yet") for one in targets if one.health == "unknown"]
    return together((*down, *unknown, passed(f"Prometheus answers; {len(targets)} targets are up")), "")
