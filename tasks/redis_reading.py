"""Reading every key of a Redis once, a page ahead of what is being digested, for the digest of what it holds."""

from __future__ import annotations

import hashlib
import heapq
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import redis

from tasks.redis_content import Content, Sampled
from tasks.redis_server import Link, Word, blob, items, number, text, version
from tasks.step import note

SAMPLE = 64
_PAGE, _BATCH, _TIMED = 2000, 100, 20
# Bytes of one batch; and from where on the parts of a digest are not worth a copy.
_LOAD, _LARGE = 4 << 20, 1 << 16
_KINDS = ("string", "hash", "list", "set", "zset", "stream")
_length = struct.Struct(">Q").pack
# When keys expire, in one answer: an answer for each key takes longer than its value does. Version 6 tells the
# milliseconds that are left: exact when the clock shows the same one before and after.
_EXPIRIES = """
local found = {}
for i, key in ipairs(KEYS) do found[i] = string.format('%.0f', redis.call('PEXPIRETIME', key)) end
return table.concat(found, ' ')
"""
_EXPIRIES_BY_REST = """
local function clock()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
local found = {}
for i, key in ipairs(KEYS) do
  local before, rest
  repeat
    before, rest = clock(), redis.call('PTTL', key)
  until rest < 0 or clock() == before
  found[i] = string.format('%.0f', rest < 0 and rest or before + rest)
end
return table.concat(found, ' ')
"""
# RDB version and CRC-64 at the end of what DUMP gives.
_DUMP_TAIL = 10


def measure(link: Link) -> Content:
    """Read every key of every database and give what is there; raises redis.RedisError when one cannot be read."""
    found = Content()
    sample: list[tuple[int, Sampled]] = []
    info = link.info("server")
    known = version(info)
    for database, line in ((int(n[2:]), v) for n, v in link.info("keyspace").items()):
        link.ask("SELECT", database)
        stated = dict(part.split("=") for part in line.split(","))
        reader = _Reader(link, known, stated["expires"] != "0", stated.get("subexpiry", "0") != "0")
        for batch in _ahead(reader.batches()):
            for key, expires, terms in reader.read(database, batch):
                for position, (term, at) in enumerate(terms):
                    found.add(database, term, at, keys=0 if position else 1)
                # The smallest of evenly spread numbers are a sample that nobody chose.
                rank = -terms[0][0]
                if len(sample) < SAMPLE or rank > sample[0][0]:
                    entry = (rank, Sampled(database=database, key=key.hex(), expires=expires))
                    (heapq.heappush if len(sample) < SAMPLE else heapq.heapreplace)(sample, entry)
            note(f"read {found.keys[database]:,} keys of database {database}")
    if known >= (7,):
        for library in items(link.ask("FUNCTION", "LIST", "WITHCODE")):
            found.add(0, _library(_named(library)), 0, keys=0)
    found.sample = tuple(one for _, one in sorted(sample, key=lambda entry: -entry[0]))
    found.until = int(link.clock().timestamp()) + 1
    return found


@dataclass(frozen=True)
class _Batch:
    """Some keys of one type as the server gave them; ``more`` is what a key's own value does not tell, or None."""

    kind: str
    keys: Sequence[bytes]
    values: Sequence[object]
    times: Sequence[int]
    more: Sequence[object]


