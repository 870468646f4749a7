"""What must hold of the enclaves in a plan, so that none is trusted with secrets that was not attested."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from recoup.plan_enclave import TOLD, EnclaveComponent, Provisioning
from recoup.plan_text import Place, Problem

if TYPE_CHECKING:
    from recoup.plan import Plan

# Index and threshold of a share have four bits: SLIP-39, "Format of the share mnemonic".
MOST_SHARES = 16


def enclaves_can_be_attested(plan: Plan) -> Iterator[Problem]:
    """An enclave that gives quotes is pinned, asked with a nonce, and judged by somebody's collateral."""
    for name, enclave in _enclaves(plan):
        at: Place = ("components", name)
        if enclave.mrsigner and (enclave.product_id is None or enclave.min_svn is None):
            why = "every enclave of that signer would pass, and every old version of this one"
            yield Problem((*at, "mrsigner"), "without product_id and min_svn", why)
        if (enclave.product_id is not None or enclave.min_svn is not None) and not (
            enclave.mrsigner or enclave.mrenclave
        ):
            why = "anybody can sign an enclave with these numbers"
            yield Problem(at, "product_id or min_svn without mrsigner", why)
        if enclave.quote is None:
            for key in ("collateral", "provision", "self_test"):
                if getattr(enclave, key) is not None:
                    why = "what was not attested would be trusted"
                    yield Problem((*at, key), "without quote, where the attestation comes from", why)
            continue
        source: Place = (*at, "quote")
        if enclave.service is None:
            why = "it is a service of the stack that is asked for it"
            yield Problem(source, "a quote without service", why, ((*at, "service"),))
        if enclave.mrsigner is None and enclave.mrenclave is None:
            why = "any enclave at all would pass; pin mrenclave, or mrsigner with product_id and min_svn"
            yield Problem(source, "a quote that nothing is compared with", why, ((*at, "mrenclave"),))
        if "{nonce}" not in enclave.quote.path:
            yield Problem((*source, "path"), "no {nonce} in it", "an old quote could be played back")
        if enclave.collateral is None and not enclave.simulation:
            why = "without collateral nobody can tell whether a quote is Intel's and its processor sound"
            yield Problem(source, "no collateral to verify it with", why, ((*at, "collateral"),))
        yield from _without_time(enclave, at)


def collateral_comes_from_somewhere(plan: Plan) -> Iterator[Problem]:
    """Collateral has a PCCS, a file, or both."""
    for name, enclave in _enclaves(plan):
        found = enclave.collateral
        if found is not None and found.pccs is None and found.file is None:
            why = "no quote could be verified; name a PCCS, or a file kept offline"
            yield Problem(("components", name, "collateral"), "neither pccs nor file", why)


def shares_give_one_secret(plan: Plan) -> Iterator[Problem]:
    """A secret comes whole or in shares; of these there are enough, each once, and one alone is not enough."""
    for name, enclave in _enclaves(plan):
        if enclave.provision is not None:
            at: Place = ("components", name, "provision")
            yield from _shares(enclave.provision, at)
            for variable in TOLD:
                if variable in enclave.provision.environment:
                    why = "the command would take something else for what was attested"
                    yield Problem((*at, "environment", variable), "a variable that recoup itself gives", why)


def _shares(provision: Provisioning, at: Place) -> Iterator[Problem]:
    shares = provision.shares
    if shares is None:
        return
    here: Place = (*at, "shares")
    if provision.secret is not None:
        yield Problem(here, "a secret and shares", "standard input can have only one of them", ((*at, "secret"),))
    given = len(shares.references)
    if shares.threshold < 2:
        why = "whoever holds one share holds the secret; give it as secret, or share it anew"
        yield Problem((*here, "threshold"), "less than 2", why)
    if given < shares.threshold:
        rule = f"{given} shares, and {shares.threshold} are needed"
        yield Problem((*here, "references"), rule, "the secret could never be put together", ((*here, "threshold"),))
    if given > MOST_SHARES:
        yield Problem((*here, "references"), f"more than {MOST_SHARES} shares", "SLIP-39 knows no more")
    seen: set[str] = set()
    for n, reference in enumerate(shares.references):
        if reference in seen:
            why = "one share given twice is one share, and the day it is needed one is missing"
            yield Problem((*here, "references", n), f"{reference} is there twice", why)
        seen.add(reference)


def _without_time(enclave: EnclaveComponent, at: Place) -> Iterator[Problem]:
    limits = {"quote": "patience", "collateral": "patience", "provision": "timeout", "self_test": "patience"}
    for key, limit in limits.items():
        part = getattr(enclave, key)
        if part is not None and getattr(part, limit) <= timedelta(0):
            yield Problem((*at, key, limit), "no time at all", "no answer comes in none")


def _enclaves(plan: Plan) -> Iterator[tuple[str, EnclaveComponent]]:
    return ((name, one) for name, one in plan.components.items() if isinstance(one, EnclaveComponent))


RULES = (enclaves_can_be_attested, collateral_comes_from_somewhere, shares_give_one_secret)
