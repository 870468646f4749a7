"""Environment files: one variable is changed, and every other byte stays what it was."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from recoup.env_file import changed, read, values, write
from recoup.errors import PreconditionError, RecoveryError

OLD, NEW = "https://one.example:443", "https://two.example:443/path?key=a&b=c"
NAME = "NEO_X_RPC_URL"
# What stands around an assignment, and must not be touched.
OTHERS = (
    "A=1\n",
    "# a comment with NEO_X_RPC_URL=https://three.example\n",
    "\n",
    "  \t\n",
    "export B = two words # why\n",
    'MULTI="first\nNEO_X_RPC_URL=https://four.example\nlast"\n',
    "SINGLE='a\nNEO_X_RPC_URL=five\n'\n",
    "MONEY=$A ${B:-x} $$\n",
    "WINDOWS=yes\r\n",
    "NEO_X_RPC_URL_OLD=https://six.example\n",
    "MY_NEO_X_RPC_URL=https://seven.example\n",
    "EMPTY=\n",
    "BARE\n",
    "LATIN=caf\udce9\n",
    'ESCAPED="a\\"b"\n',
    "HASH=a#b\n",
)
# Every way to write the assignment, with {} for what is replaced by the new value.
ASSIGNMENTS = (
    "NEO_X_RPC_URL={}\n",
    "NEO_X_RPC_URL={}\r\n",
    "export NEO_X_RPC_URL={}\n",
    "export\tNEO_X_RPC_URL={}\n",
    "  NEO_X_RPC_URL = {}  \n",
    "NEO_X_RPC_URL={} # what for\n",
    "NEO_X_RPC_URL={}   # what # for\r\n",
)


@pytest.mark.parametrize("assignment", ASSIGNMENTS)
@pytest.mark.parametrize("old", [OLD, f'"{OLD}"', f"'{OLD}'", "two words", f"{OLD}#part-of-it", '"a\\\nb"'])
def test_only_the_value_is_exchanged(assignment: str, old: str) -> None:
    text = f"A=1\n{assignment.format(old)}B=2\n"
    assert changed(text, {NAME: NEW}) == f"A=1\n{assignment.format(NEW)}B=2\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{NAME}='{OLD}'#why\n", f"{NAME}='{NEW}'#why\n"),
        (f'{NAME}="{OLD}"#why\n', f"{NAME}='{NEW}'#why\n"),
        (f"{NAME}={OLD}\t#why\n", f"{NAME}='{NEW}'\t#why\n"),
        (f"{NAME}= #why\n", f"{NAME}= '{NEW}'#why\n"),
    ],
)
def test_a_comment_that_touches_the_value_does_not_become_a_part_of_it(before: str, after: str) -> None:
    assert changed(before, {NAME: NEW}) == after
    assert values(after) == {NAME: NEW}


def test_every_other_line_comment_and_order_is_kept() -> None:
    for seed in range(200):
        dice = random.Random(seed)
        before, behind = ("".join(dice.choice(OTHERS) for _ in range(dice.randrange(8))) for _ in ("before", "behind"))
        assignment = dice.choice(ASSIGNMENTS)
        mark = dice.choice(("", "\ufeff"))
        behind = behind if dice.random() < 0.7 else behind.rstrip("\r\n")
        text = mark + before + assignment.format(OLD) + behind
        after = changed(text, {NAME: NEW})
        assert after == mark + before + assignment.format(NEW) + behind, seed
        assert values(after) == values(text) | {NAME: NEW}, seed
        assert changed(after, {NAME: OLD}) == text, seed


def test_a_name_within_another_value_or_comment_is_not_the_variable() -> None:
    text = "".join(OTHERS)
    assert NAME not in values(text)
    assert changed(text, {NAME: NEW}) == f"{text}{NAME}={NEW}\r\n"


def test_of_several_the_last_counts_and_is_changed() -> None:
    text = f"{NAME}=a\nB=1\n{NAME}=b # this one\nC=2\n"
    assert values(text)[NAME] == "b"
    assert changed(text, {NAME: NEW}) == f"{NAME}=a\nB=1\n{NAME}={NEW} # this one\nC=2\n"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("", f"{NAME}={NEW}\n"),
        ("\ufeff", f"\ufeff{NAME}={NEW}\n"),
        ("A=1", f"A=1\n{NAME}={NEW}\n"),
        ("A=1\r\nB=2", f"A=1\r\nB=2\r\n{NAME}={NEW}\r\n"),
        (f"A=1\n{NAME}={OLD}", f"A=1\n{NAME}={NEW}"),
        (f"export {NAME}=\r\nA=1\r\n", f"export {NAME}={NEW}\r\nA=1\r\n"),
        (f"\n\n# said\n{NAME}\nA=1\n", f"\n\n# said\n{NAME}={NEW}\nA=1\n"),
        (f"A=1\n\n\n  {NAME}\nB=2\n", f"A=1\n\n\n  {NAME}={NEW}\nB=2\n"),
    ],
)
def test_the_ends_of_files(text: str, after: str) -> None:
    assert changed(text, {NAME: NEW}) == after
    assert values(after)[NAME] == NEW


def test_several_variables_at_once_and_none() -> None:
    text = f"{NAME}=a\nB=1\n"
    assert changed(text, {"B": "2", NAME: NEW, "C": "3"}) == f"{NAME}={NEW}\nB=2\nC=3\n"
    assert changed(text, {}) == text


def test_one_is_taken_out_and_every_other_line_is_kept() -> None:
    text = f"A=1\n\n{NAME}={OLD} # why\n# last\n"
    assert changed(text, {NAME: None, "B": None}) == "A=1\n\n# last\n"
    assert changed(changed("A=1\n", {NAME: OLD}), {NAME: None}) == "A=1\n"


@pytest.mark.parametrize(
    "value", ["$HOME", "${X:-y}", "a b", "a#b", 'a"b', "é", "(x)", "a\udce9b", "a;b|c", "a\u2028b"]
)
def test_a_value_is_read_as_it_was_written(value: str) -> None:
    text = changed(f"A=1\n{NAME}={OLD} # why\nB=2\n", {NAME: value})
    assert values(text) == {"A": "1", NAME: value, "B": "2"}
    assert text == f"A=1\n{NAME}='{value}' # why\nB=2\n"


@pytest.mark.parametrize("value", ["a\nB=1", "a\rb", "it's", "a\\b", "a\\", "a\0b"])
def test_a_value_that_no_file_can_hold_is_refused(value: str) -> None:
    for text in ("A=1\n", f"{NAME}={OLD}\n"):
        with pytest.raises(PreconditionError, match="cannot be written into an environment file"):
            changed(text, {NAME: value})


def test_bytes_that_are_no_utf_8_stay_the_bytes_they_are(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    raw = b"\xef\xbb\xbfA=caf\xe9 \xff\xfe\r\nNEO_X_RPC_URL=%s\r\n\x80=\x81\r"
    file.write_bytes(raw % OLD.encode())
    write(file, changed(read(file), {NAME: NEW}))
    assert file.read_bytes() == raw % NEW.encode()


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="cannot be read: No such file") as caught:
        read(tmp_path / "none")
    assert "platform.stack.env_file" in caught.value.next_step
    with pytest.raises(RecoveryError, match="cannot be written: No such file"):
        write(tmp_path / "none" / ".env", "A=1\n")
