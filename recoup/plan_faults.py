"""What is wrong with a plan's data: faults of shape in words, secrets in clear, and the lines that are shown."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from recoup.plan_text import Place, PlanText, Problem, show_place
from recoup.plan_words import UNIT_MISSING
from recoup.secrets import SecretRef

M = TypeVar("M", bound=BaseModel)

_REFERENCE: TypeAdapter[str] = TypeAdapter(SecretRef)
# Tried in this order wherever a value is missing or wrong; they are judged by, and never used.
_STAND_INS: tuple[object, ...] = (
    *("stand-in", "1m", "env:STAND_IN", "/stand-in", "http://stand-in", 1, 200, [], {}, [{}], "STAND_IN", "1.0.0"),
    *("0 0 1 1 *", "2026-01-01", "0x" + "0" * 40, "0x" + "0" * 64, "0" * 64),
    *("critical", "GET", "database", "service", "nightly", "neo-n3"),
    *({"kind": "process", "directory": "/"}, {"kind": "service", "tier": "critical", "service": "stand-in"}),
)
_ROUNDS = 80
_NAMES_SECRET = re.compile(r"passw(or)?d|passphrase|secret|token|credential|private_?key|api_?key", re.IGNORECASE)
# Keys that only speak of secrets.
_INNOCENT = {"token_field"}
_IN_TEXT = (
    (re.compile(r"[a-zA-Z][\w+.-]*://[^\s/:@]*:(?![$<{*])[^\s/@]+@"), "a password inside a URL"),
    (
        re.compile(r"\b\w*(?:PASSWORD|PASSWD|SECRET|TOKEN|PGPASS)\w*=(?![$<{*\"'])[^\s;]+"),
        "a password given in a command's environment",
    ),
    (re.compile(r"--(?:password|pass|token|secret)[= ](?![$<{*\"'-])[^\s]+"), "a password given to a command"),
    (re.compile(r"\bredis-cli\b.*\s-a\s+(?![$<{*\"'])\S+"), "a password given to a command"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"), "a private key"),
    (re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]+", re.IGNORECASE), "a private key"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), "a cloud access key"),
)
_SECRET_RULE = "a secret written in clear"
_SECRET_WHY = "the plan is in version control and read by many; write env:NAME, file:/path or dotenv:/path#NAME instead"

_WHY = {
    "extra_forbidden": "it would be ignored in silence, and what it was meant to set would not be set",
    "missing": "the procedures need it, and would find out during an outage",
    "union_tag_invalid": "the kind says how the component is checked and recovered",
    "union_tag_not_found": "the kind says how the component is checked and recovered",
    "too_short": "an empty list here leaves people or procedures with nothing to go by",
}
_PLAINLY = {"too_short": "at least one is needed", "path_type": "not a path", "none_required": "nothing may stand here"}
_UNIT_WHY = "15 read as seconds or as hours decides whether data is lost; the plan must not leave it to a guess"


def validate(model: type[M], data: dict[str, object]) -> tuple[M | None, M | None, list[Problem]]:
    """Give the model, the model as far as it can be repaired for further rules, and every fault of shape.

    Each is None when there is none. The repaired one has stand-ins where the faults are and is for judging only.
    """
    try:
        good = model.model_validate(data)
        return good, good, []
    except ValidationError as error:
        faults = _innermost(error)
    known = _known_keys(model)
    problems = _without_misspelt([_problem(fault, known) for fault in faults])
    return None, _repaired(model, data, known), problems


def secrets_in_clear(data: object, place: Place = ()) -> list[Problem]:
    """Find passwords, keys and tokens that stand in the plan itself; their values are not repeated."""
    return [
        Problem(at, _SECRET_RULE if not what else f"{_SECRET_RULE}: {what}", _SECRET_WHY)
        for at, what in _secrets(data, place)
    ]


def drawn_from(finding: Problem, faults: Iterable[Problem]) -> bool:
    """Say whether a finding rests on something that is wrong itself, and so means nothing."""
    wrong = {place for fault in faults for place in (fault.place, *fault.rests_on) if place}
    above = any(_within(place, other) for place in (finding.place, *finding.rests_on) for other in wrong)
    return above or any(_within(other, place) for place in finding.rests_on for other in wrong)


def _within(place: Place, other: Place) -> bool:
    return place[: len(other)] == other


def lines(problems: Iterable[Problem], text: PlanText) -> tuple[str, ...]:
    """Give each problem as one line, in the order of the file, each once."""
    found = list(dict.fromkeys(problems))
    clear = {problem.place for problem in found if problem.rule.startswith(_SECRET_RULE)}
    kept = [p for p in found if p.rule.startswith(_SECRET_RULE) or p.place not in clear]
    numbered = sorted(((text.line(p.place) or 0, p) for p in kept), key=lambda pair: pair[0])
    return tuple(
        f"{show_place(p.place)}{f' (line {number})' if number else ''}: {p.rule} - {p.why}".replace("\n", " ")
        for number, p in numbered
    )


def _secrets(data: object, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(data, dict):
        for key, value in data.items():
            here = (*place, str(key))
            if (
                _names_secret(key)
                and isinstance(value, str | int | float)
                and not isinstance(value, bool)
                and not _is_reference(value)
            ):
                yield here, ""
            else:
                yield from _secrets(value, here)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _secrets(value, (*place, index))
    elif isinstance(data, str):
        for pattern, what in _IN_TEXT:
            if pattern.search(data):
                yield place, what


def _names_secret(key: object) -> bool:
    return isinstance(key, str) and key not in _INNOCENT and _NAMES_SECRET.search(key) is not None


def _is_reference(value: object) -> bool:
    try:
        _REFERENCE.validate_python(value)
    except ValidationError:
        return False
    return True


def _innermost(error: ValidationError) -> list[ErrorDetails]:
    """Give the faults that have no fault inside: a list whose only entry is wrong is not also too short."""
    faults = error.errors(include_url=False, include_input=False)
    around = {fault["loc"][:length] for fault in faults for length in range(len(fault["loc"]))}
    return [fault for fault in faults if fault["loc"] not in around]


def _place(location: tuple[int | str, ...]) -> Place:
    """Drop from pydantic's location what is not in the file: the kind that a union was told apart by."""
    parts = [part for part in location if part != "[key]"]
    if len(parts) > 2 and (parts[0] == "components" or parts[:2] == ["platform", "stack"]):
        del parts[2]
    return tuple(parts)


