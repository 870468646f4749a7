"""What each service of a stack of plain processes was made from, which need not be what its description says now."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from recoup.errors import RecoveryError
from recoup.stacks.process_spec import ServiceSpec


def made(directory: Path, spec: ServiceSpec) -> ServiceSpec:
    """Give what the service was made from the last time; the description itself when it never was."""
    try:
        return ServiceSpec.model_validate_json(_made_file(directory, spec.name).read_bytes())
    except (OSError, ValidationError):
        return spec


def made_at(directory: Path, name: str) -> float | None:
    """Give when the service was started the last time, seconds since the epoch; None when it never was."""
    try:
        return _made_file(directory, name).stat().st_mtime
    except OSError:
        return None


def note_made(directory: Path, spec: ServiceSpec) -> None:
    """Keep what the service is being made from."""
    _write(_made_file(directory, spec.name), spec)


def image(directory: Path, name: str) -> str:
    """Give the digest of what the service was made from; empty when it never was."""
    try:
        return hashlib.sha256(_made_file(directory, name).read_bytes()).hexdigest()
    except OSError:
        return ""


def keep(directory: Path, spec: ServiceSpec) -> str:
    """Keep what the service was made from for ``otherwise``; gives its digest."""
    one = made(directory, spec)
    digest = hashlib.sha256(one.model_dump_json().encode()).hexdigest()
    _write(_kept_file(directory, spec.name, digest), one)
    return digest


def otherwise(directory: Path, spec: ServiceSpec, digest: str, env: Mapping[str, str]) -> ServiceSpec:
    """Give the description with what was kept in its place, and with other variables; RecoveryError when it is gone."""
    if digest:
        try:
            spec = ServiceSpec.model_validate_json(_kept_file(directory, spec.name, digest).read_bytes())
        except (OSError, ValidationError):
            raise RecoveryError(
                f"what {spec.name} was made from ({digest[:12]}) is not kept any more", state="nothing was changed"
            ) from None
    return spec.model_copy(update={"env": {**spec.env, **env}})


def _made_file(directory: Path, name: str) -> Path:
    return directory / "run" / f"{name}.made.json"


def _kept_file(directory: Path, name: str, digest: str) -> Path:
    return directory / "kept" / f"{name}-{digest}.json"


def _write(path: Path, spec: ServiceSpec) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(spec.model_dump_json(), encoding="utf-8")
    os.replace(beside, path)
