"""Files and directories of a service that is a plain process, owned by its user."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from recoup.errors import RecoveryError


def empty_place(path: Path, owner: tuple[int, int] | None, mode: int) -> None:
    """Make an empty directory with that owner (user and group id; None for the caller) and mode."""
    path.mkdir(mode=0o700)
    if owner:
        os.chown(path, *owner)
    path.chmod(mode)


def copy(source: Path, destination: Path, owner: tuple[int, int] | None) -> None:
    """Copy a file whole or not at all; raises RecoveryError, and then the destination is as it was."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{destination.name}.", dir=destination.parent)
        try:
            with open(handle, "wb") as target, source.open("rb") as origin:
                shutil.copyfileobj(origin, target, 1 << 20)
                if owner:
                    os.fchown(target.fileno(), *owner)
                os.fchmod(target.fileno(), os.fstat(origin.fileno()).st_mode & 0o777)
            os.replace(name, destination)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise RecoveryError(
            f"{source} cannot be copied to {destination}: {error.strerror}", state=f"{destination} is as it was"
        ) from None
