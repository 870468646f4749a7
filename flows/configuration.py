"""Configuration: back up what is deployed with its commit, prove the set, tell drift, bring a set back."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.procedure import Run, conduct, current_watcher
from flows.request import Recovery, require_recovered
from flows.steps import Steps
from recoup.catalog import Repository
from recoup.clock import store_loss
from recoup.errors import RecoupError, RecoveryError
from recoup.places import ledger_path
from recoup.plan import Plan, load_plan
from recoup.records import BackupUse, Check, Frozen, Outcome, RecoveryRecord, Subject
from tasks.configuration import Configuration
from tasks.configuration_backup import ConfigurationTaken, take_configuration_backup
from tasks.configuration_diff import compare
from tasks.configuration_look import last_look
from tasks.configuration_proof import prove_configuration_backup
from tasks.configuration_restore import (
    choose_configuration,
    compare_configuration,
    find_configuration,
    restore_files,
)
from tasks.copies_fetch import copies_of, would_fetch
from tasks.smoke import check_as_user

USER_DEADLINE = timedelta(seconds=15)
# The plan has no scenario of configuration alone: it is the first part of bringing the whole platform back.
SCENARIO = "platform"


class ConfigurationBackup(Frozen):
    """Which configuration to back up."""

    plan: Path = Field(description="The plan's YAML file, on the machine that runs the backup")
    component: str = Field("", description="The configuration component of the plan; empty: the only one")


class ConfigurationRecovery(Recovery):
    """Which configuration to bring back, from which set, and what is known of the outage."""

    component: str = Field("", description="The configuration component of the plan; empty: the only one")


@flow(name="back-up-configuration", log_prints=False)
def back_up_configuration(request: ConfigurationBackup) -> ConfigurationTaken:
    """Back the configuration up if it changed; raises RecoupError when that failed or the set cannot be restored."""
    return run_configuration_backup(load_plan(request.plan), request.component)


@flow(name="recover-configuration", log_prints=False)
def recover_configuration(request: ConfigurationRecovery) -> RecoveryRecord:
    """Bring the configuration back and give the record; raises RecoveryError when the verdict is not ``recovered``."""
    plan = load_plan(request.plan)
    record = run_configuration_recovery(plan, request, ledger=ledger_path(plan))
    require_recovered(record)
    return record


def run_configuration_backup(plan: Plan, component: str = "") -> ConfigurationTaken:
    """Publish a set if something changed since the newest, and restore it into a temporary directory.

    Raises RecoveryError when the restore test failed; a test that could not be made whole raises nothing, its result
    stands beside the set.
    """
    configuration = Configuration.of(plan, component)
    repository = Repository(plan.platform.repository)
    steps = Steps(current_watcher())
    taken = steps.step("Read and publish what is deployed", take_configuration_backup, configuration, repository)
    known = repository.get(configuration.spec.store, taken.set_id).verified
    if taken.published or known is None or not known.passed:
        proof = steps.step(
            "Restore the set for a test", prove_configuration_backup, configuration, repository, taken.set_id
        )
        _require_no_failure(
            proof.checks, f"the set {taken.set_id} cannot be restored", "the set is there, and noted so"
        )
    return taken


def run_configuration_recovery(plan: Plan, request: ConfigurationRecovery, *, ledger: Path) -> RecoveryRecord:
    """Run the configuration's procedure and give its record, which is in the ledger."""
    component, _ = plan.configuration(request.component or None)
    same = {"component", "backup"}
    # On an empty host the stack's own files come back only with the configuration.
    job = request.job(plan, "configuration", component, ledger, same=same, scenario=SCENARIO, bare=True)
    return conduct(job, lambda run: recover_files(run, request))


