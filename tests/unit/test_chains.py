"""Which endpoints of a chain are trusted, by what they said, and which one is used."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import permutations

import pytest

from recoup.chains import ChainSeen, EndpointSeen, Head, Look, choose, common_height, judge
from recoup.plan import ChainComponent, Endpoint

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
NETWORK, GENESIS, OTHER = 47763, "0x" + "ab" * 32, "0x" + "cd" * 32
LAG, PACE = 10, timedelta(seconds=3)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
TOP = 5000


def chain(*urls: str, genesis: str | None = GENESIS, depth: int = 2) -> ChainComponent:
    return ChainComponent(
        tier="critical",
        protocol="evm",
        network=NETWORK,
        genesis=genesis,
        variable="NEO_X_RPC_URL",
        endpoints=tuple(Endpoint(url=f"https://{url}.example") for url in urls or ("a",)),
        max_lag_blocks=LAG,
        max_age=2 * MINUTE,
        max_latency=SECOND,
        depth=depth,
        cool_down=10 * MINUTE,
    )


def made(height: int) -> datetime:
    """Give when a block of the sound chain was made, whose newest is ``TOP``."""
    return AT - SECOND - (TOP - height) * PACE


def block(height: int, fork: str = "", time: datetime | None = None) -> Head:
    digest = f"0x{fork or 'e'}{height:063x}"
    return Head(height, digest, time or made(height))


def said(name: str, height: int = TOP, time: datetime | None = None, fork: str = "", genesis: str = GENESIS) -> Look:
    """Give a look at an endpoint that is sound but for what is told otherwise; ``time`` is that of its head."""
    return Look(
        Endpoint(url=f"https://{name}.example"),
        network=NETWORK,
        genesis=genesis,
        head=block(height, fork, time),
        latency=SECOND / 10,
        calls=6,
        later=height,
        common=None,
    )


def judged(component: ChainComponent, *looks: Look, forks: dict[str, str] | None = None) -> dict[str, tuple[str, ...]]:
    """Give the reasons against each by its short name; the block at the common height is given as its fork has it."""
    height = common_height(component, looks, AT)
    given = []
    for look in looks:
        name = short(look.endpoint.url)
        has = height is not None and look.head is not None and height <= look.head.height
        given.append(replace(look, common=block(height or 0, (forks or {}).get(name, ""))) if has else look)
    seen = judge(component, given, AT)
    assert [one.url for one in seen] == [one.endpoint.url for one in looks]
    return {short(one.url): one.reasons for one in seen}


def short(url: str) -> str:
    return url.removeprefix("https://").removesuffix(".example")


def trusted(found: dict[str, tuple[str, ...]]) -> set[str]:
    return {name for name, reasons in found.items() if not reasons}


# By itself.


def test_several_nodes_behind_one_address_may_be_some_blocks_apart() -> None:
    assert trusted(judged(chain(), replace(said("a"), later=TOP - LAG))) == {"a"}


@pytest.mark.parametrize(
    ("look", "reason"),
    [
        (replace(said("a"), wrong="timed out"), "timed out"),
        (replace(said("a"), head=None), "does not tell its newest block"),
        (replace(said("a"), network=12227332), "is on network 12227332, not 47763"),
        (replace(said("a"), network=None), "is on network None, not 47763"),
        (said("a", genesis=OTHER), f"has another block 0: {OTHER}, not {GENESIS}"),
        (replace(said("a"), behind=LAG + 1), "says itself that it lacks 11 blocks"),
        (said("a", time=AT - 2 * MINUTE - SECOND), "its newest block 5000 is 2 min 1 s old, and it does not move"),
        (said("a", time=AT + MINUTE + SECOND), "its newest block 5000 is of 1 min 1 s from now"),
        (replace(said("a"), later=TOP - LAG - 1), "went back from block 5000 to 4989"),
        (replace(said("a"), latency=SECOND * 1.2), "took 1.2 s for an answer, and may take 1 s"),
        (replace(said("a"), calls=7, failed=2, trouble=("x", "y")), "2 of 7 calls failed: x; y"),
    ],
)
def test_what_is_wrong_with_one_by_itself_is_told_and_costs_it_its_say(look: Look, reason: str) -> None:
    assert judged(chain(), look) == {"a": (reason,)}
    # Nothing about the others is taken from it, however many are like it.
    several = [replace(look, endpoint=Endpoint(url=f"https://bad{n}.example")) for n in range(3)]
    found = judged(chain(), *several, said("good", TOP - LAG), said("well"))
    assert trusted(found) == {"good", "well"}
    assert all(reason in found[f"bad{n}"] for n in range(3))


@pytest.mark.parametrize(
    "look",
    [
        said("a", genesis=GENESIS),
        replace(said("a"), behind=LAG),
        said("a", time=AT - 2 * MINUTE),
        said("a", time=AT + MINUTE),
        replace(said("a"), later=TOP + 3),
        replace(said("a"), latency=SECOND),
        replace(said("a"), calls=7, failed=1, trouble=("x",)),
        replace(said("a"), calls=0),
    ],
)
def test_what_the_plan_allows_is_healthy(look: Look) -> None:
    assert judged(chain(), look) == {"a": ()}


def test_a_pinned_genesis_is_compared_without_regard_to_case() -> None:
    assert judged(chain(genesis=GENESIS.upper().replace("0X", "0x")), said("a")) == {"a": ()}


def test_several_things_that_are_wrong_are_all_told() -> None:
    bad = replace(said("a", TOP - 500, time=AT - 10 * MINUTE), network=1, latency=2 * SECOND)
    found = judged(chain(), bad, said("b"))
    assert [reason.split()[0] for reason in found["a"]] == ["is", "its", "took"]
    assert found["b"] == ()


# Block 0, not pinned.


def test_a_genesis_that_nobody_pinned_is_decided_by_the_majority() -> None:
    found = judged(chain(genesis=None), said("a"), said("b", genesis=OTHER), said("c"))
    assert trusted(found) == {"a", "c"}
    assert "another fork: block 0 is 0xcdcdcdcd… there, 0xabababab… for 2 others" in found["b"][0]


def test_two_that_disagree_about_the_genesis_are_both_not_trusted() -> None:
    found = judged(chain(genesis=None), said("a"), said("b", genesis=OTHER))
    assert trusted(found) == set()
    assert "nothing tells who is right" in found["a"][0]


def test_those_of_another_network_that_tells_the_same_id_do_not_make_the_sound_ones_late() -> None:
    looks = [said("a"), said("b")]
    looks += [said(f"x{n}", TOP + 4000, AT, genesis=f"0x{n}" + "0" * 63) for n in range(3)]
    assert trusted(judged(chain(genesis=None), *looks)) == {"a", "b"}
    assert common_height(chain(genesis=None), looks, AT) == TOP - 2


# Height, against the others.


@pytest.mark.parametrize("late", [LAG, LAG + 1])
@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d")], ids="".join)
def test_a_lag_is_counted_from_the_others(late: int, names: tuple[str, ...]) -> None:
    late_one, *others = names
    found = judged(chain(), said(late_one, TOP - late), *(said(name) for name in others))
    assert trusted(found) == (set(names) if late <= LAG else set(others))
    if late > LAG:
        assert found["a"] == ("is 11 blocks behind the others (4989, and they are at 5000)",)


def test_one_that_is_old_and_late_is_told_both() -> None:
    found = judged(chain(), said("a", TOP - 500), said("b"))
    assert "its newest block 4500 is 25 min 1 s old" in found["a"][0]
    assert "is 500 blocks behind the others (4500, and they are at 5000)" in found["a"][1]
    assert found["b"] == ()


@pytest.mark.parametrize("ahead", [LAG + 1, 4000, 10**30])
def test_a_liar_ahead_is_not_trusted_and_costs_nobody_else_the_trust_of_a_majority(ahead: int) -> None:
    found = judged(chain(), said("a"), said("liar", TOP + ahead, AT), said("b", TOP - 1))
    assert trusted(found) == {"a", "b"}
    assert f"tells of {ahead} blocks that nobody else has" in found["liar"][0]


def test_of_two_that_contradict_each_other_at_the_same_time_neither_is_trusted() -> None:
    for lie in (TOP + 4000, TOP + 2 * LAG, 2**256 - 1, 10):
        found = judged(chain(), said("a"), said("liar", lie, AT))
        assert trusted(found) == set(), lie
        assert all("nothing tells who is right" in reasons[0] for reasons in found.values())


def test_of_two_the_one_ahead_is_right_when_its_blocks_took_their_time() -> None:
    for late in (LAG + 1, 30):
        assert trusted(judged(chain(), said("late", TOP - late), said("a"))) == {"a"}
        # Without a depth there is nothing to tell the pace by; that some time has passed is enough then.
        assert trusted(judged(chain(depth=0), said("late", TOP - late), said("a"))) == {"a"}


def test_two_liars_that_do_not_agree_are_no_majority() -> None:
    looks = [said("a"), said("liar", TOP + 4000, AT), said("other", TOP + 9000, AT)]
    for order in permutations(looks):
        assert trusted(judged(chain(), *order)) == set()


def test_two_liars_that_agree_are_no_majority_of_four() -> None:
    looks = [said("a"), said("b"), said("x", TOP + 4000, AT), said("y", TOP + 4001, AT)]
    assert trusted(judged(chain(), *looks)) == set()


def test_a_half_that_is_late_does_not_count_against_the_other() -> None:
    looks = [said("a"), said("b", TOP - 1), said("late", TOP - 30), said("later", TOP - 31)]
    assert trusted(judged(chain(), *looks)) == {"a", "b"}


def test_a_majority_that_is_late_and_not_old_decides() -> None:
    # By their heights alone the one ahead cannot be told from a liar, and the plan trusts heads of that age.
    found = judged(chain(), said("a"), said("late", TOP - 30), said("later", TOP - 31))
    assert trusted(found) == {"late", "later"}


def test_old_ones_are_no_majority() -> None:
    assert trusted(judged(chain(), said("a"), said("x", TOP - 500), said("y", TOP - 501))) == {"a"}


def test_heights_that_spread_within_the_lag_are_all_well() -> None:
    looks = [said(name, TOP - late) for name, late in zip("abcd", (0, 4, 8, 12), strict=True)]
    for order in permutations(looks):
        assert trusted(judged(chain(), *order)) == set("abcd")


# Forks.


def test_a_fork_is_decided_by_the_majority() -> None:
    found = judged(chain(), said("a"), said("f"), said("b", TOP - 1), forks={"f": "f"})
    assert trusted(found) == {"a", "b"}
    assert found["f"][0].startswith("is on another fork: a block all should have is 0xf0000000… there, 0xe0000000…")


@pytest.mark.parametrize("forks", [{"f": "f"}, {"f": "f", "g": "f"}])
def test_as_many_on_one_fork_as_on_the_other_are_all_not_trusted(forks: dict[str, str]) -> None:
    looks = [said(name) for name in ("a", "b", *forks)][2 - len(forks) :]
    found = judged(chain(), *looks, forks=forks)
    assert trusted(found) == set()
    assert all("disagrees with as many as agree" in reasons[0] for reasons in found.values())


def test_a_fork_is_not_trusted_for_being_longer_or_shorter_than_the_only_other() -> None:
    for ahead in (15, -15):
        looks = (said("a", TOP - 15), said("f", TOP - 15 + ahead))
        found = judged(chain(), *looks, forks={"f": "f"})
        assert trusted(found) == set(), ahead


def test_who_does_not_give_the_block_that_all_are_compared_by_is_not_trusted() -> None:
    component = chain()
    looks = [said("a"), replace(said("b"), common=block(TOP - 2))]
    seen = judge(component, looks, AT)
    assert seen[0].reasons == ("does not give the block that all are compared by",)
    assert seen[1].healthy
    assert not judge(component, [said("a")], AT)[0].healthy


# The height at which they are compared.


@pytest.mark.parametrize(
    ("looks", "height"),
    [
        ([], None),
        ([replace(said("a"), wrong="silent")], None),
        ([said("a")], TOP - 2),
        ([said("a"), said("b", TOP - 5)], TOP - 7),
        ([said("a"), said("b", TOP - 500)], TOP - 2),
        ([said("a"), said("b", TOP - 20), said("c", TOP - 1)], TOP - 3),
        ([said("a"), said("b", TOP + 4000, AT), said("c", TOP - 1)], TOP - 3),
        ([said("a"), replace(said("b", 7), network=1)], TOP - 2),
        ([said("a", 1, AT)], 0),
    ],
)
def test_all_are_compared_at_a_block_that_the_sound_ones_have(looks: list[Look], height: int | None) -> None:
    assert common_height(chain(), looks, AT) == height


# The choice.


def seen(in_use: str, *healthy: str, ill: str = "", weights: dict[str, int] | None = None) -> ChainSeen:
    """Give endpoints a, b, c … of which those named are healthy, in the order of their names."""
    endpoints = tuple(
        EndpointSeen(url=name, weight=(weights or {}).get(name, 1), reasons=() if name in healthy else ("silent",))
        for name in sorted({*healthy, *ill, in_use} - {""})
    )
    return ChainSeen(chain="neo-x", in_use=in_use, at=AT, endpoints=endpoints)


def used(found: ChainSeen, left: dict[str, datetime] | None = None, back: bool = False) -> str:
    choice = choose("neo-x", found, left or {}, chain(), back)
    assert choice.was == found.in_use
    assert choice.switches == (choice.use not in ("", found.in_use))
    return choice.use


def test_the_one_in_use_is_kept_while_it_is_healthy_however_heavy_others_are() -> None:
    assert used(seen("b", "a", "b", "c", weights={"a": 10})) == "b"
    assert used(seen("b", "a", "b", weights={"a": 10}), {"b": AT - SECOND}) == "b"


def test_the_heaviest_healthy_one_is_taken_and_of_equals_the_first() -> None:
    assert used(seen("a", "b", "c", "d", weights={"c": 5})) == "c"
    assert used(seen("a", "b", "c", "d", weights={"a": 9, "c": 5, "d": 5})) == "c"
    assert used(seen("c", "a", "b")) == "a"
    assert used(seen("", "a", "b")) == "a"


def test_one_left_a_short_time_ago_rests_while_another_is_healthy() -> None:
    heavy = {"a": 10}
    assert used(seen("b", "a", "c", weights=heavy), {"a": AT - 9 * MINUTE}) == "c"
    assert used(seen("b", "a", "c", weights=heavy), {"a": AT - 10 * MINUTE}) == "a"
    only = choose("neo-x", seen("b", "a"), {"a": AT - MINUTE}, chain(), False)
    assert only.use == "a"
    assert "left a short time ago; no other is healthy" in only.why


def test_going_back_waits_for_the_cool_down_and_needs_more_weight() -> None:
    found = seen("b", "a", "b", weights={"a": 10})
    assert used(found, {"a": AT - 10 * MINUTE}, back=True) == "a"
    assert used(found, back=True) == "a"
    assert used(found, {"a": AT - 10 * MINUTE}, back=False) == "b"
    waits = choose("neo-x", found, {"a": AT - MINUTE}, chain(), True)
    assert waits.use == "b"
    assert "a was left less than 10 min ago" in waits.why
    assert used(seen("b", "a", "b"), {"a": AT - 10 * MINUTE}, back=True) == "b"
    assert used(seen("b", "b", ill="a", weights={"a": 10}), back=True) == "b"


def test_without_a_healthy_one_nothing_is_chosen_and_each_is_told_with_its_reason() -> None:
    for back in (False, True):
        choice = choose("neo-x", seen("b", ill="ac"), {}, chain(), back)
        assert (choice.use, choice.switches) == ("", False)
        assert choice.why == "neo-x: no endpoint is healthy: a: silent; b: silent; c: silent"


def test_a_chain_is_told_in_one_line() -> None:
    assert str(seen("a", "a", "b")) == "neo-x: a is healthy"
    assert str(seen("a", "b", ill="c")) == "neo-x: a: silent; 1 of 2 others are healthy"
    assert str(seen("a")) == "neo-x: a: silent; there is no other"
    assert not seen("", "a").well


def test_one_that_has_no_tls_is_not_trusted_whoever_wrote_it_into_the_file() -> None:
    plain = replace(said("c"), endpoint=Endpoint.model_construct(url="http://c.example"))
    found = judged(chain("a", "b"), said("a"), said("b"), plain)
    assert trusted(found) == {"a", "b"}
    assert found["http://c"] == ("has no TLS, so whoever sits in between could answer for it",)
