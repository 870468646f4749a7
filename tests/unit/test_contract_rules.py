"""Contracts that a plan pins: on which chain each is, which pins mean something there, and what a pin is of."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import pytest
import yaml

from recoup.plan import ContractComponent, load_plan
from recoup.plan_chain import PinnedContract
from tasks.contract_n3 import manifest_hash
from tests.unit.test_plan_rules import GOOD, Data, problems

A, B, HASH = "0x" + "aB" * 20, "0x" + "12" * 20, "0x" + "34" * 32
TOKEN: Data = {"name": "token", "hash": A, "checksum": 1}
CODE: Data = {"name": "code", "hash": B, "code_hash": HASH}
PLACE = "components.contracts.contracts"


def pinning(*contracts: Data, depends_on: tuple[str, ...] = ("neo-n3", "neo-x")) -> Data:
    data = copy.deepcopy(GOOD)
    data["components"]["contracts"] |= {"contracts": list(contracts), "depends_on": list(depends_on)}
    return data


@pytest.mark.parametrize(
    ("contracts", "place", "rule"),
    [
        ([{"name": "token", "hash": A}], f"{PLACE}[0]", "on which chain is token?"),
        ([TOKEN | {"code_hash": HASH}], f"{PLACE}[0]", "on which chain is token?"),
        ([TOKEN | {"chain": "neo-z"}], f"{PLACE}[0].chain", "neo-z is no chain that it depends on"),
        ([TOKEN | {"chain": "redis"}], f"{PLACE}[0].chain", "redis is no chain that it depends on"),
        ([TOKEN | {"chain": "neo-x"}], f"{PLACE}[0].checksum", "checksum is a pin of neo-n3 chains"),
        ([CODE | {"chain": "neo-n3"}], f"{PLACE}[0].code_hash", "code_hash is a pin of evm chains"),
        ([TOKEN, CODE | {"name": "token"}], f"{PLACE}[1].name", "'token' is there twice"),
        ([TOKEN, TOKEN | {"name": "again", "hash": A.lower()}], f"{PLACE}[1].hash", "on neo-n3 is there twice"),
        ([TOKEN | {"hash": "NeoToken"}], f"{PLACE}[0].hash", "should match pattern"),
        ([TOKEN | {"checksum": 2**32}], f"{PLACE}[0].checksum", "less than 4294967296"),
        ([TOKEN | {"checksum": "1"}], f"{PLACE}[0].checksum", "valid integer"),
        ([CODE | {"call": {"data": "0x1", "result": "0x"}}], f"{PLACE}[0].call.data", "should match pattern"),
        ([TOKEN | {"invoke": {"operation": "symbol"}}], f"{PLACE}[0].invoke.stack", "missing"),
    ],
)
def test_a_fault_is_told_with_place_and_rule(tmp_path: Path, contracts: list[Data], place: str, rule: str) -> None:
    found = problems(tmp_path, pinning(*contracts))
    assert len(found) == 1, found
    assert found[0].startswith((f"{place} (line ", f"{place}: "))
    assert rule in found[0]


def test_the_chain_is_the_one_that_suits_the_pins(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(pinning(TOKEN, CODE, {"name": "bare", "hash": A, "chain": "neo-x"})))
    plan = load_plan(file)
    component = plan.components["contracts"]
    assert isinstance(component, ContractComponent)
    assert [component.chain_of(one, plan.components) for one in component.contracts] == ["neo-n3", "neo-x", "neo-x"]
    only = component.model_copy(update={"depends_on": ("neo-x",)})
    assert only.chain_of(PinnedContract(name="bare", hash=A), plan.components) == "neo-x"


def test_pins_survive_being_written_and_read(tmp_path: Path) -> None:
    stack = [{"type": "Array", "value": [{"type": "Integer", "value": "8"}, {"type": "Any"}]}]
    call = {"operation": "balanceOf", "args": [{"type": "Hash160", "value": A}], "stack": stack}
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(pinning(TOKEN | {"manifest": HASH, "updates": 0, "invoke": call})))
    plan = load_plan(file)
    file.write_text(plan.dump_yaml())
    assert load_plan(file) == plan


def test_a_manifest_is_hashed_over_its_canonical_bytes() -> None:
    known = '{"abi":{"a":[2,1,1.5],"b":null},"name":"Münze"}'.encode()
    manifest = {"name": "Münze", "abi": {"b": None, "a": [2.0, 1, 1.5]}}
    assert manifest_hash(manifest) == "0x" + hashlib.sha256(known).hexdigest()  # type: ignore[arg-type]