def _problem(fault: ErrorDetails, known: set[str]) -> Problem:
    kind, place = fault["type"], _place(fault["loc"])
    message = _PLAINLY.get(kind) or fault["msg"].removeprefix("Value error, ")
    why = _WHY.get(kind, "a value the procedures cannot use would stop them during an outage")
    if kind == "extra_forbidden":
        near = _near(place, known)
        hint = f"; did you mean {near}?" if near else "; it belongs elsewhere" if place[-1] in known else ""
        rule = f"unknown key{hint}"
        return Problem(place, rule, why, ((*place[:-1], near),) if near else ())
    if kind == "missing":
        return Problem(place, "missing", why)
    if UNIT_MISSING in message:
        why = _UNIT_WHY
    elif "must be a reference" in message:
        return Problem(place, _SECRET_RULE, _SECRET_WHY)
    return Problem(place, message[:1].lower() + message[1:], why)


def _near(place: Place, known: set[str]) -> str:
    if place[-1] in known:
        return ""
    written = str(place[-1])
    near = difflib.get_close_matches(written, known, cutoff=0.75)
    # Letters that changed places come before letters that are others.
    return next((one for one in near if sorted(one) == sorted(written)), near[0] if near else "")


def _without_misspelt(problems: list[Problem]) -> list[Problem]:
    """Leave out what is only missing because its key is misspelt: that is one fault, not two."""
    meant = {place for problem in problems for place in problem.rests_on}
    return [problem for problem in problems if problem.rule != "missing" or problem.place not in meant]


def _repaired(model: type[M], data: dict[str, object], known: set[str]) -> M | None:
    """Give the model of the data with stand-ins wherever a value is missing or wrong; None when none would do.

    Without this, one missing key would hide every rule that is broken elsewhere until the next attempt.
    """
    mended = copy.deepcopy(data)
    tried: dict[Place, int] = {}
    for _ in range(_ROUNDS):
        try:
            return model.model_validate(mended)
        except ValidationError as error:
            faults = _innermost(error)
        for fault in faults:
            place = _place(fault["loc"])
            attempt = tried.get(place, 0)
            if not place or attempt >= len(_STAND_INS):
                return None
            tried[place] = attempt + 1
            owner = _owner(mended, place)
            if isinstance(owner, dict) and (fault["type"] == "extra_forbidden" or "[key]" in fault["loc"]):
                value = owner.pop(place[-1], None)
                if near := _near(place, known):
                    owner.setdefault(near, value)
            elif isinstance(owner, dict | list):
                last: Any = place[-1]
                owner[last] = copy.deepcopy(_STAND_INS[attempt])
    return None


def _owner(data: object, place: Place) -> Any:
    for part in place[:-1]:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return None
    return data


def _known_keys(model: type[BaseModel], seen: set[type[BaseModel]] | None = None) -> set[str]:
    seen = set() if seen is None else seen
    seen.add(model)
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        keys.add(field.alias or name)
        for inner in _models(field.annotation):
            if inner not in seen:
                keys |= _known_keys(inner, seen)
    return keys


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
