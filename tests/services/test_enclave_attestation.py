"""Whatever an enclave's service or a PCCS answers, only a fresh quote of the pinned enclave is accepted."""

from __future__ import annotations

import base64
import contextlib
import json
import resource
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler

import pytest

from recoup.errors import RecoveryError
from recoup.records import Outcome, Verdict
from tasks import enclave_fetch, enclave_provision, enclave_quote
from tasks.enclave import attest, attest_enclave
from tests.enclave_hardware import SVN, Hardware, simulated
from tests.enclave_pccs import pccs
from tests.enclave_platform import EnclavePlatform, named, not_passed
from tests.web import answering, serving

Spoil = Callable[[EnclavePlatform], object]


def use(platform: EnclavePlatform, monkeypatch: pytest.MonkeyPatch, hardware: Hardware) -> None:
    platform.processor.hardware = hardware
    platform.collateral.write_text(hardware.collateral(), encoding="utf-8")
    monkeypatch.setattr(enclave_quote, "ROOT", hardware.root)


REFUSED: dict[str, tuple[Spoil, str, Outcome]] = {
    "another enclave": (lambda p: p.quotes(mrenclave=bytes(32)), "MRENCLAVE", Outcome.FAILED),
    "another signer": (lambda p: p.quotes(mrsigner=bytes(32)), "MRSIGNER", Outcome.FAILED),
    "another product": (lambda p: p.quotes(product=77), "product id", Outcome.FAILED),
    "an old version": (lambda p: p.quotes(svn=SVN - 1), "SVN", Outcome.FAILED),
    "a debug enclave": (lambda p: p.quotes(debug=True), "debug", Outcome.FAILED),
    "no hardware": (lambda p: p.gives(simulated), "signature", Outcome.FAILED),
    "an old quote": (lambda p: p.replays(), "fresh", Outcome.FAILED),
    "another nonce": (
        lambda p: p.gives(lambda nonce: p.processor.hardware.quote(nonce[::-1])),
        "fresh",
        Outcome.FAILED,
    ),
    "another processor": (lambda p: p.gives(Hardware().quote), "signature", Outcome.FAILED),
    "no collateral": (lambda p: p.collateral.unlink(), "signature", Outcome.UNPROVEN),
    "collateral of nobody": (lambda p: p.collateral.write_text("{}"), "signature", Outcome.UNPROVEN),
    "giant collateral": (lambda p: p.collateral.write_bytes(b"{" * (4 << 20) + b"}"), "signature", Outcome.UNPROVEN),
    "rubbish": (lambda p: p.gives(lambda _: b"<html>busy</html>"), "quote", Outcome.FAILED),
    "JSON without a quote": (lambda p: p.gives(lambda _: b'{"quote": 7}'), "quote", Outcome.FAILED),
    "nested JSON": (lambda p: p.gives(lambda _: b'{"a":' * 20_000), "quote", Outcome.FAILED),
    "a giant": (lambda p: p.gives(lambda _: bytes(2 << 20)), "quote", Outcome.FAILED),
    "a cut quote": (lambda p: p.gives(lambda nonce: p.processor.hardware.quote(nonce)[:900]), "quote", Outcome.FAILED),
}


@pytest.mark.parametrize("spoilt", REFUSED)
def test_what_is_not_proven_is_given_nothing(platform: EnclavePlatform, spoilt: str) -> None:
    spoil, check, outcome = REFUSED[spoilt]
    spoil(platform)
    attested = attest(platform.asked())
    assert not attested.accepted
    assert "\n" not in attested.wrong
    # On a machine without SGX what could not be had is not held against the enclave.
    either = (outcome, Outcome.UNPROVEN) if check == "quote" else (outcome,)
    assert not_passed(attested.checks)[check] in either
    with pytest.raises(RecoveryError, match="given nothing"):
        enclave_provision.provision_enclave.fn(platform.asked(), attested)
    assert platform.provisioned == []


def test_an_answer_without_end_is_cut_off(platform: EnclavePlatform) -> None:
    platform.gives(lambda nonce: platform.processor.hardware.quote(nonce) + bytes(enclave_fetch.MOST_BYTES))
    assert "is answered with more than 131072 bytes" in attest(platform.asked()).wrong


def test_a_service_that_has_just_been_started_is_waited_for(platform: EnclavePlatform) -> None:
    good = platform.processor.hardware.quote
    platform.gives(lambda nonce: good(nonce) if len(platform.processor.nonces) > 3 else 503)
    assert not attest(platform.asked()).accepted
    assert attest_enclave.fn(platform.asked()).accepted
    assert len(platform.processor.nonces) == 4


def test_json_around_a_quote_is_read(platform: EnclavePlatform) -> None:
    hardware = platform.processor.hardware
    platform.gives(lambda nonce: json.dumps({"quote": base64.b64encode(hardware.quote(nonce)).decode()}).encode())
    assert attest(platform.asked()).accepted


