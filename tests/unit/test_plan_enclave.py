"""A plan whose enclaves could be trusted without proof is refused, each fault with its place and reason."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from recoup.plan import EnclaveComponent, load_plan
from tests.unit.test_plan_rules import GOOD, Data, problems

AT = "components.enclaves"
WHOLE: Data = {
    "kind": "enclave",
    "tier": "non-critical",
    "service": "vault",
    "mrsigner": "ab" * 32,
    "product_id": 3,
    "min_svn": 8,
    "quote": {"port": 8443},
    "collateral": {"file": "/etc/recoup/collateral.json"},
    "provision": {
        "command": ["./provision"],
        "shares": {"threshold": 2, "references": ["file:/a", "file:/b", "env:C"]},
    },
    "self_test": {"path": "/self-test", "proves": {"fingerprint": "cd" * 32}},
}


def enclave(**changes: object) -> Data:
    """Give the written plan with a whole enclave that is changed at these places; None takes a key away."""
    data = copy.deepcopy(GOOD)
    made = copy.deepcopy(WHOLE) | changes
    data["components"]["enclaves"] = {key: value for key, value in made.items() if value is not None}
    return data


def shares(threshold: int, *references: str) -> Data:
    return {"command": ["./provision"], "shares": {"threshold": threshold, "references": list(references)}}


def written(directory: Path, data: Data) -> EnclaveComponent:
    (directory / "plan.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return load_plan(directory / "plan.yaml").enclave()[1]


def test_a_whole_enclave_is_right(tmp_path: Path) -> None:
    found = written(tmp_path, enclave())
    assert found.tcb == ("UpToDate",)
    assert found.advisories == ()
    assert not found.simulation


@pytest.mark.parametrize(
    ("changes", "place", "rule"),
    [
        ({"min_svn": None}, "mrsigner", "without product_id and min_svn"),
        ({"product_id": None}, "mrsigner", "without product_id and min_svn"),
        ({"mrsigner": None}, "", "product_id or min_svn without mrsigner"),
        ({"mrsigner": None, "product_id": None, "min_svn": None}, "quote", "a quote that nothing is compared with"),
        ({"mrsigner": "AB" * 32}, "mrsigner", "pattern"),
        ({"mrsigner": None, "mrenclave": "ab"}, "mrenclave", "pattern"),
        ({"product_id": 65536}, "product_id", "less than or equal to 65535"),
        ({"min_svn": "8"}, "min_svn", "valid integer"),
        ({"service": None}, "quote", "a quote without service"),
        ({"quote": {"port": 1, "path": "/quote"}}, "quote.path", "no {nonce} in it"),
        ({"quote": {"port": 1, "patience": "0m"}}, "quote.patience", "no time at all"),
        ({"quote": {"port": 1, "patience": 5}}, "quote.patience", "unit missing"),
        ({"quote": None}, "collateral", "without quote"),
        ({"quote": None, "collateral": None}, "provision", "without quote"),
        ({"collateral": None}, "quote", "no collateral to verify it with"),
        ({"collateral": {}}, "collateral", "neither pccs nor file"),
        (
            {"provision": {"command": ["x"], "environment": {"RECOUP_REPORT_DATA": "env:S"}}},
            "provision.environment.RECOUP_REPORT_DATA",
            "recoup itself gives",
        ),
        ({"tcb": []}, "tcb", "at least one is needed"),
        ({"tcb": ["Revoked"]}, "tcb[0]", "UpToDate"),
        ({"advisories": ["anything"]}, "advisories[0]", "pattern"),
        ({"provision": {"command": []}}, "provision.command", "at least one is needed"),
        ({"provision": {"command": ["x"], "secret": "hunter2"}}, "provision.secret", "a secret written in clear"),
        ({"provision": shares(1, "file:/a", "file:/b")}, "provision.shares.threshold", "less than 2"),
        ({"provision": shares(3, "file:/a", "file:/b")}, "provision.shares.references", "2 shares, and 3 are needed"),
        ({"provision": shares(2, "file:/a", "file:/a")}, "provision.shares.references[1]", "is there twice"),
        ({"provision": shares(2, *(f"file:/{n}" for n in range(17)))}, "provision.shares.references", "more than 16"),
        (
            {"provision": {**shares(2, "file:/a", "file:/b"), "secret": "env:S"}},
            "provision.shares",
            "a secret and shares",
        ),
    ],
)
def test_what_is_wrong_with_an_enclave_is_told(tmp_path: Path, changes: Data, place: str, rule: str) -> None:
    told = problems(tmp_path, enclave(**changes))
    where = f"{AT}.{place}" if place else AT
    assert any(one.startswith(f"{where} (line") and rule in one for one in told), told


def test_simulation_needs_no_collateral(tmp_path: Path) -> None:
    assert written(tmp_path, enclave(simulation=True, collateral=None)).simulation
