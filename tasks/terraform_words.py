"""What terraform says, read: why it refused, who holds its lock, and what a saved plan would do."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, ValidationError

from recoup.errors import PreconditionError, RecoupError, RecoveryError
from recoup.records import Frozen
from tasks.terraform_program import Program

_FRAME = re.compile(r"^[╷│╵ ]+", re.MULTILINE)
_ERROR = re.compile(r"^Error: (.+?)(?=^Error: |^Warning: |\Z)", re.MULTILINE | re.DOTALL)
_FIELD = re.compile(r"^ *(ID|Who|Operation|Created): +(.+)$", re.MULTILINE)
_OTHER = re.compile(r"already locked: ID=(\S+)")
_NO_PLUGIN = re.compile(r"provider packages|install provider|provider plugin|no package for", re.IGNORECASE)
_NO_STATE = re.compile(
    r"backend|\bstate\b.*(?:fail|unable|cannot)|(?:fail|unable|error)\S* .*\b(?:state|workspaces)\b", re.IGNORECASE
)
_LONGEST = 1500


class Held(Frozen):
    """Who holds the lock of a state, since when, and for what."""

    id: str
    who: str = "somebody"
    since: str = "an unknown time"
    operation: str = ""

    def __str__(self) -> str:
        return f"{self.who} since {self.since}" + (f" ({self.operation})" if self.operation else "")


class Changes(Frozen):
    """What a saved plan would do, by resource address.

    ``again``: made anew, because it is gone in truth, or because an apply that failed left it half-made (tainted).
    """

    created: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    destroyed: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        return bool(self.created or self.changed or self.again or self.destroyed)

    @property
    def lines(self) -> tuple[str, ...]:
        """One line for each resource, what is destroyed first."""
        named = {"destroy": self.destroyed, "make again": self.again, "change": self.changed, "create": self.created}
        return tuple(f"{verb} {address}" for verb, addresses in named.items() for address in addresses)

    def __str__(self) -> str:
        if not self.any:
            return "nothing to do: all is as the root says"
        counts = {
            "create": self.created,
            "make again what is gone or half-made": self.again,
            "change": self.changed,
            "destroy": self.destroyed,
        }
        return ", ".join(f"{verb} {len(addresses)}" for verb, addresses in counts.items() if addresses)


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Change(_Read):
    actions: tuple[str, ...]


class _Resource(_Read):
    address: str
    mode: str = "managed"
    action_reason: str = ""
    change: _Change


class _Shown(_Read):
    resource_changes: tuple[_Resource, ...] = ()


def read_plan(text: str, gone: tuple[str, ...]) -> Changes:
    """Read ``terraform show -json`` of a saved plan; ``gone`` are addresses whose real thing is no more."""
    try:
        shown = _Shown.model_validate_json(text)
    except ValidationError:
        raise PreconditionError(
            "what terraform shows of its saved plan cannot be read",
            next_step="see that terraform is 1.4 or newer: terraform version",
        ) from None
    created: list[str] = []
    changed: list[str] = []
    again: list[str] = []
    destroyed: list[str] = []
    for one in shown.resource_changes:
        actions = set(one.change.actions)
        if one.mode != "managed":
            continue
        if "delete" in actions or "forget" in actions:
            lost = one.address in gone or one.action_reason == "replace_because_tainted"
            (again if lost and "create" in actions else destroyed).append(one.address)
        elif "create" in actions:
            created.append(one.address)
        elif "update" in actions:
            changed.append(one.address)
    return Changes(created=tuple(created), changed=tuple(changed), again=tuple(again), destroyed=tuple(destroyed))


def holder(err: str) -> Held | None:
    """Give who holds the lock, read from terraform's refusal; None when that is not why it refused."""
    text = _FRAME.sub("", err)
    if "acquiring the state lock" not in text and "state lock" not in text.lower():
        return None
    seen = {name: value.strip() for name, value in _FIELD.findall(text)}
    # The HTTP back end tells of the one that was refused, and of the one that holds it by its id alone.
    if (other := _OTHER.search(text)) and other[1] != seen.get("ID"):
        return Held(id=other[1])
    operation = seen.get("Operation", "").removeprefix("OperationType").lower()
    known = {"who": seen.get("Who", ""), "since": seen.get("Created", "")}
    return Held(id=seen.get("ID", ""), operation=operation, **{name: text for name, text in known.items() if text})


def complaint(err: str) -> str:
    """Give what terraform complains of, without its frames and warnings."""
    text = _FRAME.sub("", err)
    found = "; ".join(" ".join(one.split()) for one in _ERROR.findall(text)) or " ".join(text.split())
    return found[:_LONGEST]


def refused(program: Program, what: str, err: str, *, begun: bool = False, state: str = "") -> RecoupError:
    """Give the error for a refusal of terraform: what happened, what was left, and the next step.

    ``begun``: something may have been changed by then.
    """
    if held := holder(err):
        return PreconditionError(
            f"Terraform's state is locked by {held}: {what} was not begun",
            next_step=(
                "wait for that one to end. If you have seen on its machine that no terraform runs there any more: "
                + program.by_hand("force-unlock", held.id or "LOCK_ID")
            ),
        )
    said = complaint(err)
    if begun:
        return RecoveryError(
            f"{what} failed: {said}",
            state=state,
            next_step="correct what is named, then run the same command again: it plans anew and carries on from there",
        )
    if _NO_PLUGIN.search(said):
        step = (
            "give this host its providers: platform.terraform.plugins names a directory of them, or let it reach them"
        )
        return PreconditionError(f"{what}: a provider cannot be had: {said}", next_step=step)
    if _NO_STATE.search(said):
        step = "see that the back end is up and this host may use it (credentials, network), then run it again"
        return PreconditionError(f"{what}: Terraform's state cannot be reached: {said}", next_step=step)
    return PreconditionError(f"{what} failed: {said}", next_step=f"see: {program.by_hand('plan')}")
