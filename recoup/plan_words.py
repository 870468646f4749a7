"""The words a plan is written with: durations, names, sizes, addresses, references to secrets."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, StringConstraints, WithJsonSchema

from recoup.records import Frozen
from recoup.secrets import SecretRef

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_DURATION = re.compile(r"(?:\d{1,9}(?:ms|[smhd]))+")
_PART = re.compile(r"(\d+)(ms|[smhd])")
_NUMBER = re.compile(r"[+-]?[\d._:]+")
UNIT_MISSING = "unit missing"


def parse_duration(value: object) -> timedelta:
    """Give the duration of a text such as ``15m``, ``1h30m``, ``0m`` or ``500ms``; ValueError for anything else."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("not a duration; write a number with its unit, such as 15m, 1h, 2d or 500ms")
    text = str(value).strip()
    if _NUMBER.fullmatch(text):
        raise ValueError(f"{UNIT_MISSING}: {text} of what? write it with s, m, h or d, such as {text.strip('+-')}m")
    if not _DURATION.fullmatch(text):
        raise ValueError("not a duration; write a number with its unit, such as 15m, 1h, 2d or 500ms")
    return sum((int(number) * _UNITS[unit] for number, unit in _PART.findall(text)), timedelta())


def write_duration(value: timedelta) -> str:
    """Give the shortest text that ``parse_duration`` reads back to the same duration, to the millisecond."""
    for unit in ("d", "h", "m", "s"):
        if value and value % _UNITS[unit] == timedelta():
            return f"{value // _UNITS[unit]}{unit}"
    return f"{value // _UNITS['ms']}ms" if value else "0m"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(write_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^(\d{1,9}(ms|[smhd]))+$", "examples": ["15m", "1h", "0m", "1d"]}),
]
# The default handling would let an editor accept a password; the schema says the same as the validator does.
Secret = Annotated[
    SecretRef,
    WithJsonSchema(
        {"type": "string", "pattern": "^(env:|file:/|dotenv:/)", "description": "where the secret is, never the secret"}
    ),
]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Port = Annotated[int, Field(strict=True, ge=1, le=65535)]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+\S*$")]
UrlPath = Annotated[str, StringConstraints(pattern=r"^/\S*$")]
Tier = Literal["critical", "non-critical"]
Number = Annotated[int, Field(strict=True, ge=0)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Size = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,6}(MB|GB|TB)$")]


class ComponentBase(Frozen):
    """What every component of a plan has."""

    tier: Tier
    depends_on: tuple[Name, ...] = ()
    description: str = ""
