"""What the plan is made of, third part: what the written document tells people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from recoup.plan_words import Count, Duration, Name, Text
from recoup.records import Frozen

Procedure = Literal["database", "service", "platform", "blockchain", "breach"]
Every = Literal["nightly", "monthly", "quarterly", "annual"]

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))


def _is_cron(text: str) -> str:
    """Five fields of numbers, ranges, steps and lists: what every scheduler reads alike."""
    fields = text.split()
    if len(fields) != len(_FIELDS):
        raise ValueError("a schedule has five fields: minute, hour, day of month, month, day of week")
    for field, (name, low, high) in zip(fields, _FIELDS, strict=True):
        for part in field.split(","):
            span, _, step = part.partition("/")
            ends = [] if span == "*" else span.split("-")
            numbers = [*ends, *([step] if "/" in part else [])]
            if len(ends) > 2 or not all(n.isdecimal() for n in numbers) or not all(low <= int(n) <= high for n in ends):
                raise ValueError(f"the {name} of a schedule goes from {low} to {high}")
    return text


class RtoObjectives(Frozen):
    """How long each tier, and the whole platform, may be away."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    critical: Duration
    non_critical: Duration = Field(alias="non-critical")
    platform: Duration


class Objectives(Frozen):
    """Recovery time by tier; recovery point by store."""

    rto: RtoObjectives
    rpo: dict[Name, Duration]


class WrittenStep(Frozen):
    """One step as the document has it.

    ``command`` is the document's own, for the day recoup itself is away; ``recoup`` says what is done instead,
    ``unsafe`` why the document's command must not be run as it stands.
    """

    title: Text
    command: Text | None = None
    recoup: str = ""
    unsafe: str = ""


class Scenario(Frozen):
    """A way to fail, the signals that tell of it, and the procedure that answers it."""

    name: Name
    title: Text
    procedure: Procedure
    covers: tuple[Name, ...] = ()
    detection: tuple[Text, ...] = ()
    steps: tuple[WrittenStep, ...] = ()


class WrittenProcedure(Frozen):
    """A recovery procedure of the document, with the script that held it."""

    name: Name
    title: Text
    script: Text
    steps: tuple[WrittenStep, ...]


class Drill(Frozen):
    """One test of the calendar. ``schedule`` is cron in the plan's time zone, ``scenario`` what is rehearsed."""

    name: Text
    every: Every
    schedule: Annotated[str, AfterValidator(_is_cron)]
    scenario: Name | None = None
    fault: Name | None = None
    what: str = ""


class Contact(Frozen):
    role: Text
    name: Text
    phone: Text
    email: Text


class ExternalContact(Frozen):
    service: Text
    contact: Text
    phone: Text | None = None
    email: Text


class EscalationLevel(Frozen):
    """Who is called when the level below has not answered ``after`` the declaration."""

    level: Count
    who: Text
    via: Text | None = None
    after: Duration


class ChecklistItem(Frozen):
    """One line of the validation checklist, and the name of the check that ticks it."""

    item: Text
    check: Annotated[str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9-]*)?$")] = ""


class FollowUp(Frozen):
    """What is done after a recovery; ``owner`` is the role of a contact, the first one's where none is named."""

    action: Text
    owner: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_owner(cls, value: object) -> object:
        return {"action": value} if isinstance(value, str) else value


class UsefulCommand(Frozen):
    """A command for a person at a terminal; ``recoup`` is what does the same safely, ``unsafe`` why to prefer it."""

    title: Text
    command: Text
    recoup: str = ""
    unsafe: str = ""


class Locations(Frozen):
    """Where things are, besides the backup directory, which is ``platform.repository``."""

    scripts: Path
    bucket: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
