"""Versions of services that are plain processes: a checkout is what they are made from, and nothing is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from recoup.process import Command, Completed, run
from recoup.secrets import resolve
from recoup.stacks import Deployment, Held, process_made
from recoup.stacks.process_command import command_of, drop_to
from recoup.stacks.process_spec import ServiceSpec


@dataclass(frozen=True)
class ProcessReleases:
    """The versions of one stack; ``described`` gives a service as this version describes it."""

    directory: Path
    described: Callable[[str], ServiceSpec]
    code: Path | None

    def deployment(self, service: str) -> Deployment | None:
        spec, when = self.described(service), process_made.made_at(self.directory, service)
        made = process_made.made(self.directory, spec)
        return Deployment(made.code, datetime.fromtimestamp(when, UTC)) if made.code and when else None

    def hold(self, service: str) -> Held:
        return Held(service=service, image=process_made.keep(self.directory, self.described(service)))

    def give_back(self, held: Held) -> None:
        """The description was never changed, so there is no name to give back."""

    def building(self, services: tuple[str, ...]) -> Command | None:
        return None

    def deploying(self, service: str) -> str:
        return f"start {service} anew, its program from {self.described(service).code}"

    def once(self, service: str, argv: tuple[str, ...], *, timeout: timedelta, held: Held | None = None) -> Completed:
        spec = process_made.otherwise(self.directory, self.described(service), held.image if held else "", {})
        secrets = {name: resolve(reference) for name, reference in spec.secrets.items()}
        return run(command_of(spec, argv, {}, secrets, spec.home), timeout=timeout, user=drop_to(spec))
