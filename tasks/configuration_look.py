"""When configuration was last seen to be what a set holds: a set of it is only published when something changed."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, ValidationError

from recoup.errors import RecoveryError
from recoup.records import Frozen
from tasks.configuration import Configuration


class LastLook(Frozen):
    """At this moment what was deployed was what the set holds."""

    set_id: str
    at: AwareDatetime


def note_look(configuration: Configuration, set_id: str, at: datetime) -> None:
    """Note that a set holds what is deployed; raises RecoveryError when that cannot be written."""
    place = _place(configuration)
    new = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(LastLook(set_id=set_id, at=at).model_dump_json(), encoding="utf-8")
        new.replace(place)
    except OSError as error:
        raise RecoveryError(
            f"{place} could not be written: {error.strerror}",
            state=f"{set_id} holds what is deployed; only that it still does was not noted",
            next_step=f"see to the space and rights of {place.parent}",
        ) from None


def last_look(configuration: Configuration, set_id: str) -> datetime | None:
    """Give when the set was last seen to hold what is deployed; None where this machine has not noted it."""
    try:
        found = LastLook.model_validate_json(_place(configuration).read_bytes())
    except (OSError, ValidationError):
        return None
    return found.at if found.set_id == set_id else None


def _place(configuration: Configuration) -> Path:
    return configuration.state / f"{configuration.component}.look"
