"""Versions of the services of a Compose project: the files of a version define them, its images are built from them."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from docker.errors import ImageNotFound

from recoup.errors import RecoveryError
from recoup.process import Command, Completed
from recoup.stacks import Deployment, Held
from recoup.stacks.compose_image import kept_name, otherwise
from recoup.stacks.compose_project import Project, asking

_WORKING_DIRECTORY = "com.docker.compose.project.working_dir"


@dataclass(frozen=True)
class ComposeReleases:
    """The versions of one project, whose own files are those of one version."""

    project: Project

    def deployment(self, service: str) -> Deployment | None:
        found = self.project.of(service)
        if not found or not (place := found[0].labels.get(_WORKING_DIRECTORY)):
            return None
        # The engine gives nanoseconds, of which Python reads six digits at most.
        created = re.sub(r"(\.\d{6})\d+", r"\1", str(found[0].attrs["Created"]))
        return Deployment(Path(place), datetime.fromisoformat(created))

    def hold(self, service: str) -> Held:
        container = self.project.existing(service)
        image, name = str(container.attrs["Image"]), str(container.attrs["Config"]["Image"])
        with asking(f"keep the image of {service}"):
            # Apart from the last healthy one: that name goes to another image as soon as another is healthy.
            self.project.client.images.get(image).tag(kept_name(self.project.name), tag=f"{service}-before-rollback")
        ours = name.startswith(f"{kept_name(self.project.name)}:") or name.startswith("sha256:")
        return Held(service=service, image=image, name="" if ours else name)

    def give_back(self, held: Held) -> None:
        if not held.name:
            return
        repository, _, tag = held.name.partition("@")[0].rpartition(":")
        if not repository or "/" in tag:
            repository, tag = held.name, "latest"
        with asking(f"give {held.name} back to the image of before"):
            try:
                self.project.client.images.get(held.image).tag(repository, tag=tag)
            except ImageNotFound:
                raise RecoveryError(
                    f"the image {held.image} of {held.service} is not on this engine any more",
                    state=f"{held.name} is what was built last",
                ) from None

    def building(self, services: tuple[str, ...]) -> Command | None:
        return self.project.compose_command("build", "--quiet", *services)

    def deploying(self, service: str) -> str:
        return self.project.compose_command("up", "--detach", "--no-deps", "--force-recreate", service).shown()

    def once(self, service: str, argv: tuple[str, ...], *, timeout: timedelta, held: Held | None = None) -> Completed:
        name = f"recoup-once-{uuid.uuid4().hex[:12]}"
        own = ("run", "--rm", "--no-deps", "--no-TTY", "--name", name, "--entrypoint", argv[0], service, *argv[1:])
        with otherwise(self.project, service, held.image if held else "", {}) as also:
            try:
                return self.project.compose(*own, timeout=timeout, also=also)
            except BaseException:
                self.project.remove(name)
                raise
