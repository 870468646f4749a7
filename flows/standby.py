"""The warm standby: it takes over when the database is lost, and the old primary is made its standby."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from pydantic import Field

from flows.continuous import note_receiving
from flows.procedure import Run, current_watcher, operator
from flows.steps import Steps
from recoup.catalog import Repository
from recoup.lease import lease
from recoup.plan import Plan, load_plan
from recoup.records import BackupUse, Frozen, now
from recoup.stacks import open_stack
from tasks.postgres import Server
from tasks.postgres_replay import resume_receiving
from tasks.postgres_standby import Promoted, choose_standby, fence_primary, promote_standby
from tasks.postgres_standby_build import Built, Pair, build_standby, give_up, pair_of, see_to_standby
from tasks.wal_receiver import continuous_of


class StandbyRequest(Frozen):
    """Which pair of servers is meant, and which of the two is given up when both take writes."""

    plan: Path = Field(description="The plan's YAML file, on the machine that runs it")
    component: str = Field("", description="The postgres component of the plan; empty: the only one")
    give_up: str = Field("", description="The service that loses its place, when both take writes; its data are kept")


@flow(name="build-standby", log_prints=False)
def build_pair(request: StandbyRequest) -> Built:
    """Make the server that is not in charge the standby of the other; raises RecoupError when it does not follow."""
    plan = load_plan(request.plan)
    name, spec = plan.postgres(request.component or None)
    with lease(plan.platform.state, plan.platform.name, f"standby built by {operator()}"):
        server, label = Server(open_stack(plan), name, spec), f"{now():%Y%m%d%H%M%S}"
        steps = Steps(current_watcher())
        if request.give_up:
            server = give_up(server, request.give_up)
            steps.step("Fence the one that is given up", fence_primary, server.other(), label)
        else:
            server = server.in_charge()
        return steps.step("Have the other one follow", build_standby, server, label)


def pair(plan: Plan, component: str = "") -> Pair:
    """Look at a pair of servers and give what state it is in."""
    return pair_of(Server.of(plan, open_stack(plan), component or None))


def take_over(
    run: Run, server: Server, repository: Repository, label: str, *, anew: bool
) -> tuple[Promoted | None, str]:
    """Fence the primary and promote its standby; None, with the reason, where that one cannot take over.

    The services that depend on the database are not stopped: they ask for whichever of the two takes writes.
    """
    step = run.steps.step
    chosen = step("See whether the standby can take over", choose_standby, server, repository, fresh=anew)
    if not chosen.service:
        return None, chosen.why
    # The pair may have changed places already, if this run was killed on the way.
    step("Fence the old primary", fence_primary, server.named(chosen.instead_of), label)
    new = server.named(chosen.service)
    done = step("Promote the standby", promote_standby, new, chosen)
    if not done.done:
        return None, done.why
    run.backup = BackupUse(
        set_id=None, recovery_point=done.recovery_point, why=f"the standby {done.service} took over: {chosen.why}"
    )
    run.checks.extend(done.checks)
    run.state_left = f"{chosen.instead_of} is stopped and fenced; its data are whole"
    if continuous_of(new).policy == "zero-loss":
        # Until then no commit comes back.
        receive_anew(run, new)
    return done, ""


def receive_anew(run: Run, server: Server) -> None:
    """Have the WAL of the new primary received, if that was not done in this run."""
    if run.steps.done_before(resume_receiving) is None:
        note_receiving(run, run.steps.step("Receive the WAL of the new primary", resume_receiving, server))


def follow_again(run: Run, server: Server, label: str, *, sound: bool) -> None:
    """Have a standby follow the recovered server; that none does is the next thing to see to, and no failure."""
    built = run.steps.step("Have the other one follow", see_to_standby, server, label, sound, fresh=True)
    if built.service:
        run.state_left = f"the old data of {built.service} are kept at {built.aside}" if built.aside else ""
    else:
        run.next_step = run.next_step or f"no standby follows ({built.why}): recoup standby build"
