"""The text of a plan as plain data, with the line of every key; every fault of the text in one go."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Place = tuple[str | int, ...]
_LARGEST = 1_000_000
_MOST_NODES = 50_000
_PLAIN = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a plan: where, which rule is broken, and why the rule is there.

    ``rests_on`` are the other places the finding was drawn from: when one of those is wrong itself, it means nothing.
    """

    place: Place
    rule: str
    why: str
    rests_on: tuple[Place, ...] = ()


@dataclass
class PlanText:
    """A plan's text as read: plain data, the line (from 1) of each place, and what was wrong with the text."""

    data: object = None
    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, place: Place) -> int | None:
        """Give the line of the place, or of the nearest thing around it that has one."""
        for length in range(len(place), 0, -1):
            if place[:length] in self.lines:
                return self.lines[place[:length]]
        return None


def show_place(place: Place) -> str:
    """Give a place as a person writes it: ``components.postgres.port``, ``checklist[3].check``."""
    shown = ""
    for part in place:
        shown += f"[{part}]" if isinstance(part, int) else f".{part}" if shown else part
    return shown or "plan"


def read(path: Path) -> PlanText:
    """Read a plan's file; whatever is wrong with file or syntax is a problem, never an exception."""
    text = PlanText()
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            return _with(text, "the file is larger than 1 MB", "this is no plan, or something was appended to it")
        parse(raw.decode("utf-8-sig"), text)
    except OSError as error:
        return _with(
            text,
            f"{path} cannot be read: {error.strerror or 'unknown error'}",
            "without the plan nothing is known of the platform",
        )
    except UnicodeDecodeError:
        return _with(
            text, f"{path} is not UTF-8 text", "a binary file, or one cut or saved in another encoding, is no plan"
        )
    except yaml.YAMLError as error:
        # The library's own message quotes the line, which may hold a secret.
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        told = [told for told in (getattr(error, "context", None), getattr(error, "problem", None)) if told]
        what = ", ".join(told) or "a character that YAML does not allow"
        return _with(text, f"{where}not valid YAML: {what}", "nothing after this place can be read")
    except RecursionError:
        return _with(text, "nested too deeply", "no plan needs it, and reading it would take the program down")
    return text


def parse(source: str, text: PlanText) -> None:
    """Fill ``text`` from YAML; raises yaml.YAMLError and RecursionError."""
    loader = yaml.SafeLoader(source)
    try:
        node = loader.get_single_node()
        if node is None:
            _with(text, "the file is empty", "without the plan nothing is known of the platform")
        else:
            text.data = _Reader(loader, text).value(node, (), ())
            if not isinstance(text.data, dict):
                _with(
                    text,
                    "the file does not hold keys with values",
                    "a plan begins with lines such as 'name: my-platform'",
                )
    finally:
        loader.dispose()


def _with(text: PlanText, rule: str, why: str) -> PlanText:
    text.problems.append(Problem((), rule, why))
    return text


class _Reader:
    """Turns YAML nodes into plain data, noting lines and what a mapping may not hold."""

    def __init__(self, loader: yaml.SafeLoader, text: PlanText) -> None:
        self._loader = loader
        self._text = text
        self._seen = 0

    def value(self, node: Node, place: Place, inside: tuple[Node, ...]) -> object:
        self._seen += 1
        if self._seen > _MOST_NODES:
            raise yaml.MarkedYAMLError(problem="too many values (aliases of aliases?)", problem_mark=node.start_mark)
        if any(node is outer for outer in inside):
            raise yaml.MarkedYAMLError(problem="a value that contains itself", problem_mark=node.start_mark)
        self._text.lines.setdefault(place, node.start_mark.line + 1)
        if not isinstance(node, ScalarNode) and node.tag not in _PLAIN:
            raise yaml.MarkedYAMLError(
                problem=f"the tag {node.tag} has no meaning in a plan", problem_mark=node.start_mark
            )
        if isinstance(node, MappingNode):
            return self._mapping(node, place, (*inside, node))
        if isinstance(node, SequenceNode):
            return [self.value(one, (*place, index), (*inside, node)) for index, one in enumerate(node.value)]
        try:
            found: object = self._loader.construct_object(node)
        except ValueError:
            # An impossible date or number, such as 2026-02-30.
            raise yaml.MarkedYAMLError(problem="an impossible date or number", problem_mark=node.start_mark) from None
        return found

    def _mapping(self, node: MappingNode, place: Place, inside: tuple[Node, ...]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key that is not a text", problem_mark=key_node.start_mark)
            key = str(key_node.value)
            here = (*place, key)
            if key in found:
                self._text.problems.append(
                    Problem(
                        here,
                        f"written twice (lines {self._text.lines[here]} and {line})",
                        "the second would silently replace the first",
                    )
                )
                continue
            self._text.lines[here] = line
            found[key] = self.value(value_node, here, inside)
        return found
