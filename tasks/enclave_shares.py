"""A secret in shares (Shamir's scheme, SLIP-39): put together again from any that are good and enough.

https://github.com/satoshilabs/slips/blob/master/slip-0039.md; the library is Trezor's own, which is its reference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from shamir_mnemonic.shamir import combine_mnemonics
from shamir_mnemonic.share import Share
from shamir_mnemonic.utils import MnemonicError

from recoup.errors import PreconditionError
from recoup.plan_enclave import Shares
from recoup.secrets import resolve


@dataclass(frozen=True)
class Held:
    """One share that can be read: the reference it is from, its words, and which of its set it is."""

    reference: str
    words: str
    family: tuple[int, ...]
    index: int
    threshold: int


def put_together(shares: Shares) -> tuple[bytes, tuple[str, ...]]:
    """Give the secret, and in words for people what was wrong with shares that were not needed.

    Never a secret that its own digest does not confirm. Raises PreconditionError when there are not enough good shares
    of one set, or good ones of two sets; no word of a share is repeated.
    """
    held, wrong = _read(shares)
    families: dict[tuple[int, ...], dict[int, Held]] = defaultdict(dict)
    for one in held:
        before = families[one.family].setdefault(one.index, one)
        if before is not one:
            wrong.append(f"{one.reference} is the same share as {before.reference}")
    enough = [found for found in families.values() if len(found) >= shares.threshold]
    if len(enough) > 1:
        raise _no("there are enough shares of two secrets, and nobody can tell which is meant", wrong)
    if not enough:
        most = max((len(found) for found in families.values()), default=0)
        if len(families) > 1:
            wrong.append("the shares are of several secrets")
        raise _no(f"{most} good shares of one secret, and {shares.threshold} are needed", wrong)
    wrong += [f"{one.reference} is of another secret" for one in held if one not in enough[0].values()]
    return _combined(tuple(enough[0].values()), shares.threshold, wrong), tuple(dict.fromkeys(wrong))


def _read(shares: Shares) -> tuple[list[Held], list[str]]:
    held, wrong = [], []
    for reference in shares.references:
        try:
            words = " ".join(resolve(reference).get_secret_value().lower().split())
            share = Share.from_mnemonic(words)
        except PreconditionError as error:
            wrong.append(error.what)
            continue
        except MnemonicError:
            # Its own words would tell some of the share.
            wrong.append(f"{reference} is no share: a word is wrong or missing")
            continue
        if share.group_count != 1:
            wrong.append(f"{reference} is of a set in several groups, which are not supported")
        elif share.member_threshold != shares.threshold:
            wrong.append(f"{reference} says that {share.member_threshold} are needed, the plan {shares.threshold}")
        else:
            family = (share.identifier, int(share.extendable), share.iteration_exponent, len(share.value))
            held.append(Held(reference, words, family, share.index, share.member_threshold))
    return held, wrong


def _combined(held: tuple[Held, ...], threshold: int, wrong: list[str]) -> bytes:
    for chosen in combinations(held, threshold):
        try:
            secret: bytes = combine_mnemonics([one.words for one in chosen])
        except MnemonicError:
            continue
        if len(held) > threshold and chosen != held[:threshold]:
            wrong.append(f"of {_names(held)} not all are right; taken were {_names(chosen)}")
        return secret
    raise _no(f"{_names(held)} do not make one secret: at least one was altered", wrong)


def _names(held: Iterable[Held]) -> str:
    return ", ".join(one.reference for one in held)


def _no(what: str, wrong: list[str]) -> PreconditionError:
    return PreconditionError(
        "; ".join((f"the secret cannot be put together: {what}", *dict.fromkeys(wrong))),
        state="nothing was given to the enclave",
        next_step="bring more of the shares to where the plan looks for them, and run it again",
    )