def recover_files(run: Run, request: ConfigurationRecovery, *, alone: bool = True) -> None:
    """Bring the files back and prove them; not ``alone``: whoever runs this as a part of more looks as a user."""
    plan, step = run.job.plan, run.steps.step
    configuration = Configuration.of(plan, run.job.component)
    repository = Repository(plan.platform.repository)
    # Derived from the run's first start, so that a resumed run names what it keeps alike.
    label = f"{run.journal.marks['started']:%Y%m%dT%H%M%SZ}"
    # 1 a set that is whole. Once files were written a newer set may hold half of them: the choice stands.
    anew = not run.steps.opened_before(restore_files)
    title, store = "Choose the newest whole set", configuration.spec.store
    chosen = step(title, choose_configuration, configuration, repository, request.backup, copies_of(plan), fresh=anew)
    run.backup = BackupUse(set_id=chosen.set_id, recovery_point=chosen.recovery_point, skipped=chosen.skipped)
    # 2 the difference, before anything is written
    found = step("Compare", compare_configuration, configuration, repository, chosen.set_id, fresh=True)
    for line in found.lines:
        run.steps.watcher.note(line)
    # 3 what differs, each file whole or not at all; looked at again also when a killed run had written it
    title = "Write the files and look again"
    restored = step(title, restore_files, configuration, repository, chosen.set_id, label, fresh=True)
    run.checks.extend(restored.checks)
    touched = bool(restored.written) or run.resumed
    run.state_left = f"old files are kept beside as *.before-{label}" if restored.aside or run.resumed else ""
    # 4 the user-level check through the gateway
    served = _as_user(run) if alone else True
    if touched and alone:
        run.next_step = "have the services read the files: docker compose up -d, or recoup recover for what is down"
    if not served:
        run.next_step = "start the platform with these files, then run it again: it proves what it could not now"
    # 5 what was lost
    objective = plan.rpo(store)
    point: datetime | None
    if touched:
        seen = last_look(configuration, chosen.set_id)
        point, basis = chosen.recovery_point, "when the set was taken; later changes are in a commit, or lost"
        if seen and seen > point:
            point, basis = seen, "when what was deployed was last seen to be as in the set"
    else:
        point, basis = run.began, "nothing that was deployed differed from the set"
    run.stores.append(store_loss(store, objective, run.began, point, basis))


def _as_user(run: Run) -> bool:
    """Make the plan's requests through the gateway and say whether they passed; unproven where it does not run."""
    plan = run.job.plan
    try:
        gateway = plan.service(plan.platform.gateway.component)
        why = "" if run.stack.state(gateway).running else f"{gateway} does not run"
    except RecoupError as error:
        why = error.what
    if why:
        expected = "the plan's requests pass"
        run.checks.append(
            Check(name="gateway", subject=Subject.USER, outcome=Outcome.UNPROVEN, expected=expected, seen=why)
        )
        return False
    title = "Check as a user, through the gateway"
    seen = run.steps.step(title, check_as_user, plan, run.stack, USER_DEADLINE, fresh=True)
    run.checks.extend(seen.checks)
    run.mark("restored", seen.restored)
    return seen.restored is not None


def preview_configuration(plan: Plan, component: str = "", backup: str = "latest") -> tuple[str, ...]:
    """Give, line by line, what a restore would change; changes nothing."""
    configuration = Configuration.of(plan, component)
    repository = Repository(plan.platform.repository)
    try:
        chosen = find_configuration(configuration, repository, backup)
    except RecoveryError as error:
        return would_fetch(plan, error)
    found = compare(configuration, repository.get(configuration.spec.store, chosen.set_id))
    skipped = tuple(f"not usable: {one.set_id}: {one.reason}" for one in chosen.skipped)
    return (*skipped, f"use backup set {chosen}", str(found), *found.lines)


def _require_no_failure(checks: tuple[Check, ...], what: str, state: str) -> None:
    failed = [f"{check.name}: {check.seen}" for check in checks if check.outcome is Outcome.FAILED]
    if failed:
        raise RecoveryError(
            f"{what}: {'; '.join(failed)}",
            state=state,
            next_step="see to what is named, then run it again",
        )
