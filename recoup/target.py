"""Up to where a database is to be restored: the latest moment, a time, a record, or just before a transaction."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from recoup.errors import PreconditionError
from recoup.records import Frozen

_LSN = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")


class Target(Frozen):
    """One of them is set, or none for the latest moment. ``xid`` and ``lsn`` themselves are not replayed any more.

    ``through`` is the LSN of the last record that is.
    """

    time: datetime | None = None
    xid: int | None = None
    lsn: str = ""
    through: str = ""

    @property
    def latest(self) -> bool:
        return self.time is None and self.xid is None and not self.lsn and not self.through

    def __str__(self) -> str:
        if self.time:
            return f"{self.time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC"
        if self.xid is not None:
            return f"just before transaction {self.xid}"
        if self.through:
            return f"the record at {self.through}"
        return f"just before {self.lsn}" if self.lsn else "the latest moment"

    @property
    def text(self) -> str:
        """What parse_target reads it from."""
        if self.time:
            return self.time.isoformat()
        if self.xid is not None:
            return f"xid:{self.xid}"
        if self.through:
            return f"through:{self.through}"
        return f"lsn:{self.lsn}" if self.lsn else "latest"

    def settings(self) -> tuple[str, ...]:
        """Give PostgreSQL's settings for it (manual, section 19.5.6)."""
        if self.time:
            return (f"recovery_target_time={self.time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}+00",)
        if self.xid is not None:
            return (f"recovery_target_xid={self.xid}", "recovery_target_inclusive=off")
        if self.through:
            return (f"recovery_target_lsn={self.through}", "recovery_target_inclusive=on")
        return (f"recovery_target_lsn={self.lsn}", "recovery_target_inclusive=off") if self.lsn else ()


def parse_target(text: str) -> Target:
    """Read ``latest``, a time with its zone (``2026-11-23 03:12:05+00``), ``xid:1234`` or ``lsn:0/3000028``.

    Also ``through:0/3000028``, the record at an LSN included.
    """
    kind, _, value = text.strip().partition(":")
    if text.strip() in ("", "latest"):
        return Target()
    if kind == "xid" and value.isdecimal():
        return Target(xid=int(value))
    if kind in ("lsn", "through") and _LSN.fullmatch(value):
        return Target(lsn=value.upper()) if kind == "lsn" else Target(through=value.upper())
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise PreconditionError(
            f"{text!r} is no moment to restore to",
            next_step="write latest, 2026-11-23T03:12:05Z, xid:1234 or lsn:0/3000028",
        ) from None
    if moment.tzinfo is None:
        raise PreconditionError(f"{text} has no time zone", next_step=f"write {text}Z for UTC, or add the offset")
    if moment > datetime.now(UTC):
        raise PreconditionError(f"{text} is in the future", next_step="write latest for all there is")
    return Target(time=moment)
