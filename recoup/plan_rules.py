"""What must hold between the parts of a plan: a list of small pure functions, each giving what breaks its rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from recoup.plan_text import Problem

if TYPE_CHECKING:
    from recoup.plan import Plan

Rule = Callable[["Plan"], Iterator[Problem]]

RULES: tuple[Rule, ...] = ()


def broken(plan: Plan) -> list[Problem]:
    """Give everything in the plan that breaks a rule, each with its place, the rule and why it is there."""
    return [problem for rule in RULES for problem in rule(plan)]
