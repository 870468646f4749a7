"""Logs of failed services, kept before anything is restarted, with every secret that is known masked."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from recoup.errors import PreconditionError, RecoupError, RecoveryError, first_line
from recoup.plan import Plan
from recoup.records import Frozen, KeptLog
from recoup.secrets import mask, references, resolve
from recoup.stacks import Stack
from tasks.service_look import running
from tasks.step import note, step

TAIL = 100
WHOLE = 100_000
# user:password@ of an address, whoever made it up.
_IN_ADDRESS = re.compile(r"(?<=://)([^\s/:@]*):[^\s/@]+(?=@)")


class LogsKept(Frozen):
    """The ends of the logs, and where they are whole."""

    logs: tuple[KeptLog, ...]

    def __str__(self) -> str:
        places = dict.fromkeys(str(Path(one.file).parent) for one in self.logs)
        return f"{', '.join(one.service for one in self.logs)} in {', '.join(places)}" if places else "nothing to keep"


@step(timeout=timedelta(minutes=10), retries=1)
def keep_logs(plan: Plan, stack: Stack, services: tuple[str, ...], directory: Path) -> LogsKept:
    """Write each service's log into the directory, for its owner alone, and give the last 100 lines of each.

    A log that the stack does not give is told in its place: it must not keep a service down.
    """
    secrets = (*secrets_of(plan), *secrets_given(plan, stack))
    kept = []
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for service in services:
            note(f"keeping the log of {service}")
            text = _log(stack, service, secrets)
            file = directory / f"{service}.log"
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as target:
                target.write(text)
            kept.append(KeptLog(service=service, tail="\n".join(text.splitlines()[-TAIL:]), file=str(file)))
    except OSError as error:
        raise RecoveryError(
            f"the logs cannot be kept in {directory}: {error.strerror}",
            state="nothing was restarted",
            next_step=f"free space or restore access in {directory}, then run the same command again",
        ) from None
    return LogsKept(logs=tuple(kept))


def secrets_of(plan: Plan) -> tuple[SecretStr, ...]:
    """Give every secret that the plan names and that is there."""
    found = []
    for reference in sorted(references(plan.model_dump(mode="json"))):
        try:
            found.append(resolve(reference))
        except PreconditionError:
            continue
    return tuple(found)


def secrets_given(plan: Plan, stack: Stack) -> tuple[SecretStr, ...]:
    """Give every secret that any of the plan's services was given: one may print what it had from another."""
    found: list[SecretStr] = []
    for name in running(plan):
        with suppress(RecoupError):
            found.extend(stack.secrets(plan.service(name)))
    return tuple(found)


def masked(text: str, secrets: tuple[SecretStr, ...]) -> str:
    """Give the text without the secrets, also as they are written in an address, and without any address's password."""
    values = {form for one in secrets for value in [one.get_secret_value()] for form in (value, quote(value, safe=""))}
    # The longest first: one may be a part of another.
    by_length = tuple(SecretStr(value) for value in sorted(values, key=len, reverse=True))
    return _IN_ADDRESS.sub(r"\1:********", mask(text, by_length))


def _log(stack: Stack, service: str, secrets: tuple[SecretStr, ...]) -> str:
    try:
        return masked(stack.logs(service, tail=WHOLE), secrets)
    except RecoupError as error:
        return f"recoup: the log could not be read: {first_line(error)}\n"
