"""A checkout made anew from a backup set's own bundle, on a host that has none and can reach no git server."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from recoup.catalog import BackupSet
from recoup.errors import ProgramError, RecoveryError
from recoup.sealing import Opener
from tasks.configuration import Configuration
from tasks.configuration_git import clone_bundle, control, require_git
from tasks.configuration_listing import NEW
from tasks.configuration_proof import identity_of
from tasks.configuration_set import Index, unpack_bundle
from tasks.step import note


def check_out(
    configuration: Configuration, one: BackupSet, index: Index, key: Opener | None
) -> tuple[bool, tuple[str, ...]]:
    """Make the checkout where there is none, in one rename; says whether it did, and what the operator should know."""
    root = configuration.root
    if root.is_dir() and any(root.iterdir()):
        deployed = control(root).commit
        if index.commit and deployed != index.commit:
            stands = f"the checkout stands at {deployed[:12] or 'no commit'}, the set was taken at {index.commit[:12]}"
            return False, (f"{stands}; only the files were brought back",)
        return False, ()
    if not index.bundle:
        return False, ((f"no checkout: {index.no_bundle or index.none}; only the files were brought back",))
    if index.recipients and key is None:
        key = identity_of(configuration)
    require_git()
    making = root.with_name(f".{root.name}{NEW}")
    bundle = root.with_name(f".{root.name}.bundle{NEW}")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(making, ignore_errors=True)
        bundle.unlink(missing_ok=True)
        note("checking the commit out of the set")
        unpack_bundle(one, index, bundle, key)
        clone_bundle(bundle, making, index.commit, index.branch)
        making.rename(root)
        fsync_directory(root.parent)
    except (OSError, ProgramError) as error:
        shutil.rmtree(making, ignore_errors=True)
        raise RecoveryError(
            f"the commit could not be checked out to {root}: {str(error).splitlines()[0]}",
            state="nothing was brought back",
            next_step="see to the space and rights there, then run it again",
        ) from None
    finally:
        bundle.unlink(missing_ok=True)
    return True, ("the checkout has no remote: add the one of your git server",)


def fsync_directory(directory: Path) -> None:
    """Flush a directory, so that a rename in it outlives a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
