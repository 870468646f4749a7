"""Configuration: back up what is deployed with its commit, prove the set, tell drift, bring a set back."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.procedure import Steps, current_watcher, operator
from recoup.catalog import Repository
from recoup.errors import PreconditionError, RecoveryError
from recoup.lease import lease
from recoup.plan import Plan, load_plan
from recoup.records import Check, Frozen, Outcome, now
from tasks.configuration import Configuration
from tasks.configuration_backup import ConfigurationTaken, take_configuration_backup, unprotected_drift
from tasks.configuration_diff import compare
from tasks.configuration_proof import prove_configuration_backup
from tasks.configuration_restore import (
    ConfigurationRestored,
    choose_configuration,
    compare_configuration,
    find_configuration,
    restore_files,
)


class ConfigurationBackup(Frozen):
    """Which configuration to back up."""

    plan: Path = Field(description="The plan's YAML file, on the machine that runs the backup")
    component: str = Field("", description="The configuration component of the plan; empty: the only one")


class ConfigurationRestore(Frozen):
    """Which configuration to bring back, and from which set."""

    plan: Path = Field(description="The plan's YAML file, on the machine that runs the restore")
    component: str = Field("", description="The configuration component of the plan; empty: the only one")
    backup: str = Field("latest", description="'latest' (the newest whole set) or a set's id")


@flow(name="back-up-configuration", log_prints=False)
def back_up_configuration(request: ConfigurationBackup) -> ConfigurationTaken:
    """Back the configuration up if it changed; raises RecoupError when that failed or the set cannot be restored."""
    return run_configuration_backup(load_plan(request.plan), request.component)


@flow(name="restore-configuration", log_prints=False)
def restore_configuration(request: ConfigurationRestore) -> ConfigurationRestored:
    """Bring the configuration back from a set; raises RecoveryError when it is not afterwards as the set has it."""
    return run_configuration_restore(load_plan(request.plan), request.component, request.backup)


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


def run_configuration_restore(plan: Plan, component: str = "", backup: str = "latest") -> ConfigurationRestored:
    """Choose a set, show how it differs, write what differs, look again; under the platform's lease."""
    configuration = Configuration.of(plan, component)
    repository = Repository(plan.platform.repository)
    watcher = current_watcher()
    steps = Steps(watcher)
    with lease(plan.platform.state, plan.platform.name, f"configuration restore by {operator()}"):
        label = f"{now():%Y%m%dT%H%M%SZ}"
        chosen = steps.step("Choose the newest whole set", choose_configuration, configuration, repository, backup)
        found = steps.step("Compare", compare_configuration, configuration, repository, chosen.set_id)
        for line in found.lines:
            watcher.note(line)
        restored = steps.step(
            "Write the files and look again", restore_files, configuration, repository, chosen.set_id, label
        )
    _require_no_failure(
        restored.checks, "the configuration is not as in the set", "old files are kept as *.before-" + label
    )
    return restored


def preview_configuration(plan: Plan, component: str = "", backup: str = "latest") -> tuple[str, ...]:
    """Give, line by line, what a restore would change; changes nothing."""
    configuration = Configuration.of(plan, component)
    repository = Repository(plan.platform.repository)
    chosen = find_configuration(configuration, repository, backup)
    found = compare(configuration, repository.get(configuration.spec.store, chosen.set_id))
    skipped = tuple(f"not usable: {one.set_id}: {one.reason}" for one in chosen.skipped)
    return (*skipped, f"use backup set {chosen}", str(found), *found.lines)


def configuration_drift(plan: Plan) -> tuple[str, ...]:
    """Give, line by line, how deployed configuration differs from its commit, and what no backup set holds.

    A secret that is meant to be in no commit is not named while the newest set holds it as it is.
    """
    try:
        name, _ = plan.configuration()
    except PreconditionError:
        return ()
    return unprotected_drift(Configuration.of(plan, name), Repository(plan.platform.repository))


def _require_no_failure(checks: tuple[Check, ...], what: str, state: str) -> None:
    failed = [f"{check.name}: {check.seen}" for check in checks if check.outcome is Outcome.FAILED]
    if failed:
        raise RecoveryError(
            f"{what}: {'; '.join(failed)}",
            state=state,
            next_step="see to what is named, then run it again",
        )
