"""A secret in shares comes back from enough good ones of one secret, and from nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from shamir_mnemonic.shamir import generate_mnemonics
from shamir_mnemonic.share import Share

from recoup.errors import PreconditionError
from recoup.plan_enclave import Shares
from tasks.enclave_shares import put_together

SECRET = bytes(range(100, 132))


class Holders:
    """The people who hold shares, each in a file of their own."""

    def __init__(self, directory: Path, threshold: int, words: list[str]) -> None:
        self.directory, self.threshold = directory, threshold
        for n, one in enumerate(words):
            self.file(n).write_text(one + "\n", encoding="utf-8")
        self.count = len(words)

    def file(self, n: int) -> Path:
        return self.directory / f"share-{n}"

    def words(self, n: int) -> str:
        return self.file(n).read_text(encoding="utf-8").strip()

    def together(self, *numbers: int) -> tuple[bytes, tuple[str, ...]]:
        chosen = numbers or range(self.count)
        references = tuple(f"file:{self.file(n)}" for n in chosen)
        return put_together(Shares(threshold=self.threshold, references=references))


@pytest.fixture
def three_of_five(tmp_path: Path) -> Holders:
    return Holders(tmp_path, 3, generate_mnemonics(1, [(3, 5)], SECRET)[0])


def test_any_three_of_five_give_the_secret(three_of_five: Holders) -> None:
    for chosen in ((0, 1, 2), (4, 2, 0), (1, 3, 4), (0, 1, 2, 3, 4)):
        assert three_of_five.together(*chosen) == (SECRET, ())


def test_fewer_than_three_give_nothing(three_of_five: Holders) -> None:
    with pytest.raises(PreconditionError, match="2 good shares of one secret, and 3 are needed"):
        three_of_five.together(0, 4)


def test_one_share_given_twice_counts_once(three_of_five: Holders) -> None:
    three_of_five.file(1).write_text(three_of_five.words(0), encoding="utf-8")
    with pytest.raises(PreconditionError, match=r"2 good shares.*share-1 is the same share as file:.*share-0"):
        three_of_five.together(0, 1, 2)
    secret, wrong = three_of_five.together()
    assert secret == SECRET
    assert "share-1 is the same share" in wrong[0]


@pytest.mark.parametrize("spoilt", ["a wrong word", "a word too few", "no share at all", "two words changed places"])
def test_a_share_with_an_error_of_writing_is_named_and_not_needed(three_of_five: Holders, spoilt: str) -> None:
    words = three_of_five.words(1).split()
    texts = {
        "a wrong word": [*words[:9], "academic" if words[9] != "academic" else "acid", *words[10:]],
        "a word too few": words[:-1],
        "no share at all": ["hello"],
        "two words changed places": [*words[:-3], words[-2], words[-3], words[-1]],
    }
    if texts[spoilt] == words:
        pytest.skip("the two words are the same")
    three_of_five.file(1).write_text(" ".join(texts[spoilt]), encoding="utf-8")
    secret, wrong = three_of_five.together(0, 1, 2, 3)
    assert secret == SECRET
    assert wrong == (f"file:{three_of_five.file(1)} is no share: a word is wrong or missing",)
    with pytest.raises(PreconditionError, match="2 good shares") as error:
        three_of_five.together(0, 1, 2)
    assert not any(f" {word} " in f" {error.value} " for word in words[8:] if len(word) > 5)


def test_a_share_that_was_forged_is_found_out_by_the_secrets_digest(three_of_five: Holders) -> None:
    """Its own checksum is right: only what the shares give together tells."""
    good = Share.from_mnemonic(three_of_five.words(1))
    forged = replace(good, value=bytes([good.value[0] ^ 1]) + good.value[1:])
    three_of_five.file(1).write_text(forged.mnemonic(), encoding="utf-8")
    with pytest.raises(PreconditionError, match="do not make one secret: at least one was altered"):
        three_of_five.together(0, 1, 2)
    secret, wrong = three_of_five.together()
    assert secret == SECRET
    assert "not all are right" in wrong[0]


def test_a_share_of_another_secret_is_named(three_of_five: Holders) -> None:
    three_of_five.file(4).write_text(generate_mnemonics(1, [(3, 5)], bytes(32))[0][4], encoding="utf-8")
    secret, wrong = three_of_five.together()
    assert secret == SECRET
    assert wrong == (f"file:{three_of_five.file(4)} is of another secret",)
    with pytest.raises(PreconditionError, match="the shares are of several secrets"):
        three_of_five.together(0, 1, 4)


def test_enough_shares_of_two_secrets_give_neither(tmp_path: Path) -> None:
    both = [*generate_mnemonics(1, [(2, 2)], SECRET)[0], *generate_mnemonics(1, [(2, 2)], bytes(32))[0]]
    with pytest.raises(PreconditionError, match="enough shares of two secrets"):
        Holders(tmp_path, 2, both).together()


def test_shares_that_say_another_number_than_the_plan_are_refused(tmp_path: Path) -> None:
    holders = Holders(tmp_path, 2, generate_mnemonics(1, [(3, 5)], SECRET)[0])
    with pytest.raises(PreconditionError, match="says that 3 are needed, the plan 2"):
        holders.together()


def test_a_holder_who_is_away_is_done_without(three_of_five: Holders) -> None:
    three_of_five.file(0).unlink()
    secret, wrong = three_of_five.together()
    assert secret == SECRET
    assert "share-0 cannot be read" in wrong[0]


def test_shares_in_several_groups_are_not_supported(tmp_path: Path) -> None:
    words = [one for group in generate_mnemonics(2, [(2, 2), (2, 2)], SECRET) for one in group]
    with pytest.raises(PreconditionError, match="several groups"):
        Holders(tmp_path, 2, words).together()
