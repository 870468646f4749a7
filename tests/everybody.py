"""Temporary directories that other users of this machine can enter, too."""

from __future__ import annotations

import tempfile
from pathlib import Path


def let_in(place: Path) -> None:
    """Let every user enter a directory of pytest's, whatever it has made above; nobody else can write there."""
    for one in (place, *place.parents):
        if one == Path(tempfile.gettempdir()):
            return
        one.chmod(0o755)
