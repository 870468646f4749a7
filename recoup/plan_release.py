"""What the plan says of releases: where versions come from, and how the database follows them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints

from recoup.plan_words import Duration, Name, Text
from recoup.records import Frozen

_Tag = Annotated[str, StringConstraints(pattern=r"^[^{}]*\{version\}[^{}]*$")]
_File = Annotated[str, StringConstraints(pattern=r"^[^{}/]*\{name\}[^{}/]*$")]
_Argv = Annotated[tuple[Text, ...], Field(min_length=1)]


class Migrations(Frozen):
    """How a database is brought to what a version of the code expects.

    The commands are run once each in the surroundings of ``service``: ``status`` prints the applied migrations, the
    oldest first, one a line, each followed by a tab and its moment (ISO 8601) where that is known; ``up`` applies what
    lacks; ``down`` undoes all that came after ``{target}`` ("0": all). ``directory``, relative to the checkout, holds
    the files by which is known what a version has: ``file``, and ``down_file`` where a migration can be undone.
    """

    service: Name
    database: Name | None = None
    directory: Text
    file: _File = "{name}.up.sql"
    down_file: _File = "{name}.down.sql"
    status: _Argv
    up: _Argv
    down: _Argv
    timeout: Duration = timedelta(minutes=10)


class Release(Frozen):
    """Where the platform's versions come from: tags, as ``tag`` says, of the git ``checkout`` it is deployed from.

    ``build``: a version's images are built from its files, within ``timeout``; otherwise its definition names them.
    ``settle`` is how long one that is deployed may take until the gateway's requests pass.
    ``carried`` are files of the checkout that are in no commit and without which no version can be deployed.
    """

    checkout: Path
    tag: _Tag = "{version}"
    build: bool = True
    timeout: Duration = timedelta(minutes=30)
    settle: Duration = timedelta(seconds=30)
    carried: tuple[Text, ...] = ()
    migrations: Migrations | None = None
