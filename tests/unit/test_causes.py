"""Given what is wrong with each service and what rests on what: which is the cause, and who is seen to when."""

from __future__ import annotations

import pytest

from recoup.causes import Ailment, Answer, Seen, ailment, free_of, rests_on, waves
from recoup.stacks import Health, ServiceState

DEPENDS_ON = {
    "gateway": ("records", "accounts", "redis"),
    "records": ("postgres",),
    "accounts": ("postgres",),
    "reports": (),
    "postgres": (),
    "redis": (),
}


@pytest.mark.parametrize(
    ("ill", "expected"),
    [
        ((), ()),
        (("gateway",), (("gateway",),)),
        (("gateway", "postgres"), (("postgres",), ("gateway",))),
        (("gateway", "records", "accounts"), (("records", "accounts"), ("gateway",))),
        (("gateway", "records", "postgres"), (("postgres",), ("records",), ("gateway",))),
        (("gateway", "redis", "postgres"), (("redis", "postgres"), ("gateway",))),
        (("reports", "gateway", "records"), (("reports", "records"), ("gateway",))),
    ],
)
def test_the_cause_comes_first_and_what_is_independent_at_the_same_time(
    ill: tuple[str, ...], expected: tuple[tuple[str, ...], ...]
) -> None:
    assert waves(DEPENDS_ON, ill) == expected


def test_a_gateway_is_not_at_fault_for_its_database_over_a_service_that_is_well() -> None:
    # The records service may still say that it is well while the gateway has already noticed.
    assert waves(DEPENDS_ON, ("gateway", "postgres")) == (("postgres",), ("gateway",))
    assert waves(DEPENDS_ON, ("gateway", "reports")) == (("gateway", "reports"),)


def test_what_a_component_rests_on_is_followed_all_the_way_down() -> None:
    assert rests_on(DEPENDS_ON, "gateway") == {"records", "accounts", "redis", "postgres"}
    assert rests_on(DEPENDS_ON, "postgres") == frozenset()


def test_what_rests_on_a_store_that_is_recovered_elsewhere_is_left_until_then() -> None:
    assert free_of(DEPENDS_ON, ("records", "redis", "gateway", "reports"), {"postgres"}) == ("redis", "reports")
    assert free_of(DEPENDS_ON, ("postgres",), {"postgres"}) == ()
    assert free_of(DEPENDS_ON, ("gateway", "reports"), set()) == ("gateway", "reports")


def test_a_circle_ends_all_the_same() -> None:
    assert waves({"a": ("b",), "b": ("a",)}, ("a", "b")) == (("a", "b"),)


def up(health: Health = Health.HEALTHY, restarts: int = 0) -> ServiceState:
    return ServiceState("one", True, health, "running", restarts=restarts)


def down(code: int | None, *, looping: bool = False, stopped: bool = False) -> ServiceState:
    return ServiceState("one", False, Health.NONE, f"exited (code {code})", code, looping=looping, stopped=stopped)


@pytest.mark.parametrize(
    ("state", "answer", "expected"),
    [
        (up(), Answer.WELL, Ailment.WELL),
        # Its own answer is newer than the engine's word.
        (up(Health.UNHEALTHY), Answer.WELL, Ailment.WELL),
        (up(), Answer.SILENT, Ailment.HANGING),
        (up(Health.STARTING), Answer.SILENT, Ailment.HANGING),
        (up(), Answer.UNWELL, Ailment.UNHEALTHY),
        (up(), Answer.REFUSED, Ailment.REFUSING),
        (up(Health.STARTING), Answer.REFUSED, Ailment.STARTING),
        # It was restarted last week, and is unwell only now.
        (up(restarts=5), Answer.UNWELL, Ailment.UNHEALTHY),
        (up(Health.UNHEALTHY), Answer.NOT_ASKED, Ailment.UNHEALTHY),
        (up(Health.NONE), Answer.NOT_ASKED, Ailment.WELL),
        (down(137), Answer.NOT_ASKED, Ailment.DOWN),
        (down(1, looping=True), Answer.NOT_ASKED, Ailment.LOOPING),
        (down(0, stopped=True), Answer.NOT_ASKED, Ailment.STOPPED),
    ],
)
def test_what_is_wrong_is_told_from_state_and_answer(state: ServiceState, answer: Answer, expected: Ailment) -> None:
    assert ailment(state, answer) is expected


def test_one_that_is_brought_back_again_and_again_is_young_each_time() -> None:
    state = up(Health.STARTING, restarts=5)
    assert ailment(state, Answer.REFUSED, young=True) is Ailment.LOOPING
    assert ailment(state, Answer.WELL, young=True) is Ailment.WELL
    assert ailment(up(Health.STARTING), Answer.REFUSED, young=True) is Ailment.STARTING


def test_what_was_stopped_on_purpose_is_not_ill() -> None:
    assert not Seen(component="a", service="a", ailment=Ailment.STOPPED, seen="").ill
    assert Seen(component="a", service="a", ailment=Ailment.STARTING, seen="").ill
