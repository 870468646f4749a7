"""Whether what Terraform made is still there: provisioners are run once, and Terraform never looks at what they did.

A root tells by its output ``places`` what it made; one whose providers look for themselves needs none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from docker.errors import NotFound
from pydantic import BaseModel, ConfigDict, ValidationError

from recoup.errors import PreconditionError
from recoup.stacks.compose_project import SANDBOX_LABEL, asking, connect

MARK = ".recoup-sandbox"


class Place(BaseModel):
    """One thing that a provisioner made, by the address of its resource."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    address: str
    kind: Literal["network", "volume", "directory"]
    name: str
    sandbox: str


class _Places(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    value: tuple[Place, ...]


class _Outputs(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")
    places: _Places | None = None


def places_of(outputs: str) -> tuple[Place, ...]:
    """Read ``terraform output -json``; none where the root has no such output, or was never applied."""
    try:
        found = _Outputs.model_validate_json(outputs).places
    except ValidationError as error:
        raise PreconditionError(
            f"the Terraform root's output places cannot be read: {error.error_count()} things are wrong with it",
            next_step="let it list address, kind, name and sandbox, as infra/terraform/sandbox does",
        ) from None
    return found.value if found else ()


def gone(places: tuple[Place, ...]) -> tuple[str, ...]:
    """Give the addresses of what is not there, or is another's; PreconditionError where the engine does not answer."""
    return tuple(place.address for place in places if not _there(place))


def _there(place: Place) -> bool:
    if place.kind == "directory":
        try:
            return (Path(place.name) / MARK).read_text(encoding="utf-8").strip() == place.sandbox
        except FileNotFoundError:
            return False
        except OSError as error:
            raise PreconditionError(f"{place.name} cannot be looked at: {error.strerror}") from None
    client, _ = connect()
    kept = client.networks if place.kind == "network" else client.volumes
    with asking(f"look for the {place.kind} {place.name}"):
        try:
            found = kept.get(place.name).attrs
        except NotFound:
            return False
    return str((found.get("Labels") or {}).get(SANDBOX_LABEL, "")) == place.sandbox
