"""What a Redis holds, as one digest that depends neither on the order of keys nor on the server's version.

Each key gives one SHA-256 of its database, name, type, value and moment of expiry; the digest is their sum modulo
2^256. Sums can be taken apart again: what expires is summed by the second in which it does, so that a copy can be
compared later with everything left out that has expired since.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from recoup.manifest import RedisSnapshot
from recoup.records import Check, Frozen, Outcome, Subject

CONTENT = "content.json"
_WHOLE = 1 << 256


class Sampled(Frozen):
    """One key of the sample, its name in hexadecimal; ``expires`` in milliseconds since 1970, 0 when it never does."""

    database: int
    key: str
    expires: int


class Second(Frozen):
    """What expires in one second since 1970: so many keys of one database, and the sum of their digests."""

    database: int
    second: int
    keys: int
    digest: str


class Detail(Frozen):
    """What stands beside an RDB in its set: what expires when, and some keys by which the data is known again.

    ``acl_file`` is where the server reads its users from (``aclfile``), empty when that is no file of their own.
    """

    seconds: tuple[Second, ...]
    sample: tuple[Sampled, ...]
    acl_file: str = ""


@dataclass
class Content:
    """What a server held; ``until`` is its own clock at the end, in seconds since 1970, rounded up."""

    keys: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    expiring: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    total: int = 0
    counts: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    sums: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    sample: tuple[Sampled, ...] = ()
    until: int = 0

    @property
    def digest(self) -> str:
        return f"{self.total:064x}"

    def detail(self) -> Detail:
        found = sorted(self.sums)
        return Detail(
            seconds=tuple(
                Second(database=db, second=at, keys=self.counts[db, at], digest=f"{self.sums[db, at]:064x}")
                for db, at in found
            ),
            sample=self.sample,
        )

    def add(self, database: int, term: int, expires: int, keys: int = 1) -> None:
        self.total = (self.total + term) % _WHOLE
        self.keys[database] += keys
        if expires:
            place = database, expires // 1000
            self.expiring[database] += keys
            self.counts[place] += keys
            self.sums[place] = (self.sums[place] + term) % _WHOLE


def compare(expected: RedisSnapshot, detail: Detail, actual: Content) -> tuple[Check, ...]:
    """Compare what a server holds with what a set says, what has expired since left out; every key counts otherwise."""
    left = {(one.database, one.second): one for one in detail.seconds if one.second > actual.until}
    gone = [one for one in detail.seconds if one.second <= actual.until]
    there = {place: keys for place, keys in actual.counts.items() if place[1] > actual.until}
    past = [place for place in actual.counts if place[1] <= actual.until]
    wanted = _by_database(expected.keys, ((one.database, one.keys) for one in gone))
    seen = _by_database(
        {str(db): keys for db, keys in actual.keys.items()}, ((place[0], actual.counts[place]) for place in past)
    )
    digest = (int(expected.digest, 16) - sum(int(one.digest, 16) for one in gone)) % _WHOLE
    same = (actual.total - sum(actual.sums[place] for place in past)) % _WHOLE
    times = {place: one.keys for place, one in left.items()}
    return (
        _check("redis: the number of keys", _keys(wanted), _keys(seen)),
        _check(
            "redis: when keys expire",
            f"{sum(times.values()):,} keys, each at its second",
            f"{sum(there.values()):,} keys, each at its second"
            if times == there
            else f"{sum(there.values()):,} keys, at other times",
        ),
        _check("redis: every key and value", f"digest {digest:064x}", f"digest {same:064x}"),
    )


def expected_keys(expected: RedisSnapshot, detail: Detail, second: int) -> int:
    """Give how many keys of a set have not expired by then, in seconds since 1970."""
    return sum(expected.keys.values()) - sum(one.keys for one in detail.seconds if one.second <= second)


def _by_database(keys: dict[str, int], less: Iterable[tuple[int, int]]) -> dict[int, int]:
    found = {int(db): count for db, count in keys.items()}
    for db, count in less:
        found[db] = found.get(db, 0) - count
    return {db: count for db, count in found.items() if count}


def _keys(by_database: dict[int, int]) -> str:
    return ", ".join(f"{count:,} in database {db}" for db, count in sorted(by_database.items())) or "none"


def _check(name: str, expected: str, seen: str) -> Check:
    outcome = Outcome.PASSED if expected == seen else Outcome.FAILED
    return Check(name=name, subject=Subject.DATA, outcome=outcome, expected=expected, seen=seen)
