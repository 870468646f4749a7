"""The last image of each service that was healthy: noted by id while all is well, so that it can be gone back to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from pydantic import AwareDatetime, Field, ValidationError

from recoup.causes import Ailment
from recoup.errors import RecoupError, first_line
from recoup.places import note_file, write_note
from recoup.plan import Plan, ServiceComponent
from recoup.records import Frozen, now
from recoup.stacks import Stack, open_stack
from tasks.service_look import look_at

EVERY = timedelta(minutes=1)
_NOTE = "images"


class Healthy(Frozen):
    """An image by its id, and when it was last seen to be healthy."""

    image: str
    seen: AwareDatetime

    def __str__(self) -> str:
        return f"{short(self.image)}, healthy at {self.seen:%Y-%m-%d %H:%M:%S} UTC"


class _Noted(Frozen):
    services: Mapping[str, Healthy] = Field(default_factory=dict)


def short(image: str) -> str:
    """Give an image's id as people write it."""
    return image.removeprefix("sha256:")[:12] or "none"


def healthy_image(plan: Plan, component: str) -> Healthy | None:
    """Give the last image of a component that was seen to be healthy; None when none is known."""
    return _read(plan).services.get(component)


def note_healthy(plan: Plan, stack: Stack) -> tuple[str, ...]:
    """Note the images of the services that are well now and may be rolled back, and see that these stay there.

    Gives the components noted. Raises RecoveryError when the stack refuses; OSError when they cannot be written down.
    """
    noted = dict(_read(plan).services)
    found = []
    for name, component in plan.components.items():
        if not isinstance(component, ServiceComponent) or not component.roll_back:
            continue
        if look_at(plan, stack, name).ailment is Ailment.WELL:
            noted[name] = Healthy(image=stack.keep_image(component.service), seen=now())
            found.append(name)
    if found:
        write_note(note_file(plan, _NOTE), _Noted(services=noted).model_dump_json(indent=2))
    return tuple(found)


@contextmanager
def noting(plan: Plan, tell: Callable[[str], None]) -> Iterator[None]:
    """Note healthy images every minute while the block runs, in a thread of its own; says what goes wrong, once."""
    stop = threading.Event()

    def run() -> None:
        said = ""
        while not stop.is_set():
            trouble = ""
            try:
                # Opened anew each time: the engine may not answer yet, and then it may.
                note_healthy(plan, open_stack(plan))
            except (RecoupError, OSError) as error:
                trouble = first_line(error)
            if trouble and trouble != said:
                tell(f"healthy images could not be noted: {trouble}")
            said = trouble
            stop.wait(EVERY.total_seconds())

    thread = threading.Thread(target=run, name="noting images", daemon=True)
    if any(isinstance(one, ServiceComponent) and one.roll_back for one in plan.components.values()):
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if thread.is_alive():
            thread.join(timeout=10)


def _read(plan: Plan) -> _Noted:
    try:
        return _Noted.model_validate_json(note_file(plan, _NOTE).read_bytes())
    except (OSError, ValidationError):
        # Lost or damaged, it is only a rollback less that can be made, and it is noted anew within a minute.
        return _Noted()
