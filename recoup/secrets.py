"""Secrets as references: a plan names where a secret is, and it is read at the last moment."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, SecretStr

from recoup import env_file
from recoup.errors import PreconditionError

_REFERENCE = re.compile(r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:/.+|dotenv:/.+#[A-Za-z_][A-Za-z0-9_]*)$")


def _is_reference(value: str) -> str:
    if not _REFERENCE.match(value):
        # The value itself may be a secret written in clear, so it is never repeated.
        raise ValueError(
            "a secret must be a reference (env:NAME, file:/path or dotenv:/path#NAME), not the secret itself"
        )
    return value


SecretRef = Annotated[str, AfterValidator(_is_reference)]


def resolve(reference: str) -> SecretStr:
    """Give the secret that a reference names.

    ``env:NAME`` is an environment variable, ``file:/path`` a file's content without its last newline,
    ``dotenv:/path#NAME`` one variable of a Compose env file. Raises PreconditionError when it is not there.
    """
    kind, _, where = reference.partition(":")
    if kind == "env":
        value = os.environ.get(where)
    elif kind == "file":
        value = _read(Path(where)).rstrip("\n")
    else:
        path, _, name = where.partition("#")
        value = env_file.values(_read(Path(path))).get(name)
    if not value:
        raise PreconditionError(
            f"the secret {reference} is not set or is empty",
            next_step=f"provide it where {reference} points, or change the reference in the plan",
        )
    return SecretStr(value)


def references(data: object) -> frozenset[str]:
    """Give every reference to a secret in plain data, such as a plan's: lists, mappings and texts."""
    if isinstance(data, str):
        return frozenset({data}) if _REFERENCE.match(data) else frozenset()
    parts = data.values() if isinstance(data, dict) else data if isinstance(data, list | tuple) else ()
    return frozenset(one for part in parts for one in references(part))


def mask(text: str, secrets: tuple[SecretStr, ...]) -> str:
    """Give the text with every secret replaced by asterisks."""
    for secret in secrets:
        if value := secret.get_secret_value():
            text = text.replace(value, "********")
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PreconditionError(f"the secret file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PreconditionError(
            f"the secret file {path} is not text (UTF-8)", next_step="keep it in base64 or hexadecimal digits"
        ) from None
