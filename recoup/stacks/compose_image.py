"""Images that were healthy, kept on the engine under a name of recoup's own, and containers made from them."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from docker.errors import ImageNotFound
from docker.models.containers import Container
from pydantic import SecretStr

from recoup.errors import RecoveryError
from recoup.stacks.compose_project import Project, asking

# One name for each service: it keeps the image from being pruned once its own name has gone to another.
_KEPT = "recoup-kept"
_SECRET = re.compile(r"PASS|SECRET|TOKEN|KEY|CREDENTIAL|AUTH|PRIVATE|PEM|DSN", re.IGNORECASE)


def kept_name(project: str) -> str:
    """Give the repository under which a project's images are kept; the tag is the service."""
    return f"{_KEPT}/{project}"


def keep(project: Project, service: str, container: Container) -> str:
    """Give the container's image a name of recoup's own, and give its id."""
    identity = str(container.attrs["Image"])
    with asking(f"keep the image of {service}"):
        project.client.images.get(identity).tag(kept_name(project.name), tag=service)
    return identity


@contextmanager
def otherwise(project: Project, service: str, image: str, env: Mapping[str, str]) -> Iterator[tuple[Path, ...]]:
    """Give the file that has Compose make a service with another image (by id) or other variables; none for neither.

    Only the service's next container is made so: the project's own files stay as they are.
    """
    if not image and not env:
        yield ()
        return
    changed: dict[str, object] = {"environment": dict(env)} if env else {}
    if image:
        with asking(f"find the image {image} for {service}"):
            try:
                # By id and under a name of its own: the name that the service's definition has may mean another by now.
                project.client.images.get(image).tag(kept_name(project.name), tag=service)
            except ImageNotFound:
                raise RecoveryError(
                    f"the image {image} of {service} is not on this engine any more", state="nothing was changed"
                ) from None
        changed |= {"image": f"{kept_name(project.name)}:{service}", "pull_policy": "never"}
    with tempfile.TemporaryDirectory(prefix="recoup-") as place:
        file = Path(place) / "otherwise.yaml"
        file.write_text(json.dumps({"services": {service: changed}}), encoding="utf-8")
        yield (file,)


def secrets_of(container: Container) -> tuple[SecretStr, ...]:
    """Give the values of the container's variables whose names say that they are secret."""
    return tuple(SecretStr(value) for name, value in environment(container).items() if value and _SECRET.search(name))


def environment(container: Container) -> dict[str, str]:
    """Give the variables that the container was made with."""
    return dict(pair.split("=", 1) for pair in container.attrs["Config"]["Env"] or () if "=" in pair)
