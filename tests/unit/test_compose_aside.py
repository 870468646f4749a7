"""Which mounts hold a container's data: taking a directory of backups for it would be the worst mistake here."""

from __future__ import annotations

import pytest

from recoup.errors import PreconditionError
from recoup.stacks.compose_aside import Mount, data_mounts, move_directory, move_volume

DATA = Mount("volume", "p_data", "/v/p_data/_data", "/var/lib/postgresql/data", True)
HOME = Mount("bind", "", "/srv/pg", "/var/lib/postgresql", True)
BACKUPS = Mount("bind", "", "/srv/backups", "/backups", True)
SCRIPTS = Mount("volume", "p_init", "/v/p_init/_data", "/docker-entrypoint-initdb.d", False)
CACHE = Mount("volume", "p_cache", "/v/p_cache/_data", "/data", True)
OTHER = Mount("volume", "p_other", "/v/p_other/_data", "/other", True)


@pytest.mark.parametrize(
    ("mounts", "pgdata", "declared", "chosen"),
    [
        ([BACKUPS, DATA, SCRIPTS], "/var/lib/postgresql/data", [], DATA),
        ([HOME, DATA], "/var/lib/postgresql/data/pgdata", [], DATA),
        ([HOME, BACKUPS], "/var/lib/postgresql/18/docker", [], HOME),
        ([BACKUPS, CACHE, OTHER], "", ["/data"], CACHE),
        ([BACKUPS, CACHE, SCRIPTS], "", [], CACHE),
    ],
)
def test_only_what_holds_the_data_is_chosen(
    mounts: list[Mount], pgdata: str, declared: list[str], chosen: Mount
) -> None:
    environment = {"PGDATA": pgdata} if pgdata else {}
    assert data_mounts(mounts, environment, declared, "db") == (chosen,)


@pytest.mark.parametrize("mounts", [[], [BACKUPS], [SCRIPTS], [Mount("tmpfs", "", "", "/data", True)]])
def test_without_such_a_mount_nothing_is_chosen_at_a_guess(mounts: list[Mount]) -> None:
    with pytest.raises(PreconditionError, match="db keeps its data in no volume"):
        data_mounts(mounts, {}, ["/data"], "db")


def test_pgdata_in_no_mount_is_refused_even_when_there_are_volumes() -> None:
    with pytest.raises(PreconditionError, match="PGDATA"):
        data_mounts([OTHER, BACKUPS], {"PGDATA": "/var/lib/postgresql/data"}, ["/other"], "db")


def test_moves_stay_inside_one_directory() -> None:
    volume = move_volume("/docker/volumes/p_data/_data", "p_data", "p_data_aside_x")
    assert (volume.parent, volume.source) == ("/docker/volumes", "/docker/volumes/p_data/_data")
    assert volume.target == "/docker/volumes/p_data_aside_x/_data"
    assert volume.sign == "/docker/volumes/p_data_aside_x/moved-by-recoup"
    directory = move_directory("/srv/pg", "x")
    assert (directory.parent, directory.target, directory.sign) == ("/srv", "/srv/pg.aside-x", "/srv/pg.aside-x")