class _Reader:
    """Reads the database a link has selected, in batches: as many keys as make a good load for one round trip."""

    def __init__(self, link: Link, known: tuple[int, ...], keys_expire: bool, fields_expire: bool) -> None:
        self._link = link
        self._known = known
        self._keys_expire = keys_expire
        self._fields_expire = fields_expire
        self._scripts = keys_expire and _may_run_scripts(link)
        self._size = _BATCH
        self._load = 0

    def batches(self) -> Iterator[_Batch]:
        """Give all keys, in batches; nothing else may use the link meanwhile."""
        for kind, page in _pages(self._link, set()):
            start = 0
            while start < len(page):
                keys = page[start : start + self._size]
                start += len(keys)
                yield self._fetch(kind, keys)

    def read(self, database: int, batch: _Batch) -> Iterator[tuple[bytes, int, list[tuple[int, int]]]]:
        """Give for each key that is still there its expiry and its terms, each with the millisecond it expires."""
        self._load = 0
        for key, value, told, more in zip(batch.keys, batch.values, batch.times, batch.more, strict=True):
            if told == -2 or value is None:
                continue
            expires = max(told, 0)
            if terms := self._terms(database, key, batch.kind, value, more, expires):
                yield key, expires, terms
        grown = _LOAD * len(batch.keys) // max(self._load, 1)
        self._size = max(_BATCH, min(grown, 2 * self._size, _PAGE))

    def _fetch(self, kind: str, keys: Sequence[bytes]) -> _Batch:
        asked: list[tuple[Word, ...]] = [("MGET", *keys)] if kind == "string" else [_reading(kind, key) for key in keys]
        states: list[tuple[Word, ...]] = (
            [("XINFO", "STREAM", key, "FULL", "COUNT", 0) for key in keys] if kind == "stream" else []
        )
        # After the values: a key that expires between the two is known by it and left out.
        answers = self._link.ask_all([*asked, *states, *self._timing(keys)])
        values = items(answers[0]) if kind == "string" else answers[: len(asked)]
        more: Sequence[object] = answers[len(asked) : len(asked) + len(states)] or [None] * len(keys)
        times = self._expiries(keys, answers[len(asked) + len(states) :])
        if kind == "hash" and self._fields_expire:
            more = self._field_expiries(keys, values)
        return _Batch(kind, keys, values, times, more)

    def _field_expiries(self, keys: Sequence[bytes], values: Sequence[object]) -> list[object]:
        fields = [_flat(value)[::2] for value in values]
        asked = [(key, names) for key, names in zip(keys, fields, strict=True) if names]
        answers = iter(
            self._link.ask_all([("HPEXPIRETIME", key, "FIELDS", len(names), *names) for key, names in asked])
        )
        return [next(answers) if names else None for names in fields]

    def _terms(
        self, database: int, key: bytes, kind: str, value: object, more: object, expires: int
    ) -> list[tuple[int, int]]:
        head = (str(database).encode(), key, kind.encode(), str(expires).encode())
        if kind == "hash":
            return self._hash_terms(head, _flat(value), more, expires)
        if kind == "string":
            parts: Iterable[bytes] = (blob(value),)
        elif kind == "list":
            parts = _flat(value)
        elif kind == "set":
            parts = sorted(_flat(value))
        elif kind == "zset":
            flat = _flat(value)
            pairs = sorted(zip(flat[::2], flat[1::2], strict=True))
            parts = (part for member, score in pairs for part in (member, struct.pack(">d", float(score))))
        elif kind == "stream":
            parts = (*_flat(value), *_stream_state(more))
        else:
            parts = (blob(value)[:-_DUMP_TAIL],)
        return [(self._term(*head, *parts), expires)]

    def _hash_terms(
        self, head: tuple[bytes, ...], flat: list[bytes], more: object, expires: int
    ) -> list[tuple[int, int]]:
        pairs = dict(zip(flat[::2], flat[1::2], strict=True))
        own: dict[bytes, int] = {}
        if more is not None:
            times = {name: number(at) for name, at in zip(pairs, items(more), strict=True)}
            own = {name: at for name, at in times.items() if at > 0}
            pairs = {name: value for name, value in pairs.items() if times[name] != -2}
        if not pairs:
            # Its last field has expired, and the server has not come round to removing it.
            return []
        lasting = [part for name in sorted(pairs.keys() - own.keys()) for part in (name, pairs[name])]
        # A hash is gone with the last of its fields, and they are gone with it.
        end = expires or (0 if lasting else max(own.values(), default=0))
        terms = [(self._term(*head, *lasting), end)]
        for name, at in own.items():
            part = self._term(*head, b"field", name, pairs[name], str(at).encode())
            terms.append((part, min(at, end) if end else at))
        return terms

    def _term(self, *parts: bytes) -> int:
        self._load += sum(map(len, parts))
        return _digest(*parts)

    def _timing(self, keys: Sequence[bytes]) -> list[tuple[Word, ...]]:
        """Give the commands that tell when keys expire."""
        if not self._keys_expire:
            return []
        if self._scripts:
            return [("EVAL", _EXPIRIES if self._known >= (7,) else _EXPIRIES_BY_REST, len(keys), *keys)]
        if self._known >= (7,):
            return [("PEXPIRETIME", key) for key in keys]
        # Version 6 tells the milliseconds that are left: exact when the clock shows the same one before and after.
        commands: list[tuple[Word, ...]] = []
        for start in range(0, len(keys), _TIMED):
            commands += [("TIME",), *(("PTTL", key) for key in keys[start : start + _TIMED]), ("TIME",)]
        return commands

    def _expiries(self, keys: Sequence[bytes], answers: Sequence[object]) -> list[int]:
        """Give the millisecond each key expires, -1 for never, -2 for a key that is gone."""
        if not self._keys_expire:
            return [-1] * len(keys)
        if self._scripts:
            return [int(one) for one in blob(answers[0]).split()]
        if self._known >= (7,):
            return [number(answer) for answer in answers]
        found: list[int] = []
        for start in range(0, len(keys), _TIMED):
            some = keys[start : start + _TIMED]
            told, answers = answers[: len(some) + 2], answers[len(some) + 2 :]
            found += self._by_rest(some, told)
        return found

    def _by_rest(self, keys: Sequence[bytes], answers: Sequence[object]) -> list[int]:
        before, after = _millisecond(answers[0]), _millisecond(answers[-1])
        rests = [number(answer) for answer in answers[1:-1]]
        if before == after or max(rests) < 0:
            return [before + rest if rest >= 0 else rest for rest in rests]
        again = iter(self._each([key for key, rest in zip(keys, rests, strict=True) if rest >= 0]))
        return [next(again) if rest >= 0 else rest for rest in rests]

    def _each(self, keys: Sequence[bytes]) -> list[int]:
        """Ask again, each key between two looks at the clock, until these show the same millisecond."""
        found: dict[bytes, int] = {}
        while left := [key for key in keys if key not in found]:
            answers = self._link.ask_all([one for key in left for one in (("TIME",), ("PTTL", key), ("TIME",))])
            for key, before, rest, after in zip(left, answers[::3], answers[1::3], answers[2::3], strict=True):
                if number(rest) < 0:
                    found[key] = number(rest)
                elif _millisecond(before) == _millisecond(after):
                    found[key] = _millisecond(before) + number(rest)
        return [found[key] for key in keys]


