"""Each way in which an address does not answer is told apart, on real sockets and real TLS."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from recoup.errors import PreconditionError
from tasks.health import Answer, probe, probe_until, trusting
from tasks.sandbox_certificate import Authority
from tests.web import answering, serving, tls_of

SHORT = timedelta(seconds=0.5)
WELL = answering(lambda method, path, body, headers: (200, b'{"status": "ok"}'))


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.make("recoup tests")


@pytest.fixture
def ca(authority: Authority, tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.pem)
    return file


@contextmanager
def listening(*, talk: bytes = b"", hold: bool = True, drip: bool = False) -> Iterator[int]:
    """Give the port of a socket that takes connections, says ``talk``, then holds on, drips bytes, or hangs up."""
    stop = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while not stop.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(talk)
                try:
                    while drip and not stop.wait(0.05):
                        connection.sendall(b"x")
                except OSError:
                    continue
                if hold:
                    stop.wait(5)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield int(server.getsockname()[1])
    finally:
        stop.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def test_what_answers_as_expected_is_well() -> None:
    with serving(WELL) as port:
        seen = probe(f"http://127.0.0.1:{port}/health")
    assert (seen.answer, seen.detail, seen.attempts) == (Answer.WELL, "status 200", 1)


def test_a_port_nobody_listens_on_refuses() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert probe(f"http://127.0.0.1:{closed.getsockname()[1]}/").answer is Answer.REFUSED


def test_silence_is_a_time_out() -> None:
    with listening() as port:
        seen = probe(f"http://127.0.0.1:{port}/", patience=SHORT)
    assert (seen.answer, seen.detail) == (Answer.TIMED_OUT, "no answer within 0.5 s")


def test_an_answer_that_drips_is_a_time_out_too() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"
    with listening(talk=head, drip=True) as port:
        assert probe(f"http://127.0.0.1:{port}/", patience=SHORT).answer is Answer.TIMED_OUT


def test_a_connection_that_ends_in_the_middle_is_cut_off() -> None:
    with listening(talk=b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", hold=False) as port:
        assert probe(f"http://127.0.0.1:{port}/").answer is Answer.CUT_OFF


def test_a_name_that_is_not_known_is_unreachable() -> None:
    seen = probe("http://nobody.invalid/")
    assert seen.answer is Answer.UNREACHABLE
    assert "not known" in seen.detail


@pytest.mark.parametrize(
    ("status", "answer"), [(500, Answer.SERVER_ERROR), (503, Answer.SERVER_ERROR), (404, Answer.OTHER_STATUS)]
)
def test_an_error_of_the_server_is_not_another_status(status: int, answer: Answer) -> None:
    with serving(answering(lambda method, path, body, headers: (status, b"the database\nis away"))) as port:
        seen = probe(f"http://127.0.0.1:{port}/")
    assert (seen.answer, seen.detail) == (answer, f"status {status}: the database is away")


def test_a_good_certificate_of_a_trusted_authority_is_well(authority: Authority, ca: Path, tmp_path: Path) -> None:
    with serving(WELL, tls_of(authority.issue("127.0.0.1"), tmp_path)) as port:
        assert probe(f"https://127.0.0.1:{port}/", trust=trusting(ca)).answer is Answer.WELL


def test_an_expired_certificate_is_told(authority: Authority, ca: Path, tmp_path: Path) -> None:
    expired = authority.issue("127.0.0.1", lasts=timedelta(days=-1))
    with serving(WELL, tls_of(expired, tmp_path)) as port:
        assert probe(f"https://127.0.0.1:{port}/", trust=trusting(ca)).answer is Answer.EXPIRED


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_of_another_host_is_told(host: str, authority: Authority, ca: Path, tmp_path: Path) -> None:
    with serving(WELL, tls_of(authority.issue("api.example.com", "10.1.1.1"), tmp_path)) as port:
        assert probe(f"https://{host}:{port}/", trust=trusting(ca)).answer is Answer.OTHER_HOST


def test_an_unknown_issuer_is_told(authority: Authority, ca: Path, tmp_path: Path) -> None:
    strange = Authority.make("somebody else").issue("127.0.0.1")
    with serving(WELL, tls_of(strange, tmp_path)) as port:
        assert probe(f"https://127.0.0.1:{port}/", trust=trusting(ca)).answer is Answer.UNKNOWN_ISSUER
    with serving(WELL, tls_of(authority.issue("127.0.0.1"), tmp_path)) as port:
        assert probe(f"https://127.0.0.1:{port}/").answer is Answer.UNKNOWN_ISSUER


def test_plain_http_where_tls_is_wanted_is_a_failure_of_tls(ca: Path) -> None:
    with serving(WELL) as port:
        assert probe(f"https://127.0.0.1:{port}/", trust=trusting(ca)).answer in (Answer.TLS, Answer.CUT_OFF)


def test_a_ca_that_is_no_certificate_is_refused_beforehand(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(PreconditionError, match=r"the CA .* cannot be used"):
        trusting(tmp_path / "ca.pem")


def test_it_is_asked_again_until_it_is_well() -> None:
    answers = iter([503, 503, 200])
    with serving(answering(lambda method, path, body, headers: (next(answers), b""))) as port:
        seen = probe_until(f"http://127.0.0.1:{port}/", timedelta(seconds=20))
    assert (seen.answer, seen.attempts) == (Answer.WELL, 3)


def test_at_the_deadline_the_last_answer_is_given() -> None:
    with serving(answering(lambda method, path, body, headers: (503, b""))) as port:
        seen = probe_until(f"http://127.0.0.1:{port}/", SHORT)
    assert seen.answer is Answer.SERVER_ERROR
    assert seen.attempts > 1


def test_what_waiting_cannot_mend_is_given_at_once(authority: Authority, ca: Path, tmp_path: Path) -> None:
    expired = authority.issue("127.0.0.1", lasts=timedelta(days=-1))
    with serving(WELL, tls_of(expired, tmp_path)) as port:
        seen = probe_until(f"https://127.0.0.1:{port}/", timedelta(minutes=4), trust=trusting(ca))
    assert (seen.answer, seen.attempts) == (Answer.EXPIRED, 1)
