"""What every request for a recovery says, and the job that is made of it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, Field

from flows.procedure import Job, operator
from recoup.errors import RecoveryError
from recoup.plan import Plan
from recoup.records import Frozen, RecoveryRecord, Verdict


class Outage(Frozen):
    """What is known of the outage."""

    plan: Path = Field(description="The plan's YAML file, on the machine that runs the recovery")
    began: AwareDatetime | None = Field(
        None, description="When the outage began (UTC); unknown if left empty, and then no RTO is claimed"
    )
    began_source: str = Field("operator", description="Who says so: alert, operator")
    reason: str = Field("", description="Why the recovery is started")
    fresh: bool = Field(False, description="Begin anew instead of going on with a killed run")

    def job(
        self,
        plan: Plan,
        procedure: str,
        component: str,
        ledger: Path,
        *,
        same: set[str],
        scenario: str = "",
        fault: str | None = None,
        declared: datetime | None = None,
        bare: bool = False,
        covers: tuple[str, ...] = (),
        counted: tuple[str, ...] = (),
    ) -> Job:
        """Give the job of this request; a killed run is gone on with only by one whose ``same`` fields are the same."""
        return Job(
            plan=plan,
            procedure=procedure,
            scenario=scenario,
            component=component,
            ledger=ledger,
            began=self.began,
            began_source=self.began_source if self.began else "unknown",
            declared=declared,
            operator=operator(),
            reason=self.reason,
            fault=fault,
            drill=fault is not None,
            fresh=self.fresh,
            parameters=self.model_dump_json(include=same),
            bare=bare,
            covers=covers,
            counted=counted,
        )


class Recovery(Outage):
    """Which set may be used, and what is known of the outage."""

    backup: str = Field("latest", description="'latest' (the newest good set) or a set's id")


def require_recovered(record: RecoveryRecord) -> None:
    """Raise RecoveryError unless the record's verdict is ``recovered``, so that no failed run looks completed."""
    if record.verdict is not Verdict.RECOVERED:
        raise RecoveryError(f"{record.verdict}: {record.why}", state=record.state_left, next_step=record.next_step)
