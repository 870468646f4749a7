"""Bringing one service back: restarted; where that does not help made anew; then from the last healthy image."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from recoup.causes import Ailment, Seen
from recoup.errors import RecoveryError
from recoup.plan import Plan, RedisComponent
from recoup.records import Frozen
from recoup.stacks import Stack
from tasks.images import healthy_image, short
from tasks.service_look import settled
from tasks.step import note, step

# How long a service may take to end in good order; one that answers nobody has nothing to put in order.
GRACE = timedelta(seconds=10)
GRACE_OF_HANGING = timedelta(seconds=2)
COMING_BACK = timedelta(seconds=5)


class Treated(Frozen):
    """How a service is after something was done to it, and ``left``: what a person has to know of it."""

    after: Seen
    done: str
    left: str = ""

    def __str__(self) -> str:
        return f"{self.done}: {self.after.ailment}" + (f" ({self.after.seen})" if self.after.ill else "")


@step(timeout=timedelta(hours=2))
def restart_service(plan: Plan, stack: Stack, seen: Seen, effect: bool) -> Treated:
    """Restart a service that was seen not to be well and wait until it is, has ended, or its time is up.

    One that rests on what has just been brought back (an ``effect``) is given a moment first. What is well by then is
    not touched, nor is a Redis that is loading its data.
    """
    before = settled(plan, stack, seen.component, COMING_BACK) if effect else seen
    if before.ailment is Ailment.WELL:
        return Treated(after=before, done="well again by itself, not restarted")
    if isinstance(plan.component(seen.component), RedisComponent) and before.ailment is Ailment.STARTING:
        return Treated(after=settled(plan, stack, seen.component), done="loading its data, waited for")
    note(f"restarting {before.service}")
    grace = GRACE_OF_HANGING if before.ailment is Ailment.HANGING else GRACE
    return Treated(
        after=_after(plan, stack, before, lambda: stack.restart(before.service, timeout=grace)), done="restarted"
    )


@step(timeout=timedelta(minutes=20))
def redeploy_service(plan: Plan, stack: Stack, before: Seen) -> Treated:
    """Make the service anew from its definition, alone, its data kept, and wait as after a restart."""
    note(f"making {before.service} anew from its definition")
    return Treated(after=_after(plan, stack, before, lambda: stack.recreate(before.service)), done="made anew")


@step(timeout=timedelta(minutes=20))
def roll_back_service(plan: Plan, stack: Stack, before: Seen) -> Treated:
    """Make the service from the last image that was healthy, where one is known and it has another now."""
    known, has = healthy_image(plan, before.component), stack.image(before.service)
    if known is None:
        return Treated(after=before, done="not rolled back, no image of it was ever noted as healthy")
    if known.image == has:
        return Treated(after=before, done=f"not rolled back, it has the image that was healthy ({known})")
    note(f"making {before.service} from the image {known}")
    after = _after(plan, stack, before, lambda: stack.recreate(before.service, image=known.image))
    left = (
        f"{before.service} was made from the image {known}, not from the one its definition names ({short(has)}): "
        "correct the definition, or whoever makes the service anew brings that one back"
    )
    return Treated(after=after, done=f"rolled back from image {short(has)} to {known}", left=left)


def _after(plan: Plan, stack: Stack, before: Seen, act: Callable[[], None]) -> Seen:
    try:
        act()
    except RecoveryError as error:
        # What cannot even be started may still be made anew, or from another image.
        return before.model_copy(update={"ailment": Ailment.DOWN, "seen": error.what})
    return settled(plan, stack, before.component)