def _may_run_scripts(link: Link) -> bool:
    try:
        return number(link.ask("EVAL", "return 1", 0)) == 1
    except redis.ResponseError:
        # Taken away by the ACL or a renamed command, or another script is running: asked key by key then.
        return False


def _stream_state(told: object) -> Iterator[bytes]:
    full = _named(told)
    yield blob(full["last-generated-id"])
    for group in sorted((_named(one) for one in items(full["groups"])), key=lambda one: blob(one["name"])):
        yield from (b"group", blob(group["name"]), blob(group["last-delivered-id"]), *_flat(group["pending"]))
        for consumer in sorted(blob(_named(one)["name"]) for one in items(group["consumers"])):
            yield from (b"consumer", consumer)


def _ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """Give batches while the next one is already being fetched: the server works while the last one is hashed."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _pages(link: Link, seen: set[int]) -> Iterator[tuple[str, list[bytes]]]:
    """Give the keys of a database by their type, page by page, each once."""
    # The first count: a later one falls as keys expire, and would match before all that are left were seen.
    first = number(link.ask("DBSIZE"))
    for kind in _KINDS:
        if len(seen) == first:
            return
        for page in _scan(link, seen, "TYPE", kind):
            yield kind, page
    if len(seen) != first:
        # Of a type that only a module knows, or expired in the meantime.
        for page in _scan(link, seen):
            for key, found in zip(page, link.ask_all([("TYPE", key) for key in page]), strict=True):
                yield text(found), [key]


def _scan(link: Link, seen: set[int], *only: str) -> Iterator[list[bytes]]:
    cursor = b"0"
    while True:
        answer = items(link.ask("SCAN", cursor, "COUNT", _PAGE, *only))
        page = []
        for name in items(answer[1]):
            # While a table is resized SCAN may give a key twice.
            mark = hash(name)
            if mark not in seen:
                seen.add(mark)
                page.append(blob(name))
        yield page
        cursor = blob(answer[0])
        if cursor == b"0":
            return


def _reading(kind: str, key: bytes) -> tuple[Word, ...]:
    match kind:
        case "list":
            return ("LRANGE", key, 0, -1)
        case "set":
            return ("SMEMBERS", key)
        case "zset":
            return ("ZRANGE", key, 0, -1, "WITHSCORES")
        case "hash":
            return ("HGETALL", key)
        case "stream":
            return ("XRANGE", key, "-", "+")
        case _:
            # A module's type is known to its module alone: its serialised form, equal for one version of it.
            return ("DUMP", key)


def _library(told: dict[str, object]) -> int:
    # Its functions are listed in whatever order; all of them stand in the code.
    return _digest(b"function", *(blob(told[name]) for name in ("library_name", "engine", "library_code")))


def _digest(*parts: bytes) -> int:
    found = hashlib.sha256()
    if sum(map(len, parts)) < _LARGE:
        found.update(b"".join([piece for part in parts for piece in (_length(len(part)), part)]))
    else:
        for part in parts:
            found.update(_length(len(part)))
            found.update(part)
    return int.from_bytes(found.digest(), "big")


def _flat(answer: object) -> list[bytes]:
    """Give the leaves of an answer in order, each list opened by its length, so that no two shapes look alike."""
    if isinstance(answer, bytes):
        return [answer]
    if isinstance(answer, list):
        nested = any(isinstance(one, list) for one in answer)
        leaves = [leaf for one in answer for leaf in _flat(one)]
        return [b"list", str(len(answer)).encode(), *leaves] if nested else leaves
    if isinstance(answer, redis.ResponseError):
        raise answer
    return [str(answer).encode()]


def _named(answer: object) -> dict[str, object]:
    flat = items(answer)
    return {text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _millisecond(answer: object) -> int:
    seconds, micros = items(answer)
    return number(seconds) * 1000 + number(micros) // 1000
