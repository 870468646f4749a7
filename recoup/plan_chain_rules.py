"""What must hold of the chains of a plan: endpoints to switch to, that nobody in between can speak for."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

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
            if (first := urls.setdefault(one.url.rstrip("/"), here)) != here:
                why = "it counts once among those that are compared"
                yield Problem(here, f"the endpoint {one.url} is there twice", why, (first,))
            if one.url.startswith("http:") and not _near(one.url):
                why = "whoever sits in between could answer for the chain"
                yield Problem(here, f"the endpoint {one.url} has no TLS: write https://", why, ())
        if len(urls) == 1 and not _near(chain.endpoints[0].url):
            why = "when it fails there is nothing to switch to, and nothing to compare it with"
            yield Problem((*at, "endpoints"), "has one endpoint only: name one more", why, ())


def _near(url: str) -> bool:
    """Say whether an address is of this machine or its own networks: a service's name, or a private address."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".internal", ".local"))
    return address.is_private or address.is_loopback
