"""What the Redis procedure does with a replica: kept apart at first, the freshest source, attached again at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flows.procedure import Run
from recoup.catalog import Repository
from recoup.errors import RecoupError, RecoveryError
from recoup.records import Outcome, Subject
from tasks.redis_replica import Attached, Detached, Replica, attach_redis_replica, detach_redis_replica
from tasks.redis_restore import restore_redis
from tasks.redis_source import FromReplica, back_up_redis_replica


def was_detached(run: Run) -> bool:
    """Say whether this run, killed or not, had begun to detach the replica."""
    return run.steps.opened_before(detach_redis_replica)


def detach(run: Run, replica: Replica) -> Detached:
    """Detach the replica, each time anew: since a killed run it may have been started, and follow again."""
    before = run.steps.done_before(detach_redis_replica)
    found = run.steps.step("Detach the replica", detach_redis_replica, replica, fresh=True)
    return found.model_copy(update={"followed": found.followed or (before.followed if before else None)})


@contextmanager
def kept_apart(detached: Detached | None) -> Iterator[None]:
    """Have a failure in the block say that the replica is detached, and that it stays so."""
    try:
        yield
    except RecoupError as error:
        if detached is None:
            raise
        how = "is stopped" if detached.stopped else "follows nobody, and keeps its data"
        state = "; ".join(part for part in (error.state, f"the replica {detached.service} {how}") if part)
        raise RecoveryError(error.what, state=state, next_step=error.next_step) from None


def from_replica(run: Run, replica: Replica, repository: Repository, detached: Detached) -> FromReplica:
    """Take a set of the replica; one that a killed run had taken is used, a refusal is looked at anew."""
    done = run.steps.done_before(back_up_redis_replica)
    anew = not run.steps.opened_before(restore_redis) and not (done and done.set_id)
    return run.steps.step("Back up the replica", back_up_redis_replica, replica, repository, detached, fresh=anew)


def attach_again(run: Run, replica: Replica, *, keep: bool, label: str) -> None:
    """Have the replica follow the primary, once the primary's data are proven; what goes wrong is a next step."""
    data = [check.outcome for check in run.checks if check.subject is Subject.DATA]
    if not data or any(outcome is not Outcome.PASSED for outcome in data):
        if was_detached(run):
            run.next_step = _also(run.next_step, f"{replica.service} is kept detached: the data are not proven")
        return
    done: Attached = run.steps.step("Have the replica follow", attach_redis_replica, replica, keep, label, fresh=True)
    if done.aside:
        run.state_left = _also(run.state_left, f"the replica's old data kept at {done.aside}")
    if done.trouble:
        run.next_step = _also(run.next_step, f"have {replica.service} follow its primary again: {done.trouble}")


def _also(text: str, more: str) -> str:
    return f"{text}; {more}" if text else more
