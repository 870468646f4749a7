"""What must hold of the chains of a plan: endpoints to switch to, that nobody in between can speak for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from recoup.addresses import is_address, is_near, is_open, same_place, shown
from recoup.plan_chain import ChainComponent
from recoup.plan_text import Place, Problem

if TYPE_CHECKING:
    from recoup.plan import Plan


def chains_can_be_switched(plan: Plan) -> Iterator[Problem]:
    """Each chain has a variable of its own, each endpoint once, one more to switch to, and TLS to those elsewhere."""
    variables: dict[str, Place] = {}
    for name, chain in plan.components.items():
        if not isinstance(chain, ChainComponent):
            continue
        at: Place = ("components", name)
        if (first := variables.setdefault(chain.variable, (*at, "variable"))) != (*at, "variable"):
            why = "one variable cannot name the endpoint of two chains"
            yield Problem((*at, "variable"), f"{chain.variable} is there twice", why, (first,))
        urls: dict[str, Place] = {}
        for n, one in enumerate(chain.endpoints):
            here: Place = (*at, "endpoints", n, "url")
            if (first := urls.setdefault(same_place(one.url), here)) != here:
                why = "it counts once among those that are compared"
                yield Problem(here, f"the endpoint {shown(one.url)} is there twice", why, (first,))
            for part, url in (("url", one.url), *((("from_host", one.from_host),) if one.from_host else ())):
                where: Place = (*at, "endpoints", n, part)
                if not is_address(url):
                    yield Problem(where, f"{shown(url)} is no address", "nobody could ask there", ())
                elif is_open(url):
                    why = "whoever sits in between could answer for the chain"
                    yield Problem(where, f"the endpoint {shown(url)} has no TLS: write https://", why, ())
        if len(urls) == 1 and not is_near(chain.endpoints[0].url):
            why = "when it fails there is nothing to switch to, and nothing to compare it with"
            yield Problem((*at, "endpoints"), "has one endpoint only: name one more", why, ())
