"""A lost enclave comes back only by attestation: what was not proven is given nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from recoup.records import Outcome, Verdict
from tasks import enclave_quote
from tests.enclave_platform import SECRET, EnclavePlatform, enclave_platform, named


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EnclavePlatform]:
    with enclave_platform(tmp_path) as made:
        monkeypatch.setattr(enclave_quote, "ROOT", made.processor.hardware.root)
        yield made


def test_an_enclave_without_its_secret_is_attested_provisioned_and_proven(platform: EnclavePlatform) -> None:
    record = platform.recover()
    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    assert named(record.checks, "its secrets").outcome is Outcome.PASSED
    assert [item.outcome for item in record.checklist] == [Outcome.PASSED]
    (told,) = platform.provisioned
    assert told["RECOUP_MRENCLAVE"] == platform.enclave["mrenclave"]
    assert len(set(platform.processor.nonces)) == len(platform.processor.nonces) >= 3
    assert SECRET.decode() not in record.model_dump_json() + str(told["argv"])
