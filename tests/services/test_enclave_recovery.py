"""A lost enclave comes back only by attestation: what was not proven is given nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from shamir_mnemonic.shamir import generate_mnemonics

from deployments.catalog import deployments
from deployments.cli import run
from deployments.options import DEFAULT_PLAN
from flows.enclave import EnclaveRecovery, preview
from flows.platform import PlatformRecovery, run_platform_recovery
from flows.service import ServiceRecovery, run_service_recovery
from recoup.errors import PreconditionError
from recoup.records import Outcome, StepOutcome, Verdict
from tasks import enclave_provision, enclave_quote
from tasks.checklist_enclave import enclaves_attested
from tasks.enclave import Condition, look, self_test
from tests.enclave_hardware import MRSIGNER, simulated
from tests.enclave_platform import SECRET, STANDIN, EnclavePlatform, named, not_passed

Spoil = Callable[[EnclavePlatform], object]


def test_an_enclave_without_its_secret_is_attested_provisioned_and_proven(platform: EnclavePlatform) -> None:
    record = platform.recover()
    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    assert named(record.checks, "its secrets").outcome is Outcome.PASSED
    assert [item.outcome for item in record.checklist] == [Outcome.PASSED]
    (told,) = platform.provisioned
    assert told["RECOUP_MRENCLAVE"] == platform.enclave["mrenclave"]
    assert bytes.fromhex(told["RECOUP_REPORT_DATA"])[:32] in platform.processor.nonces
    assert len(set(platform.processor.nonces)) == len(platform.processor.nonces) >= 3
    assert SECRET.decode() not in record.model_dump_json() + str(told["argv"])
    # An enclave that has what it needs is given nothing again, unless it is asked for.
    again = platform.recover()
    assert again.verdict is Verdict.RECOVERED
    assert len(platform.provisioned) == 1
    assert platform.recover(provision="always").verdict is Verdict.RECOVERED
    assert len(platform.provisioned) == 2


def test_a_dead_enclave_is_started_attested_and_only_then_provisioned(platform: EnclavePlatform) -> None:
    platform.stack.kill("vault")
    record = platform.recover()
    assert record.verdict is Verdict.RECOVERED
    names = [step.name for step in record.steps]
    assert names.index("start-enclave") < names.index("attest-enclave") < names.index("provision-enclave")
    assert next(step.detail for step in record.steps if step.name == "start-enclave") == "vault"
    assert not_passed(record.checks) == {}


def test_a_refused_enclave_ends_the_run_with_what_was_expected_and_seen(platform: EnclavePlatform) -> None:
    platform.quotes(mrsigner=bytes(32))
    record = platform.recover()
    assert record.verdict is Verdict.NOT_RECOVERED
    check = named(record.checks, "MRSIGNER")
    assert (check.expected, check.seen) == (MRSIGNER.hex(), "00" * 32)
    assert record.state_left == "nothing was given to the enclave"
    assert MRSIGNER.hex() in record.why
    assert platform.provisioned == []
    assert enclaves_attested(platform.plan, platform.stack).outcome is Outcome.FAILED
    assert preview(platform.plan, EnclaveRecovery(plan=platform.file))[-1] == "it would be given nothing"


def test_a_simulated_enclave_is_provisioned_and_never_proven(platform: EnclavePlatform) -> None:
    platform.gives(simulated)
    platform.enclave |= {"simulation": True}
    record = platform.recover()
    assert record.verdict is Verdict.UNPROVEN
    assert "simulation" in record.why
    assert len(platform.provisioned) == 1
    of_the_enclave = [check for check in record.checks if check.name.startswith("vault:")]
    assert {check.outcome for check in of_the_enclave} == {Outcome.UNPROVEN}
    assert [item.outcome for item in record.checklist] == [Outcome.UNPROVEN]


def test_a_host_without_sgx_is_unproven_and_the_words_are_clear(platform: EnclavePlatform) -> None:
    if Path("/dev/sgx_enclave").exists():
        pytest.skip("this machine has SGX")
    platform.gives(lambda _: 503)
    platform.enclave |= {"start_timeout": "1s"}
    found = look(platform.asked())
    assert found.condition is Condition.SILENT
    assert "there is no SGX hardware" in found.seen
    item = enclaves_attested(platform.plan, platform.stack)
    assert item.outcome is Outcome.UNPROVEN
    record = platform.recover()
    assert (record.verdict, record.state_left) == (Verdict.UNPROVEN, "nothing was given to the enclave")
    assert "there is no SGX hardware" in record.why
    assert platform.provisioned == []


class TestWithoutTheLibrary:
    """On a machine for which dcap-qvl has no wheel nothing can be said of an enclave, and nothing is done to it."""

    @pytest.fixture(autouse=True)
    def _without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(enclave_quote, "dcap_qvl", None)

    def test_a_recovery_is_refused_before_anything(
        self, platform: EnclavePlatform, capsys: pytest.CaptureFixture[str]
    ) -> None:
        started, before = platform.stack.state("vault").started, platform.records()
        with pytest.raises(PreconditionError, match="dcap-qvl, which verifies quotes, is not installed"):
            platform.recover()
        for more in (["--dry-run"], ["--yes"]):
            assert run(["recover", "enclave", "--plan", str(platform.file), *more]) == 2
            shown = capsys.readouterr().err
            assert 'Next: pip install -e ".[enclave]"' in shown
            assert "Traceback" not in shown
        assert platform.records() == before
        assert (platform.stack.state("vault").started, platform.provisioned) == (started, [])

    def test_the_checklist_says_that_it_is_unproven_and_what_to_install(self, platform: EnclavePlatform) -> None:
        item = enclaves_attested(platform.plan, platform.stack)
        assert item.outcome is Outcome.UNPROVEN
        assert 'pip install -e ".[enclave]"' in item.seen

    def test_a_rebuilt_platform_is_unproven_and_its_enclave_is_left_alone(self, platform: EnclavePlatform) -> None:
        started = platform.stack.state("vault").started
        record = run_platform_recovery(platform.plan, PlatformRecovery(plan=platform.file), ledger=platform.ledger)
        assert record.verdict is Verdict.UNPROVEN
        assert "dcap-qvl" in record.why
        assert "recoup recover enclave" in record.next_step
        assert (platform.stack.state("vault").started, platform.provisioned) == (started, [])


def test_shares_are_put_together_and_told_to_nobody(platform: EnclavePlatform, tmp_path: Path) -> None:
    words = generate_mnemonics(1, [(2, 3)], SECRET)[0]
    for n, one in enumerate(words[:2]):
        (tmp_path / f"share-{n}").write_text(one, encoding="utf-8")
    references = [f"file:{tmp_path / f'share-{n}'}" for n in range(3)]
    platform.enclave["provision"].pop("secret")
    platform.enclave["provision"]["shares"] = {"threshold": 2, "references": references}
    record = platform.recover()
    assert record.verdict is Verdict.RECOVERED
    (step,) = (one for one in record.steps if one.name == "provision-enclave")
    assert "share-2 cannot be read" in step.detail
    assert not any(word in record.model_dump_json() for word in words)


def test_too_few_shares_leave_the_enclave_as_it_is(platform: EnclavePlatform, tmp_path: Path) -> None:
    platform.enclave["provision"].pop("secret")
    (tmp_path / "share-0").write_text(generate_mnemonics(1, [(2, 3)], SECRET)[0][0], encoding="utf-8")
    references = [f"file:{tmp_path / f'share-{n}'}" for n in range(3)]
    platform.enclave["provision"]["shares"] = {"threshold": 2, "references": references}
    record = platform.recover()
    assert record.verdict is Verdict.NOT_RECOVERED
    assert "1 good shares of one secret, and 2 are needed" in record.why
    assert record.state_left == "nothing was given to the enclave"
    assert platform.provisioned == []


def test_another_secret_is_told_by_what_only_the_right_one_proves(platform: EnclavePlatform) -> None:
    platform.secret.write_bytes(b"last year's secret")
    record = platform.recover()
    assert record.verdict is Verdict.NOT_RECOVERED
    check = named(record.checks, "its secrets")
    assert check.outcome is Outcome.FAILED
    assert platform.enclave["self_test"]["proves"]["fingerprint"] in check.expected
    assert "last year" not in record.model_dump_json()


def test_without_a_pinned_answer_nothing_is_recovered(platform: EnclavePlatform) -> None:
    platform.enclave["self_test"].pop("proves")
    record = platform.recover()
    assert record.verdict is Verdict.UNPROVEN
    assert named(record.checks, "its secrets").outcome is Outcome.UNPROVEN


def test_a_command_that_fails_tells_no_secret(platform: EnclavePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKET_OF_THE_DAY", "correct-horse")
    command = [*platform.enclave["provision"]["command"][:2], "refuse"]
    platform.enclave["provision"] |= {"command": command, "environment": {"TICKET": "env:TICKET_OF_THE_DAY"}}
    record = platform.recover()
    assert record.verdict is Verdict.NOT_RECOVERED
    assert "cannot use ******** ******** ******** ********" in record.why
    text = record.model_dump_json() + platform.ledger.read_text()
    assert not any(one in text for one in (SECRET.decode(), SECRET.hex(), "correct-horse"))


def test_a_command_that_complains_of_one_line_of_a_key_file_tells_no_line(platform: EnclavePlatform) -> None:
    platform.secret.write_text("{\n  first line of the key\n  second line of the key\n}\n", encoding="utf-8")
    platform.enclave["provision"]["command"] = [
        *("sh", "-c", 'read one; read two; echo "cannot use $two, says the $0" >&2; cat >/dev/null; exit 3', "enclave")
    ]
    record = platform.recover()
    assert "cannot use ********, says the enclave" in record.why
    assert "line of the key" not in record.model_dump_json() + platform.ledger.read_text()


def test_an_enclave_without_a_command_is_not_provisioned_by_guess(platform: EnclavePlatform) -> None:
    platform.enclave.pop("provision")
    record = platform.recover()
    assert record.verdict is Verdict.NOT_RECOVERED
    assert "the plan has no command to give them" in record.why


def test_a_plan_that_pins_nothing_cannot_recover_an_enclave(platform: EnclavePlatform) -> None:
    for key in ("quote", "collateral", "provision", "self_test"):
        platform.enclave.pop(key)
    with pytest.raises(PreconditionError, match="the plan does not say how to attest vault"):
        platform.recover()
    item = enclaves_attested(platform.plan, platform.stack)
    assert item.outcome is Outcome.UNPROVEN


def test_a_run_that_was_killed_attests_anew(platform: EnclavePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier attempt had attested may be another enclave by now."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(enclave_provision, "resolve", killed)
        with pytest.raises(KeyboardInterrupt):
            platform.recover(provision="always")
    platform.quotes(mrenclave=bytes(32))
    record = platform.recover(provision="always")
    assert record.run_id == platform.records()[-2].run_id
    assert record.verdict is Verdict.NOT_RECOVERED
    assert platform.provisioned == []
    platform.processor.quote = None
    assert platform.recover(provision="always").verdict is Verdict.RECOVERED


def test_an_enclave_that_unsealed_its_secrets_itself_is_given_nothing(platform: EnclavePlatform) -> None:
    provisioning = platform.enclave["provision"]["command"]
    platform.stack.execute("vault", tuple(provisioning), timeout=timedelta(seconds=20), stdin=SECRET)
    before = len(platform.provisioned)
    record = platform.recover()
    assert record.verdict is Verdict.RECOVERED
    assert len(platform.provisioned) == before
    assert all(step.outcome is StepOutcome.DONE for step in record.steps)


def test_an_enclave_that_serves_is_not_restarted_because_it_gives_no_quote_for_a_while(
    platform: EnclavePlatform,
) -> None:
    assert platform.recover().verdict is Verdict.RECOVERED
    platform.enclave |= {"start_timeout": "1s"}
    platform.gives(lambda _: 503)
    record = platform.recover()
    assert record.verdict is not Verdict.RECOVERED
    assert "start-enclave" not in {step.name for step in record.steps}
    assert not self_test(platform.asked()).failed, "it has what it had"
    assert preview(platform.plan, EnclaveRecovery(plan=platform.file))[-1] == "it would be given nothing"


def test_an_enclave_that_could_not_be_attested_for_a_moment_is_provisioned_all_the_same(
    platform: EnclavePlatform,
) -> None:
    good = platform.processor.hardware.quote
    platform.gives(lambda nonce: good(nonce) if len(platform.processor.nonces) > 1 else good(nonce[::-1]))
    record = platform.recover()
    assert record.verdict is Verdict.RECOVERED
    assert len(platform.provisioned) == 1


def test_the_preview_changes_nothing_and_shows_what_would_run(platform: EnclavePlatform) -> None:
    lines = preview(platform.plan, EnclaveRecovery(plan=platform.file))
    assert lines[0].startswith("vault: attested, but its self-test fails")
    assert str(STANDIN) in "\n".join(lines)
    assert f"file:{platform.secret}" in "\n".join(lines)
    assert SECRET.decode() not in "\n".join(lines)
    assert platform.provisioned == []
    assert self_test(platform.asked()).failed


def test_a_service_recovery_hands_an_enclave_over_to_its_own_procedure(platform: EnclavePlatform) -> None:
    """Restarted like any other service it would run, and have none of its secrets."""
    platform.stack.kill("vault")
    record = run_service_recovery(platform.plan, ServiceRecovery(plan=platform.file), ledger=platform.ledger)
    assert (record.procedure, record.verdict) == ("enclave", Verdict.RECOVERED)
    assert platform.records()[-2].handed_to == "the enclave procedure (vault)"
    assert len(platform.provisioned) == 1


def test_a_rebuilt_platform_has_its_enclaves_attested_and_provisioned(platform: EnclavePlatform) -> None:
    platform.stack.kill("vault")
    record = run_platform_recovery(platform.plan, PlatformRecovery(plan=platform.file), ledger=platform.ledger)
    assert (record.verdict, record.why) == (Verdict.RECOVERED, "every step ended well and every check passed")
    assert "vault/provision-enclave" in [step.name for step in record.steps]
    assert named(record.checks, "its secrets").outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("spoil", "verdict"),
    [
        (lambda p: p.quotes(mrsigner=bytes(32)), Verdict.NOT_RECOVERED),
        (lambda p: p.secret.unlink(), Verdict.NOT_RECOVERED),
        (lambda p: p.collateral.unlink(), Verdict.UNPROVEN),
    ],
    ids=["another signer", "no secret", "no collateral"],
)
def test_a_refused_enclave_judges_a_rebuilt_platform_and_keeps_nobody_waiting(
    platform: EnclavePlatform, spoil: Spoil, verdict: Verdict
) -> None:
    spoil(platform)
    record = run_platform_recovery(platform.plan, PlatformRecovery(plan=platform.file), ledger=platform.ledger)
    assert record.verdict is verdict, record.why
    assert record.clock.restored
    assert record.state_left == "nothing was given to the enclave" or "secret" in record.why
    assert platform.provisioned == []


def test_a_platform_whose_plan_pins_no_enclave_says_what_is_left_to_do(platform: EnclavePlatform) -> None:
    for key in ("quote", "collateral", "provision", "self_test"):
        platform.enclave.pop(key)
    record = run_platform_recovery(platform.plan, PlatformRecovery(plan=platform.file), ledger=platform.ledger)
    assert record.next_step == "provision vault by hand: the plan does not say how it is attested"
    assert [item.outcome for item in record.checklist] == [Outcome.UNPROVEN]


def test_the_command_shows_first_what_it_would_do_and_ends_with_the_verdict(
    platform: EnclavePlatform, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOUP_STATE", str(platform.directory / "records"))
    asked = ["recover", "enclave", "--plan", str(platform.file)]
    assert run([*asked, "--dry-run"]) == 0
    assert "vault: attested, but its self-test fails" in capsys.readouterr().out
    assert platform.provisioned == []
    assert run([*asked, "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "recovered"
    platform.quotes(debug=True)
    assert run([*asked, "--yes", "--json"]) == 1
    shown = capsys.readouterr()
    assert "a debug enclave" in shown.out
    assert "Traceback" not in shown.err


def test_the_written_plan_pins_no_enclave_and_the_command_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recover", "enclave", "--plan", str(DEFAULT_PLAN), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "the plan does not say how to attest enclaves" in said
    assert "Next: in the plan give enclaves service, quote" in said


def test_a_server_offers_it_where_the_plan_says_how(platform: EnclavePlatform) -> None:
    offered = {one.name: one for one in deployments(platform.file, platform.plan)}
    assert offered["recover-enclave"].parameters["request"]["component"] == "vault"
    platform.enclave = {"kind": "enclave", "tier": "non-critical"}
    assert "recover-enclave" not in {one.name for one in deployments(platform.file, platform.plan)}
