"""What a node answers is read strictly: quantities, hashes, objects, and the envelope of JSON-RPC."""

from __future__ import annotations

import json

import pytest

from tasks.rpc import Json, RpcError, Trouble, _result, data, member, number, text

HASH = "0x" + "aB" * 32


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (6_900_000, 6_900_000),
        (2**256 - 1, 2**256 - 1),
        ("0x0", 0),
        ("0xBa93", 47763),
        ("0x" + "f" * 64, 2**256 - 1),
    ],
)
def test_quantities(value: Json, expected: int) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        -1,
        2**256,
        10**400,
        1.0,
        True,
        False,
        None,
        "",
        "0x",
        "20",
        "-0x1",
        "0x-1",
        "0x+1",
        "0x1_0",
        "0x 1",
        "0x1 ",
        "0X1",
        "0xg",
        "0x" + "f" * 65,
        "0x١",
        [1],
        {"a": 1},
    ],
)
def test_what_is_no_quantity(value: Json) -> None:
    assert number(value) is None


def test_a_hash_has_its_length_and_is_given_in_lower_case() -> None:
    assert text(HASH, 32) == HASH.lower()
    wrong: list[Json] = [
        HASH[:-1],
        HASH + "0",
        HASH[2:],
        "0x" + "g" * 64,
        "0X" + "a" * 64,
        None,
        1,
        [HASH],
        "0x" + "١" * 64,
    ]
    assert all(text(value, 32) is None for value in wrong)
    assert (data("0x"), data("0xAB"), data("0xABC"), data("ab"), data(1)) == ("0x", "0xab", None, None, None)


def test_a_member_is_found_through_objects_alone() -> None:
    found: Json = {"protocol": {"network": 7}, "list": [1], "none": None}
    assert member(found, "protocol", "network") == 7
    assert member(found) == found
    for names in (("protocol", "x"), ("x", "network"), ("list", "0"), ("none", "x"), ("protocol", "network", "x")):
        assert member(found, *names) is None
    assert member("text", "x") is None


def refused(raw: bytes, status: int = 200) -> RpcError:
    with pytest.raises(RpcError) as caught:
        _result("http://node", "getversion", status, raw)
    return caught.value


def test_the_result_is_taken_from_its_envelope() -> None:
    results: tuple[Json, ...] = (None, False, 0, "", [], {})
    for result in results:
        assert _result("http://node", "m", 200, json.dumps({"id": 1, "result": result}).encode()) == result
    # Some nodes send an error of null with every result.
    assert _result("http://node", "m", 200, b'{"id":1,"error":null,"result":7}') == 7


@pytest.mark.parametrize(
    ("raw", "status", "trouble", "said"),
    [
        (b"", 200, Trouble.NOT_JSON, "getversion is answered with status 200 and no JSON"),
        (b"", 503, Trouble.STATUS, "getversion is answered with status 503 and no JSON"),
        (b"slow down", 429, Trouble.RATE_LIMITED, "getversion is answered with status 429: too many requests"),
        (b"\xff\xfe\xfd", 200, Trouble.NOT_JSON, "no JSON"),
        (b"[" * 100_000, 200, Trouble.NOT_JSON, "no JSON: [["),
        (b'{"id":1,"result":NaN}', 200, Trouble.NOT_JSON, "no JSON"),
        (b'{"id":1,"result":' + b"9" * 5000 + b"}", 200, Trouble.NOT_JSON, "no JSON"),
        (b'{"id":1,"result":{"a":1,"a":2}}', 200, Trouble.NOT_JSON, "has 'a' twice"),
        (b'{"id":2,"result":1}', 200, Trouble.NOT_RPC, "no answer of JSON-RPC"),
        (b'{"id":1}', 200, Trouble.NOT_RPC, "no answer of JSON-RPC"),
        (b'[{"id":1,"result":1}]', 200, Trouble.NOT_RPC, "no answer of JSON-RPC"),
        (b'"text"', 200, Trouble.NOT_RPC, "no answer of JSON-RPC"),
        (b'{"id":1,"result":1}', 500, Trouble.STATUS, "status 500"),
        (b'{"id":1,"error":{"code":-32601,"message":"no"}}', 404, Trouble.ERROR, "answered with error -32601: no"),
        (b'{"id":null,"error":{"code":-32005,"message":"limit"}}', 200, Trouble.RATE_LIMITED, "error -32005: limit"),
        (b'{"id":1,"error":"down"}', 200, Trouble.ERROR, "error None: down"),
        (b'{"id":1,"error":{"code":[1],"message":{"a":1}}}', 200, Trouble.ERROR, "error [1]: {'a': 1}"),
    ],
)
def test_everything_else_has_its_name(raw: bytes, status: int, trouble: Trouble, said: str) -> None:
    error = refused(raw, status)
    assert (error.trouble, error.state) == (trouble, "nothing was changed")
    assert said in error.said
    assert len(error.said) < 250


def test_what_a_node_says_changes_no_terminal_and_can_be_written_down() -> None:
    wild = "\\u001b[2J \\ud800 two\\nlines \\u202e " + "x" * 1000
    for raw in (f'{{"id":1,"error":{{"code":"{wild}","message":"{wild}"}}}}', json.loads(f'"{wild}"')):
        said = refused(raw.encode(errors="surrogatepass")).said
        assert said.isprintable()
        assert said.encode()
        assert "two lines" in said
        assert len(said) < 350


def test_a_key_that_is_there_twice_among_very_many_is_found_at_once() -> None:
    # Looked for pair by pair, this one would be sought for an hour.
    names = ",".join(f'"{n}":1' for n in range(250_000))
    assert "'249999' twice" in refused(f'{{"id":1,{names},"249999":2}}'.encode()).said
