"""Which RPC endpoints of a chain can be trusted, and which one to use: pure functions of what each of them said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median_high, median_low

from pydantic import AwareDatetime

from recoup.addresses import is_open, shown
from recoup.clock import human
from recoup.plan_chain import ChainComponent, Endpoint
from recoup.records import Frozen

# Clocks differ; a head of more than this in the future is a made-up one, or its maker's clock is wrong.
AHEAD_OF_TIME = timedelta(minutes=1)
# Of the calls to one endpoint, how many may fail.
MOST_FAILED = 0.2
# How many times faster than the blocks before them the blocks may come that one endpoint alone has.
MOST_HASTE = 4


@dataclass(frozen=True)
class Head:
    """The newest block of an endpoint: its height, its hash, and when it was made, aware UTC."""

    height: int
    hash: str
    time: datetime


@dataclass(frozen=True)
class Look:
    """What one endpoint said of itself; ``wrong`` is why it said too little to be judged.

    ``behind``: how many blocks it says itself are still missing. ``later`` is its height a moment afterwards,
    ``common`` its block at the height that all are compared at.
    """

    endpoint: Endpoint
    wrong: str = ""
    network: int | None = None
    genesis: str = ""
    head: Head | None = None
    behind: int = 0
    latency: timedelta = timedelta()
    calls: int = 0
    failed: int = 0
    later: int | None = None
    common: Head | None = None
    trouble: tuple[str, ...] = field(default=())


class EndpointSeen(Frozen):
    """One endpoint as it was judged; without ``reasons`` it is healthy. ``age`` is that of its newest block."""

    url: str
    weight: int
    reasons: tuple[str, ...] = ()
    height: int | None = None
    moved: int | None = None
    age: timedelta | None = None
    latency: timedelta | None = None
    calls: int = 0
    failed: int = 0

    @property
    def healthy(self) -> bool:
        return not self.reasons

    def __str__(self) -> str:
        return f"{shown(self.url)}: {'; '.join(self.reasons) or 'healthy'}"


class ChainSeen(Frozen):
    """All endpoints of a chain as they were judged, and the one in use, "" where none is known."""

    chain: str
    in_use: str
    at: AwareDatetime
    endpoints: tuple[EndpointSeen, ...]

    def shown(self) -> ChainSeen:
        """Give the same for people and programs to read, without what is secret in an address."""
        ends = tuple(one.model_copy(update={"url": shown(one.url)}) for one in self.endpoints)
        return self.model_copy(update={"in_use": shown(self.in_use), "endpoints": ends})

    @property
    def current(self) -> EndpointSeen | None:
        return next((one for one in self.endpoints if one.url == self.in_use), None)

    @property
    def well(self) -> bool:
        """Whether the endpoint in use is healthy."""
        return self.current is not None and self.current.healthy

    def __str__(self) -> str:
        if self.well:
            return f"{self.chain}: {shown(self.in_use)} is healthy"
        others = [one for one in self.endpoints if one.url != self.in_use]
        healthy = sum(one.healthy for one in others)
        left = f"{healthy} of {len(others)} others are healthy" if others else "there is no other"
        return f"{self.chain}: {self.current or 'no endpoint is in use'}; {left}"


class Choice(Frozen):
    """The endpoint of a chain to use from now on, "" where none is healthy, and why."""

    chain: str
    was: str
    use: str
    why: str

    @property
    def switches(self) -> bool:
        return bool(self.use) and self.use != self.was


def judge(chain: ChainComponent, looks: Sequence[Look], at: datetime) -> tuple[EndpointSeen, ...]:
    """Judge each endpoint by itself and against the others, in the order of the looks; ``at`` is when they were made.

    An endpoint that does not speak for itself (wrong network, old head) has no say about the others, and neither has
    one whose block 0 the others outvote.
    """
    alone = [_by_itself(chain, look, at) for look in looks]
    voices = [look for look, wrong in zip(looks, alone, strict=True) if not wrong]
    genesis = _genesis(chain, voices)
    voices = [look for look in voices if look.endpoint.url not in genesis]
    forked = _minority(
        {look.endpoint.url: look.common.hash for look in voices if look.common}, "a block all should have"
    )
    reasons = [
        (
            *wrong,
            *_against(chain, look, voices),
            *genesis.get(look.endpoint.url, ()),
            *forked.get(look.endpoint.url, ()),
        )
        for look, wrong in zip(looks, alone, strict=True)
    ]
    return tuple(
        _seen(look, at, wrong if wrong or look.common else ("does not give the block that all are compared by",))
        for look, wrong in zip(looks, reasons, strict=True)
    )


def common_height(chain: ChainComponent, looks: Sequence[Look], at: datetime) -> int | None:
    """Give the height at which all that speak for themselves are compared: the lowest head, less the depth.

    The lowest of those that agree about the height, where most do.
    """
    voices = [look for look in looks if not _by_itself(chain, look, at)]
    outvoted = _genesis(chain, voices)
    heights = [look.head.height for look in voices if look.head and look.endpoint.url not in outvoted]
    if not heights:
        return None
    low = median_low(heights)
    near = [one for one in heights if low - one <= chain.max_lag_blocks] if _agree(chain, heights) else heights
    return max(min(near) - chain.depth, 0)


def choose(name: str, seen: ChainSeen, left: Mapping[str, datetime], chain: ChainComponent, back: bool) -> Choice:
    """Choose the endpoint to use: the one in use while it is healthy, else the heaviest that is.

    ``left`` says when endpoints were last left: within the chain's cool-down they are taken only where no other is
    healthy. ``back``: a heavier one than that in use is gone back to, when its cool-down is over.
    """
    healthy = [one for one in seen.endpoints if one.healthy and one.url != seen.in_use]
    resting = [one for one in healthy if one.url in left and seen.at - left[one.url] < chain.cool_down]
    fresh = [one for one in healthy if one not in resting]
    best = max(fresh or resting, key=lambda one: one.weight, default=None)
    said = f"{name}: {seen.current or 'no endpoint is in use'}"
    if seen.well and seen.current:
        if back and fresh and best and best.weight > seen.current.weight:
            return Choice(chain=name, was=seen.in_use, use=best.url, why=f"{name}: back to {shown(best.url)}")
        waits = [shown(one.url) for one in resting if one.weight > seen.current.weight] if back else []
        why = f"; {', '.join(waits)} was left less than {human(chain.cool_down)} ago" if waits else ""
        return Choice(chain=name, was=seen.in_use, use=seen.in_use, why=f"{said}, and is kept{why}")
    if best is None:
        return Choice(chain=name, was=seen.in_use, use="", why=f"{name}: no endpoint is healthy: {_all(seen)}")
    last = " (left a short time ago; no other is healthy)" if best in resting else ""
    return Choice(chain=name, was=seen.in_use, use=best.url, why=f"{said}; {shown(best.url)} is healthy{last}")


def _all(seen: ChainSeen) -> str:
    return "; ".join(str(one) for one in seen.endpoints)


def _by_itself(chain: ChainComponent, look: Look, at: datetime) -> list[str]:
    if look.wrong or look.head is None:
        return [look.wrong or "does not tell its newest block"]
    wrong = []
    if is_open(look.endpoint.url):
        # Not of the plan, which would be refused: somebody has written it into the environment file.
        wrong.append("has no TLS, so whoever sits in between could answer for it")
    if look.network != chain.network:
        wrong.append(f"is on network {look.network}, not {chain.network}")
    if chain.genesis and look.genesis != chain.genesis.lower():
        wrong.append(f"has another block 0: {look.genesis}, not {chain.genesis.lower()}")
    if look.behind > chain.max_lag_blocks:
        wrong.append(f"says itself that it lacks {look.behind} blocks")
    age = at - look.head.time
    if age > chain.max_age:
        still = ", and it does not move" if look.later == look.head.height else ""
        wrong.append(f"its newest block {look.head.height} is {human(age)} old{still}")
    elif age < -AHEAD_OF_TIME:
        wrong.append(f"its newest block {look.head.height} is of {human(-age)} from now")
    # Behind one address there may be several nodes, a block or two apart.
    if look.later is not None and look.head.height - look.later > chain.max_lag_blocks:
        wrong.append(f"went back from block {look.head.height} to {look.later}")
    if look.latency > chain.max_latency:
        wrong.append(f"took {human(look.latency)} for an answer, and may take {human(chain.max_latency)}")
    if look.calls and look.failed / look.calls > MOST_FAILED:
        wrong.append(f"{look.failed} of {look.calls} calls failed: {'; '.join(look.trouble)}")
    return wrong


def _against(chain: ChainComponent, look: Look, voices: Sequence[Look]) -> list[str]:
    heights = [one.head.height for one in voices if one.head]
    if look.head is None or not heights or look.wrong or look.network != chain.network:
        return []
    height, lag = look.head.height, chain.max_lag_blocks
    if _agree(chain, heights):
        behind, ahead = median_low(heights) - height, height - median_high(heights)
    elif not _explained(chain, voices):
        apart = f"the heights are {', '.join(map(str, sorted(heights)))}, made at nearly the same time"
        return [f"contradicts others, and nothing tells who is right: {apart}"] if look in voices else []
    else:
        behind, ahead = max(heights) - height, 0
    if behind > lag:
        return [f"is {behind} blocks behind the others ({height}, and they are at {height + behind})"]
    return [f"tells of {ahead} blocks that nobody else has ({height})"] if ahead > lag and len(heights) > 1 else []


def _agree(chain: ChainComponent, heights: Sequence[int]) -> bool:
    """Say whether more than half of them are as near to the one in the middle as the plan allows a lag."""
    middle = median_low(heights)
    return 2 * sum(abs(one - middle) <= chain.max_lag_blocks for one in heights) > len(heights)


def _explained(chain: ChainComponent, voices: Sequence[Look]) -> bool:
    """Say whether those behind may only be late: the highest head is younger by the time that its blocks need.

    One that tells a height it does not have tells it of now, and so does a sound one.
    """
    heads = [(one.head, one.common) for one in voices if one.head]
    top = max((head for head, _ in heads), key=lambda head: head.height)
    return all(
        (late := (top.time - head.time).total_seconds()) > 0
        and late >= _pace(head, common) * (top.height - head.height) / MOST_HASTE
        for head, common in heads
        if top.height - head.height > chain.max_lag_blocks
    )


def _pace(head: Head, before: Head | None) -> float:
    """Give the seconds from block to block, 0 where they are not known."""
    blocks = head.height - before.height if before else 0
    return (head.time - before.time).total_seconds() / blocks if before and blocks > 0 else 0.0


def _genesis(chain: ChainComponent, voices: Sequence[Look]) -> dict[str, tuple[str, ...]]:
    # Where it is pinned everybody was compared with the pin already.
    if chain.genesis:
        return {}
    return _minority({look.endpoint.url: look.genesis for look in voices}, "block 0")


def _minority(hashes: Mapping[str, str], what: str) -> dict[str, tuple[str, ...]]:
    """Give what is wrong with those that are outvoted; with nobody in the majority, that is everybody."""
    votes = Counter(hashes.values()).most_common()
    if len(votes) < 2:
        return {}
    decided = votes[0][1] > votes[1][1]
    return {
        url: (
            f"is on another fork: {what} is {_short(hash_)} there, {_short(votes[0][0])} for {votes[0][1]} others"
            if decided
            else f"disagrees with as many as agree: {what} is {_short(hash_)}, and nothing tells who is right",
        )
        for url, hash_ in hashes.items()
        if not decided or hash_ != votes[0][0]
    }


def _short(hash_: str) -> str:
    return f"{hash_[:10]}…"


def _seen(look: Look, at: datetime, reasons: tuple[str, ...]) -> EndpointSeen:
    head = look.head
    return EndpointSeen(
        url=look.endpoint.url,
        weight=look.endpoint.weight,
        reasons=reasons,
        height=head.height if head else None,
        moved=look.later - head.height if head and look.later is not None else None,
        age=at - head.time if head else None,
        latency=look.latency if look.calls > look.failed else None,
        calls=look.calls,
        failed=look.failed,
    )
