"""The command by which a standby takes received WAL, run by a shell on real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from recoup.plan import Standby, load_plan
from recoup.stacks import Stack
from tasks.postgres import Role, Server
from tasks.postgres_standby import restore_command
from tasks.postgres_standby_build import Pair

PLAN = Path(__file__).resolve().parents[2] / "infra" / "plan.yaml"


def test_the_command_names_every_place_once_and_asks_for_whole_segments_first() -> None:
    command = restore_command((Path("/wal/1-2"), Path("/wal/1-1")), 16)
    assert "for d in '/wal/1-2' '/wal/1-1'; do for s in '' .partial; do" in command
    assert command.endswith("exit 1")


@pytest.mark.parametrize(
    ("takes_writes", "streaming", "role", "ready", "words"),
    [
        (True, True, Role.STANDBY, True, "a takes writes; b follows, 7 bytes behind"),
        (True, False, Role.FENCED, False, "a takes writes; b is no standby: it is fenced"),
        (True, False, Role.STANDBY, False, "a takes writes; b is no standby: it follows nothing"),
        (False, True, Role.STANDBY, False, "a is in charge and down; b follows"),
    ],
)
def test_the_state_of_a_pair_in_words(takes_writes: bool, streaming: bool, role: Role, ready: bool, words: str) -> None:
    pair = Pair(in_charge="a", takes_writes=takes_writes, other="b", role=role, streaming=streaming, behind=7)
    assert pair.ready is ready
    assert words in str(pair)


def test_each_of_a_pair_is_the_other_ones_other() -> None:
    _, spec = load_plan(PLAN).postgres()
    spec = spec.model_copy(update={"standby": Standby(service="pair", port=5433)})
    stack: Stack = object()  # type: ignore[assignment]
    server = Server(stack, "postgres", spec)
    other = server.other()
    assert (other.service, other.spec.port, other.spec.database) == ("pair", 5433, spec.database)
    assert other.other() == server
    assert server.named("pair") == other
    assert server.named("postgres") == server
