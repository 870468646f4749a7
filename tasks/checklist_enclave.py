"""Checklist: whether every enclave is what the plan pins, by a fresh quote."""

from __future__ import annotations

from collections.abc import Iterator

from recoup.plan import EnclaveComponent, Plan
from recoup.records import Outcome
from recoup.stacks import Stack
from tasks.checklist_found import Found, failed, passed, together, unproven
from tasks.enclave import Enclave, attest, self_test


def enclaves_attested(plan: Plan, stack: Stack) -> Found:
    """Each enclave gives a quote that is verified and as pinned, and passes its self-test where it has one."""
    return together(_enclaves(plan, stack), "the plan has no enclave")


def _enclaves(plan: Plan, stack: Stack) -> Iterator[Found]:
    for name, spec in plan.components.items():
        if not isinstance(spec, EnclaveComponent):
            continue
        if spec.service is None or spec.quote is None:
            yield unproven(f"{name}: the plan does not say how to attest it (quote, mrenclave or mrsigner)")
            continue
        enclave = Enclave.of(plan, stack, name)
        attested = attest(enclave)
        # One that gives no quote is not asked for more: whatever answers, it was not attested.
        found = (*attested.checks, *(self_test(enclave).checks if attested.mrenclave else ()))
        wrong = [one for one in found if one.outcome is Outcome.FAILED]
        unseen = [one for one in found if one.outcome is Outcome.UNPROVEN]
        if wrong:
            yield failed("; ".join(f"{one.name}: {one.seen}" for one in wrong))
        elif unseen:
            yield unproven(f"{unseen[0].name}: {unseen[0].seen}")
        else:
            yield passed(f"{name}: attested, MRENCLAVE {attested.mrenclave[:16]}…")
