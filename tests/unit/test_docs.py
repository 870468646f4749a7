"""Every command and option has help and stands in the documents, and the documents name none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deployments.cli import COMMANDS
from deployments.reference import Described, commands, markdown

HERE = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/operations.md", "docs/writing-a-plan.md", "docs/architecture.md", "benchmarks/README.md")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
KNOWN = {one.name: one for one in commands()}


@pytest.mark.parametrize("one", KNOWN.values(), ids=KNOWN)
def test_every_command_and_option_has_help(one: Described) -> None:
    assert one.help
    assert all(re.sub(r"\[.*\]", "", parameter.help).strip() for parameter in one.parameters), one.parameters


def test_the_page_of_commands_is_what_they_say() -> None:
    assert (HERE / "docs" / "commands.md").read_text() == markdown(), "run: make docs"


@pytest.mark.parametrize("name", [name for name in KNOWN if name.split()[0] not in ("plan", "report")])
def test_every_command_is_told_of_by_hand_too(name: str) -> None:
    """The page of commands says what there is; when to use it stands elsewhere."""
    assert name in {told for page in PAGES for told, _ in _written(page)}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_no_command_or_option_that_is_not_there(page: str) -> None:
    written = _written(page)
    for name, line in written:
        assert name in KNOWN or name in COMMANDS, f"{page}: recoup {line}"
        known = {flag for one in KNOWN[name].parameters for flag in FLAG.findall(one.typed)} if name in KNOWN else set()
        unknown = [flag for flag in FLAG.findall(line) if flag not in {*known, "--help"}]
        assert not unknown, f"{page}: recoup {line}"


def _written(page: str) -> list[tuple[str, str]]:
    """Give each command line of a page: the command's whole name, or its group's, and the line."""
    text = (HERE / page).read_text()
    lines = re.findall(r"`recoup ([a-z][^`\n]*)`", text)
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        lines += re.findall(r"(?:^|; |bin/)recoup ([a-z][^\n#;]*)", block, re.MULTILINE)
    return [(_name(line.split()), line) for line in lines]


def _name(words: list[str]) -> str:
    if words[:1] == ["restore"] and words[1].startswith("-"):
        return "restore database"
    return words[0] if words[0] in KNOWN or len(words) == 1 else " ".join(words[:2])
