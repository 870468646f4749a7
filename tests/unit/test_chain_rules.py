"""Chains of a plan: somewhere to switch to, nobody in between, one variable each."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from recoup.plan import load_plan
from tests.unit.test_plan_rules import GOOD, Data, problems

A, B = "https://node-1.example.com:443", "https://node-2.example.com:443"
N3 = "components.neo-n3"


def with_endpoints(*urls: str, **more: object) -> Data:
    data = copy.deepcopy(GOOD)
    data["components"]["neo-n3"] |= {"endpoints": [{"url": url} for url in urls], **more}
    return data


@pytest.mark.parametrize(
    ("data", "place", "rule"),
    [
        (with_endpoints(A), f"{N3}.endpoints", "has one endpoint only"),
        (with_endpoints(A, B, A + "/"), f"{N3}.endpoints[2].url", f"the endpoint {A}/ is there twice"),
        (with_endpoints(A, B, "https://NODE-1.example.com"), f"{N3}.endpoints[2].url", "is there twice"),
        (with_endpoints(A, "https://[bad"), f"{N3}.endpoints[1].url", "https://[bad is no address"),
        (with_endpoints(A, "http://[bad"), f"{N3}.endpoints[1].url", "http://[bad is no address"),
        (with_endpoints(A, "https://node-2.example.com:99999"), f"{N3}.endpoints[1].url", "is no address"),
        (with_endpoints(A, "http://node-2.example.com"), f"{N3}.endpoints[1].url", "has no TLS: write https://"),
        (with_endpoints(A, "http://8.8.8.8:10332"), f"{N3}.endpoints[1].url", "has no TLS: write https://"),
        (with_endpoints(A, B, variable="NEO_X_RPC_URL"), "components.neo-x.variable", "NEO_X_RPC_URL is there twice"),
        (with_endpoints(), f"{N3}.endpoints", "at least one is needed"),
        (with_endpoints(A, "ws://node-2.example.com"), f"{N3}.endpoints[1].url", "should match pattern"),
        (with_endpoints(A, B, protocol="solana"), f"{N3}.protocol", "'neo-n3' or 'evm'"),
        (with_endpoints(A, B, genesis="0x12"), f"{N3}.genesis", "should match pattern"),
        (with_endpoints(A, B, network=0), f"{N3}.network", "greater than or equal to 1"),
    ],
)
def test_a_fault_is_told_with_place_and_rule(tmp_path: Path, data: Data, place: str, rule: str) -> None:
    found = problems(tmp_path, data)
    assert len(found) == 1, found
    assert found[0].startswith((f"{place} (line ", f"{place}: "))
    assert rule in found[0]


@pytest.mark.parametrize(
    "near", ["http://127.0.0.1:10332", "http://[::1]:10332", "http://neo-node:10332", "http://10.1.2.3"]
)
def test_a_node_of_ones_own_needs_neither_tls_nor_another(tmp_path: Path, near: str) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(with_endpoints(near)))
    assert load_plan(file)
