"""Which mounts of a container hold its data, and how such a place is moved aside by renaming, never by copying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from recoup.errors import PreconditionError

# $1 the place, $2 where it goes, $3 the sign that it went there. Each line can be the last one before a crash:
# repeating the whole goes on from there. A rename across file systems would be a copy followed by a deletion, so a
# place that is a mount point of its own is refused. Written for busybox as well as for GNU.
MOVE = """set -eu
if [ ! -e "$3" ]; then
  if [ -d "$2" ]; then rmdir "$2" 2>/dev/null || true; fi
  if [ ! -d "$2" ]; then
    [ -d "$1" ] || mkdir "$1"
    if [ "$(stat -c %d "$1")" != "$(stat -c %d "$(dirname "$2")")" ]; then
      echo "$1 is a file system of its own and cannot be renamed" >&2; exit 9
    fi
    mv "$1" "$2"
  fi
fi
if [ ! -d "$1" ]; then
  rm -rf "$1.new"; mkdir "$1.new"
  chown "$(stat -c %u:%g "$2")" "$1.new"; chmod "$(stat -c %a "$2")" "$1.new"
  mv "$1.new" "$1"
fi
[ -e "$3" ] || : >"$3"
"""


@dataclass(frozen=True)
class Mount:
    """One mount of a container. ``source`` is the daemon's path, ``volume`` the volume's name, empty for a bind."""

    kind: str
    volume: str
    source: str
    destination: str
    writable: bool


@dataclass(frozen=True)
class Move:
    """One renaming on the daemon's side, inside ``parent``; ``words`` say where the data is afterwards."""

    parent: str
    source: str
    target: str
    sign: str
    words: str


def data_mounts(
    mounts: Sequence[Mount], environment: Mapping[str, str], declared: Sequence[str], service: str
) -> tuple[Mount, ...]:
    """Give the mounts that hold the service's data, and no others: a directory of backups must not be taken for it.

    PGDATA says it for PostgreSQL; otherwise the volumes the image declares; otherwise the named volumes.
    """
    writable = [mount for mount in mounts if mount.writable and mount.kind in ("volume", "bind")]
    if pgdata := environment.get("PGDATA"):
        place = PurePosixPath(pgdata)
        holding = [mount for mount in writable if place.is_relative_to(mount.destination)]
        chosen = sorted(holding, key=lambda mount: len(mount.destination))[-1:]
    else:
        chosen = [mount for mount in writable if mount.destination in declared]
        chosen = chosen or [mount for mount in writable if mount.kind == "volume"]
    if not chosen:
        raise PreconditionError(
            f"{service} keeps its data in no volume and no directory of the host, so it cannot be put aside",
            next_step="mount a volume where the service keeps its data (PGDATA for PostgreSQL)",
        )
    return tuple(chosen)


def move_volume(mountpoint: str, volume: str, aside: str) -> Move:
    """Give the renaming of a local volume's directory into the place of another volume, made empty for it."""
    place = PurePosixPath(mountpoint)
    volumes = place.parent.parent
    other = volumes / aside
    return Move(
        parent=str(volumes),
        source=str(place),
        target=str(other / place.name),
        sign=str(other / "moved-by-recoup"),
        words=f"volume {aside} (was {volume})",
    )


def move_directory(source: str, label: str) -> Move:
    """Give the renaming of a directory of the host to a sibling."""
    place = PurePosixPath(source)
    target = str(place.with_name(f"{place.name}.aside-{label}"))
    return Move(str(place.parent), str(place), target, target, f"directory {target}")
