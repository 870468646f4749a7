"""Addresses: the same ones are known as such, and what is secret in one is not shown."""

from __future__ import annotations

import pytest

from recoup.addresses import is_address, is_near, is_open, same_place, shown

KEY = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        (f"https://node.example/v3/{KEY}", "https://node.example/v3/********"),
        (f"https://node.example/{KEY}/mainnet/", "https://node.example/********/mainnet/"),
        (f"https://node.example:443/a?key={KEY}&b=c", "https://node.example:443/a?********"),
        ("https://node.example/?secret", "https://node.example/?********"),
        ("https://user:pass@node.example:443/a", "https://********@node.example:443/a"),
        (f"https://u:p@node.example/{KEY}#{KEY}", "https://********@node.example/********#********"),
        ("https://mainnet1.neo.coz.io:443", "https://mainnet1.neo.coz.io:443"),
        ("http://neo-blockchain-nodes-in-reserve/n3/1", "http://neo-blockchain-nodes-in-reserve/n3/1"),
        ("http://[bad", "http://[bad"),
        ("", ""),
    ],
)
def test_what_is_secret_in_an_address_is_not_shown(url: str, seen: str) -> None:
    assert shown(url) == seen


@pytest.mark.parametrize(
    "url", ["https://a.example:443", "https://a.example/", "HTTPS://A.example", "https://a.example:443/"]
)
def test_one_address_is_the_same_in_whatever_way_it_is_written(url: str) -> None:
    assert same_place(url) == same_place("https://a.example")
    for other in ("http://a.example", "https://a.example:444", "https://a.example/b", "https://u@a.example"):
        assert same_place(url) != same_place(other)


@pytest.mark.parametrize("url", ["http://[bad", "http://[::1", "http://a:b:c", "http://a:99999", "http://:80", ""])
def test_what_is_no_address_is_told_without_a_traceback(url: str) -> None:
    assert not is_address(url)
    assert same_place(url) == same_place(url)
    assert isinstance(is_near(url), bool)
    assert isinstance(is_open(url), bool)
