"""Asking an enclave's service and whoever has Intel's collateral: every answer bounded in size and time."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx

from recoup.errors import ProgramError, RecoveryError
from recoup.places import write_note
from recoup.plan_enclave import Collateral
from recoup.process import Command, run
from recoup.stacks import Stack
from tasks.enclave_collateral import SAID
from tasks.enclave_quote import brings_its_certificates
from tasks.health import Answer, told
from tasks.rpc import connection

# A quote with its certificates has about 5 kB, collateral about 20 kB.
MOST_BYTES = 128 * 1024
MOST_COLLATERAL = 4 * 1024 * 1024
_SHOWN = 160


class Unanswered(RecoveryError):
    """The service gave no answer that could be one; ``passing``: it may have only just been started."""

    def __init__(self, what: str, *, passing: bool = False) -> None:
        super().__init__(what, state="nothing was given to the enclave")
        self.passing = passing


@dataclass(frozen=True)
class Given:
    """Collateral as JSON, and where it is from; ``fresh``: not from the file that is kept."""

    text: str
    source: str
    fresh: bool


def ask(stack: Stack, service: str, port: int, path: str, patience: timedelta) -> bytes:
    """Give what a GET on a service's port answers with status 200, whole within ``patience``; raises Unanswered."""
    host, number = stack.endpoint(service, port)
    status, body = asyncio.run(_get(f"http://{host}:{number}{path}", f"{service} {path.partition('?')[0]}", patience))
    if status != httpx.codes.OK:
        said = f"{service} answers with status {status}: {_begins(body)}".removesuffix(": ")
        raise Unanswered(said, passing=status >= httpx.codes.INTERNAL_SERVER_ERROR)
    return body


def quote_in(answer: bytes) -> bytes:
    """Give the quote in an answer: the answer itself, or ``quote`` of a JSON object in base64; raises Unanswered."""
    if answer.lstrip()[:1] != b"{":
        return answer
    try:
        found = json.loads(answer)
        return base64.b64decode(found["quote"], validate=True)
    except (ValueError, RecursionError, KeyError, TypeError, binascii.Error):
        raise Unanswered(f"the answer is JSON without a quote in base64: {_begins(answer)}") from None


def collateral_for(quote: bytes, source: Collateral) -> Given:
    """Give the collateral that a quote is verified with: from the PCCS, or the file where that is away.

    Raises RecoveryError when there is neither.
    """
    trouble = ""
    if source.pccs is not None:
        try:
            return Given(_without_processor(_fetched(source.pccs, quote, source.patience), quote), source.pccs, True)
        except ProgramError as error:
            if error.returncode is None:
                trouble = f"{source.pccs} gave no collateral within {source.patience.total_seconds():g} s"
            else:
                trouble = f"{source.pccs} gave no collateral: {_said(error)}"
    if source.file is None:
        raise RecoveryError(trouble, next_step="see to the PCCS, or name a file of collateral in the plan")
    try:
        with source.file.open("rb") as file:
            raw = file.read(MOST_COLLATERAL + 1)
    except OSError as error:
        away = f"; {trouble}" if trouble else ""
        raise RecoveryError(f"the collateral {source.file} cannot be read: {error.strerror}{away}") from None
    if len(raw) > MOST_COLLATERAL:
        raise RecoveryError(f"the collateral {source.file} has more than {MOST_COLLATERAL} bytes")
    text = _without_processor(raw.decode("utf-8", "replace"), quote)
    return Given(text, f"{source.file}" + (f" ({trouble})" if trouble else ""), False)


def keep(given: Given, file: Path | None) -> None:
    """Keep collateral that a quote was verified with in the plan's file; raises RecoveryError when it cannot be."""
    if file is None or not given.fresh:
        return
    try:
        write_note(file, given.text)
    except OSError as error:
        raise RecoveryError(f"the collateral could not be kept in {file}: {error.strerror}") from None


async def _get(url: str, shown: str, patience: timedelta) -> tuple[int, bytes]:
    seconds, raw = patience.total_seconds(), bytearray()
    try:
        async with asyncio.timeout(seconds), connection() as client, client.stream("GET", url) as answer:
            async for chunk in answer.aiter_raw():
                raw += chunk
                if len(raw) > MOST_BYTES:
                    raise Unanswered(f"{shown} is answered with more than {MOST_BYTES} bytes")
            return answer.status_code, bytes(raw)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        kind, detail = told(error)
        why = f"no answer within {seconds:g} s" if kind is Answer.TIMED_OUT else f"{kind} {detail}".strip()
        raise Unanswered(f"{shown}: {why}", passing=True) from None


def _fetched(pccs: str, quote: bytes, patience: timedelta) -> str:
    # With an arena for each thread a machine of many processors would reserve more than the program may have.
    small = {"MALLOC_ARENA_MAX": "1", "TOKIO_WORKER_THREADS": "1"}
    argv = (sys.executable, "-I", str(Path(__file__).with_name("enclave_collateral.py")), pccs)
    return run(Command(argv, small), timeout=patience, stdin=quote).text


def _said(error: ProgramError) -> str:
    broken = "its answer is too large, or breaks who reads it"
    return error.stderr.strip()[:_SHOWN] if error.returncode == SAID else broken


def _without_processor(text: str, quote: bytes) -> str:
    """Leave out the certificates of a processor that dcap-qvl adds: it believes them before those in the quote itself.

    Kept, they would make every other processor of the same model look forged.
    """
    try:
        found = json.loads(text)
        if not isinstance(found, dict) or not brings_its_certificates(quote):
            return text
    except (ValueError, RecursionError):
        return text
    return json.dumps({key: value for key, value in found.items() if key != "pck_certificate_chain"})


def _begins(body: bytes) -> str:
    return " ".join(body[:_SHOWN].decode("utf-8", "replace").split())
