"""Every command with its help and its options, as Markdown: docs/commands.md is this (make docs)."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import typer
from typer.main import get_group

from deployments.cli import COMMANDS, build


@dataclass(frozen=True)
class Parameter:
    """One option or argument: how it is typed, and what it does, with its default."""

    typed: str
    help: str


@dataclass(frozen=True)
class Described:
    """One command: its whole name, its help, and what it takes."""

    name: str
    help: str
    parameters: tuple[Parameter, ...]


def commands() -> Iterator[Described]:
    """Give every command that does something, in the order of ``recoup --help``."""
    for name in COMMANDS:
        found = get_group(build((name,))).commands[name]
        below = getattr(found, "commands", None)
        whole = {f"{name} {sub}": command for sub, command in below.items()} if below else {name: found}
        for title, command in whole.items():
            context = typer.Context(command, info_name=f"recoup {title}")
            records = (one.get_help_record(context) for one in command.params)
            yield Described(
                name=title,
                help=inspect.cleandoc(command.help or ""),
                parameters=tuple(Parameter(record[0], record[1]) for record in records if record),
            )


def markdown() -> str:
    """Give the whole page."""
    parts = [
        "# Commands",
        "Written by `make docs` from the commands themselves; `recoup COMMAND --help` says the same. "
        "`recoup restore --to …` without a command is `recoup restore database --to …`.",
    ]
    for one in commands():
        parts += [f"## recoup {one.name}", one.help]
        rows = [f"| `{_cell(p.typed)}` | {_cell(p.help)} |" for p in one.parameters]
        parts += ["\n".join(["| option | what |", "|---|---|", *rows])] if rows else []
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(markdown())
