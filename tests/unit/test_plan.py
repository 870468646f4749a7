"""The Plan as others use it: objectives, dependents in stop order, and a text that reads back to the same plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from recoup.errors import PreconditionError
from recoup.plan import Plan, ProcessSite, json_schema, load_plan
from recoup.plan_words import parse_duration, write_duration

PLAN = Path(__file__).resolve().parents[2] / "infra" / "plan.yaml"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan(PLAN)


def test_a_duration_is_read_and_written_with_its_unit() -> None:
    for text, value in (
        ("15m", timedelta(minutes=15)),
        ("1h", timedelta(hours=1)),
        ("0m", timedelta()),
        ("1d", timedelta(days=1)),
        ("500ms", timedelta(milliseconds=500)),
        ("5s", timedelta(seconds=5)),
    ):
        assert parse_duration(text) == value
        assert write_duration(value) == text
    assert parse_duration("1h30m") == timedelta(minutes=90) == parse_duration(write_duration(timedelta(minutes=90)))


@pytest.mark.parametrize("value", [15, 1.5, "15", "-3", "1:30", 0])
def test_a_bare_number_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="unit missing"):
        parse_duration(value)


@pytest.mark.parametrize("value", ["soon", "15 minutes", "", "15M", "-5m", True, None, [1]])
def test_other_text_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(value)


def test_dependents_are_given_in_stop_order(plan: Plan) -> None:
    order = plan.dependents("postgres")
    assert order[0] == "api-gateway"
    assert set(order) == {"api-gateway", "records-service", "accounts-service"}


def test_dependents_over_something_that_is_no_service(plan: Plan) -> None:
    # neo-n3 <- contracts (on the chain, nothing to stop) <- api-gateway
    gateway = plan.components["api-gateway"].model_copy(update={"depends_on": ("contracts",)})
    only_over_contracts = plan.model_copy(update={"components": {**plan.components, "api-gateway": gateway}})
    assert only_over_contracts.dependents("neo-n3") == ("api-gateway",)
    assert plan.dependents("api-gateway") == ()


def test_every_dependent_stops_before_what_it_depends_on(plan: Plan) -> None:
    shop = plan.components["accounts-service"]
    layers = {"e": ("d", "b"), "d": ("b", "c"), "c": ("a",), "b": ("a", "c"), "a": ("postgres",)}
    extra = {n: shop.model_copy(update={"service": n, "depends_on": d}) for n, d in layers.items()}
    deep = plan.model_copy(update={"components": {"postgres": plan.components["postgres"], **extra}})
    assert deep.dependents("postgres") == ("e", "d", "b", "c", "a")


def test_objectives_by_tier_and_store(plan: Plan) -> None:
    assert plan.rto("postgres") == timedelta(hours=1)
    assert plan.rto("enclaves") == timedelta(hours=4)
    assert plan.rpo("database") == timedelta(minutes=15)
    assert plan.objectives.rto.platform == timedelta(hours=8)


def test_the_scenario_a_procedure_answers(plan: Plan) -> None:
    for procedure in ("database", "service", "platform", "blockchain", "breach"):
        assert plan.scenario_for(procedure).procedure == procedure


@pytest.mark.parametrize(
    ("ask", "known"),
    [
        (lambda p: p.postgres("mysql"), "postgres"),
        (lambda p: p.postgres("redis"), "postgres"),
        (lambda p: p.rto("nope"), "api-gateway"),
        (lambda p: p.rpo("nope"), "database"),
        (lambda p: p.dependents("nope"), "postgres"),
        (lambda p: p.scenario_for("flood"), "blockchain"),
        (lambda p: p.service("contracts"), "api-gateway"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(plan: Plan, ask: Callable[[Plan], object], known: str) -> None:
    with pytest.raises(PreconditionError) as error:
        ask(plan)
    assert known in error.value.next_step
    assert error.value.exit_code == 2


def test_the_only_postgres_needs_no_name_and_one_of_two_does(plan: Plan) -> None:
    name, spec = plan.postgres()
    assert (name, spec.container) == ("postgres", "neo-postgres")
    two = plan.model_copy(update={"components": {**plan.components, "second": spec}})
    with pytest.raises(PreconditionError, match="2 postgres components"):
        two.postgres()
    assert two.postgres("second")[0] == "second"


def test_the_written_text_reads_back_to_an_equal_plan(plan: Plan, tmp_path: Path) -> None:
    platform = plan.platform.model_copy(update={"stack": ProcessSite(directory=tmp_path), "repository": tmp_path / "b"})
    own = plan.model_copy(update={"platform": platform, "name": "sandbox-1"})
    for one in (plan, own):
        file = tmp_path / "plan.yaml"
        file.write_text(one.dump_yaml(), encoding="utf-8")
        assert load_plan(file) == one


def test_a_plan_cannot_be_changed(plan: Plan) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(plan, "name", "other")  # noqa: B010 - the type checker would not let it be written plainly


def test_the_schema_knows_units_and_references() -> None:
    schema = json.loads(json_schema())
    policy = schema["$defs"]["BackupPolicy"]["properties"]
    assert "pattern" in policy["interval"]
    assert "pattern" in schema["$defs"]["PostgresComponent"]["properties"]["password"]
    assert "non-critical" in schema["$defs"]["RtoObjectives"]["properties"]
    assert schema["additionalProperties"] is False