@pytest.mark.parametrize(
    ("hardware", "check"),
    [
        (Hardware(tcb_status="OutOfDate"), "TCB status"),
        (Hardware(advisories=("INTEL-SA-00615",)), "advisories"),
        (Hardware(revoked=True), "signature"),
    ],
    ids=["out of date", "advisory", "revoked"],
)
def test_a_processor_that_intel_warns_of_gets_nothing_until_the_plan_puts_up_with_it(
    platform: EnclavePlatform, hardware: Hardware, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(platform, monkeypatch, hardware)
    assert not_passed(attest(platform.asked()).checks)[check] is Outcome.FAILED
    platform.enclave |= {"tcb": ["UpToDate", "OutOfDate"], "advisories": ["INTEL-SA-00615"]}
    assert attest(platform.asked()).accepted is not hardware.revoked


def test_expired_collateral_proves_nothing_and_says_so(platform: EnclavePlatform) -> None:
    hardware = platform.processor.hardware
    late = hardware.at + hardware.lasts + timedelta(days=1)
    found = attest(platform.asked(), at=late)
    assert not found.accepted
    assert not_passed(found.checks) == dict.fromkeys(not_passed(found.checks), Outcome.UNPROVEN)
    assert "the collateral has expired, valid until" in named(found.checks, "signature").seen
    assert str(platform.collateral) in named(found.checks, "signature").seen


def test_a_simulated_enclave_with_a_wrong_pin_or_an_old_nonce_gets_nothing_either(platform: EnclavePlatform) -> None:
    platform.enclave |= {"simulation": True}
    platform.gives(lambda nonce: simulated(nonce, mrenclave=bytes(32)))
    assert platform.recover().verdict is Verdict.NOT_RECOVERED
    platform.gives(lambda _: simulated(bytes(range(32))))
    assert not_passed(attest(platform.asked()).checks)["fresh"] is Outcome.FAILED
    assert platform.provisioned == []


def test_a_real_quote_in_a_plan_that_says_simulation_proves_nothing(platform: EnclavePlatform) -> None:
    platform.enclave |= {"simulation": True}
    assert {check.outcome for check in attest(platform.asked()).checks} == {Outcome.UNPROVEN}


def test_a_service_that_is_silent_or_slow_is_given_up_in_time(platform: EnclavePlatform) -> None:
    """One byte now and then never ends by itself: the whole answer has a deadline."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4600\r\n\r\n")
                for _ in range(100):
                    try:
                        client.sendall(b"\x03")
                    except OSError:
                        return
                    stop.wait(0.1)

        stop = threading.Event()
        teller = threading.Thread(target=drip, daemon=True)
        teller.start()
        with pytest.raises(enclave_fetch.Unanswered, match=r"no answer within 0\.5 s"):
            enclave_fetch.ask(_At(server.getsockname()[1]), "vault", 1, "/quote", timedelta(seconds=0.5))  # type: ignore[arg-type]
        stop.set()
        teller.join(10)
        assert not teller.is_alive()


class _At:
    """A stack whose every service is on one port."""

    def __init__(self, port: int) -> None:
        self.port = port

    def endpoint(self, service: str, port: int) -> tuple[str, int]:
        return "127.0.0.1", self.port


def test_collateral_comes_from_the_pccs_and_is_kept_for_the_day_that_it_is_away(platform: EnclavePlatform) -> None:
    asked: list[str] = []
    platform.collateral.unlink()
    with serving(pccs(lambda: platform.processor.hardware, asked)) as port:
        platform.enclave["collateral"]["pccs"] = f"http://127.0.0.1:{port}"
        assert attest(platform.asked()).accepted
    assert sorted(asked) == ["pckcrl", "qe/identity", "rootcacrl", "tcb"]
    # The certificates of this processor are in its quotes; of another one they would be wrong.
    assert "pck_certificate_chain" not in json.loads(platform.collateral.read_text())
    assert attest(platform.asked()).accepted, "the PCCS is away, and the file is there"
    platform.collateral.unlink()
    found = named(attest(platform.asked()).checks, "signature")
    assert found.outcome is Outcome.UNPROVEN
    assert "there is no collateral" in found.seen
    assert f"127.0.0.1:{port}" in found.seen
    assert "\n" not in found.seen


def test_collateral_that_verifies_nothing_is_not_kept(platform: EnclavePlatform) -> None:
    platform.collateral.unlink()
    with serving(pccs(Hardware, [])) as port:
        platform.enclave["collateral"]["pccs"] = f"http://127.0.0.1:{port}"
        assert not attest(platform.asked()).accepted
    assert not platform.collateral.exists()


@pytest.mark.parametrize("body", [b"<html>busy</html>", b"{}", b'{"tcbInfo": 1, "signature": "xyz"}', b"[" * 100_000])
def test_a_pccs_that_answers_rubbish_judges_nothing(platform: EnclavePlatform, body: bytes) -> None:
    with serving(answering(lambda *_: (200, body))) as port:
        platform.enclave["collateral"] = {"pccs": f"http://127.0.0.1:{port}"}
        found = named(attest(platform.asked()).checks, "signature")
    assert found.outcome is Outcome.UNPROVEN
    assert "gave no collateral" in found.seen
    assert "\n" not in found.seen


def test_a_pccs_that_is_silent_is_given_up_in_time(platform: EnclavePlatform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        platform.enclave["collateral"] = {"pccs": url, "patience": "500ms"}
        found = named(attest(platform.asked()).checks, "signature")
    assert found.outcome is Outcome.UNPROVEN
    assert f"{url} gave no collateral within 0.5 s" in found.seen


def test_a_pccs_whose_answer_never_ends_costs_the_recovery_no_memory(platform: EnclavePlatform) -> None:
    class Flood(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1 << 20))

        def log_message(self, format: str, *args: object) -> None:
            return

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with serving(Flood) as port:
        platform.enclave["collateral"] = {"pccs": f"http://127.0.0.1:{port}", "patience": "5s"}
        found = named(attest(platform.asked()).checks, "signature")
    assert found.outcome is Outcome.UNPROVEN
    assert "gave no collateral" in found.seen
    assert "RUST_BACKTRACE" not in found.seen
    # In kB; a recovery that reads on has a gigabyte in some seconds.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
