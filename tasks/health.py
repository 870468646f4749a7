"""Asking an address over HTTP whether it is well, and telling the ways apart in which it is not.

A refused connection, silence, a bad certificate and an error of the server each want another remedy.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

import httpx

from recoup.errors import PreconditionError, first_line
from tasks.step import JITTER

PATIENCE = timedelta(seconds=5)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
# X509_V_ERR_… of OpenSSL, openssl/x509_vfy.h.
_EXPIRED, _NOT_YET = 10, 9
_OTHER_NAME = (62, 64)
_UNKNOWN_ISSUER = (2, 18, 19, 20, 21)


class Answer(StrEnum):
    """How an address answered, or why it did not."""

    WELL = "answered"
    REFUSED = "connection refused"
    TIMED_OUT = "timed out"
    UNREACHABLE = "unreachable"
    EXPIRED = "certificate expired"
    OTHER_HOST = "certificate of another host"
    UNKNOWN_ISSUER = "certificate of an unknown issuer"
    TLS = "TLS failed"
    CUT_OFF = "connection cut off"
    SERVER_ERROR = "server error"
    OTHER_STATUS = "unexpected status"


# Waiting mends none of these.
_LASTING = (Answer.EXPIRED, Answer.OTHER_HOST, Answer.UNKNOWN_ISSUER, Answer.OTHER_STATUS)


@dataclass(frozen=True)
class Probed:
    """What the last of ``attempts`` requests saw; ``detail`` is one line, ``took`` the time of that request."""

    url: str
    answer: Answer
    detail: str
    took: timedelta
    attempts: int = 1

    @property
    def well(self) -> bool:
        return self.answer is Answer.WELL

    def __str__(self) -> str:
        return f"{self.url}: {self.answer}" + (f" ({self.detail})" if self.detail else "")


def trusting(ca: Path | None) -> ssl.SSLContext:
    """Give what certificates are verified with: the CA of that PEM file alone, or those this machine trusts.

    Raises PreconditionError when the file cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=str(ca) if ca else None)
    except (OSError, ssl.SSLError) as error:
        raise PreconditionError(
            f"the CA {ca} cannot be used: {first_line(error)}", next_step="put a PEM file of certificates there"
        ) from None


def probe(
    url: str, *, status: int = 200, patience: timedelta = PATIENCE, trust: ssl.SSLContext | bool = True
) -> Probed:
    """Ask once with GET; all of it, headers and body too, has to come within ``patience``."""
    began = time.monotonic()
    answer, detail = asyncio.run(_ask(url, status, patience, trust))
    return Probed(url, answer, detail, timedelta(seconds=time.monotonic() - began))


def probe_until(
    url: str,
    deadline: timedelta,
    *,
    status: int = 200,
    patience: timedelta = PATIENCE,
    trust: ssl.SSLContext | bool = True,
) -> Probed:
    """Ask again, with growing pauses, until it is well, the deadline is up, or waiting cannot mend what was seen.

    Gives the last answer. No request lasts beyond the deadline.
    """
    end = time.monotonic() + deadline.total_seconds()
    attempts, pauses = 0, _pauses()
    while True:
        left = timedelta(seconds=max(end - time.monotonic(), 0.05))
        attempts += 1
        seen = probe(url, status=status, patience=min(patience, left), trust=trust)
        seen = Probed(seen.url, seen.answer, seen.detail, seen.took, attempts)
        pause = next(pauses)
        if seen.well or seen.answer in _LASTING or time.monotonic() + pause >= end:
            return seen
        time.sleep(pause)


def told(error: BaseException) -> tuple[Answer, str]:
    """Give what an error of a connection means, by the causes below it, and its words."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _of_certificate(cause), cause.verify_message or first_line(cause)
        if isinstance(cause, ssl.SSLError):
            return Answer.TLS, cause.reason or first_line(cause)
        if isinstance(cause, ConnectionRefusedError):
            return Answer.REFUSED, ""
        if isinstance(cause, TimeoutError | httpx.TimeoutException):
            return Answer.TIMED_OUT, ""
        if isinstance(cause, socket.gaierror):
            return Answer.UNREACHABLE, f"the name is not known: {cause.strerror}"
        if isinstance(cause, ConnectionError | httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError):
            return Answer.CUT_OFF, first_line(cause)
        if isinstance(cause, OSError) and cause.errno is not None:
            return Answer.UNREACHABLE, cause.strerror or first_line(cause)
    return Answer.UNREACHABLE, first_line(error)


async def _ask(url: str, status: int, patience: timedelta, trust: ssl.SSLContext | bool) -> tuple[Answer, str]:
    seconds = patience.total_seconds()
    # Loading the trusted authorities takes longer than most answers.
    verify = trust if url.startswith("https:") else False
    try:
        # httpx counts each read by itself: a server that sends a byte now and then would hold it for ever.
        async with asyncio.timeout(seconds), httpx.AsyncClient(verify=verify, timeout=None, trust_env=False) as client:
            got = await client.get(url)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        answer, detail = told(error)
        return answer, f"no answer within {seconds:g} s" if answer is Answer.TIMED_OUT else detail
    if got.status_code == status:
        return Answer.WELL, f"status {got.status_code}"
    kind = Answer.SERVER_ERROR if got.status_code >= 500 else Answer.OTHER_STATUS
    return kind, f"status {got.status_code}: {' '.join(got.text.split())[:120]}".rstrip(": ")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Give the causes of an error, the innermost first."""
    found: list[BaseException] = []
    here: BaseException | None = error
    while here is not None and here not in found:
        found.append(here)
        here = here.__cause__ or here.__context__
    yield from reversed(found)


def _of_certificate(error: ssl.SSLCertVerificationError) -> Answer:
    if error.verify_code in (_EXPIRED, _NOT_YET):
        return Answer.EXPIRED
    if error.verify_code in _OTHER_NAME:
        return Answer.OTHER_HOST
    return Answer.UNKNOWN_ISSUER if error.verify_code in _UNKNOWN_ISSUER else Answer.TLS


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE
    while True:
        yield pause * (1 + random.uniform(0, JITTER))
        pause = min(pause * 1.5, _LONGEST_PAUSE)
