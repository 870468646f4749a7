"""Addresses of RPC endpoints: which are the same, which are near, and how they are shown, for a key may be in them."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
_HIDDEN = "********"
# Providers give keys of 32 characters and more as a part of the path, names are shorter or have points in them.
_KEYS = (
    (re.compile(r"//[^/@\s]*@"), f"//{_HIDDEN}@"),
    (re.compile(r"([?#]).*", re.DOTALL), rf"\1{_HIDDEN}"),
    (re.compile(r"(?<=[^/]/)[A-Za-z0-9_~=-]{24,}(?=/|\?|#|$)"), _HIDDEN),
)


def shown(url: str) -> str:
    """Give an address as people and records may see it: a key, a password and a query as asterisks."""
    for pattern, instead in _KEYS:
        url = pattern.sub(instead, url)
    return url


def same_place(url: str) -> str:
    """Give one text for all the ways to write an address; what is no address is itself."""
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return url
    user, at, _ = parts.netloc.rpartition("@")
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{user}{at}{parts.hostname}:{port}{parts.path.rstrip('/')}{query}"


def is_address(url: str) -> bool:
    """Say whether an address can be called at all."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def is_open(url: str) -> bool:
    """Say whether somebody in between could answer for an address: it has no TLS, and is elsewhere."""
    return url.lower().startswith("http:") and not is_near(url)


def is_near(url: str) -> bool:
    """Say whether an address is of this machine or its own networks: a service's name, or a private address."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".internal", ".local"))
    return address.is_private or address.is_loopback
