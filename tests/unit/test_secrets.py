from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError

from recoup.errors import PreconditionError
from recoup.secrets import SecretRef, mask, resolve

REFERENCE: TypeAdapter[str] = TypeAdapter(SecretRef)


@pytest.mark.parametrize("text", ["env:DB_PASSWORD", "file:/run/secrets/db", "dotenv:/srv/.env.production#DB_PASSWORD"])
def test_references_are_taken(text: str) -> None:
    assert REFERENCE.validate_python(text) == text


@pytest.mark.parametrize("text", ["hunter2", "env:", "env:1A", "file:relative", "dotenv:/srv/.env", "env:A B", ""])
def test_a_secret_in_clear_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="must be a reference"):
        REFERENCE.validate_python(text)


def test_the_three_places_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DB_PASSWORD", "from env")
    (tmp_path / "secret").write_text("from file\n")
    (tmp_path / ".env").write_text("# DB=no\nexport DB='from dotenv=1'\nOTHER=x\n")
    assert resolve("env:DB_PASSWORD").get_secret_value() == "from env"
    assert resolve(f"file:{tmp_path}/secret").get_secret_value() == "from file"
    assert resolve(f"dotenv:{tmp_path}/.env#DB").get_secret_value() == "from dotenv=1"


def test_what_is_missing_or_empty_is_a_precondition_that_names_the_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "")
    (tmp_path / ".env").write_text("DB=\n")
    for reference in ("env:DB_PASSWORD", "env:NO_SUCH", f"file:{tmp_path}/no", f"dotenv:{tmp_path}/.env#DB"):
        with pytest.raises(PreconditionError) as raised:
            resolve(reference)
        assert reference.partition(":")[2].partition("#")[0] in str(raised.value)


def test_every_occurrence_is_masked_and_an_empty_secret_masks_nothing() -> None:
    text = "postgres://neo:s3cret@db s3cret"
    assert mask(text, (SecretStr("s3cret"), SecretStr(""))) == "postgres://neo:********@db ********"


def test_a_secret_that_is_no_text_is_refused_in_plain_words(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"\xff\xfe" * 16)
    with pytest.raises(PreconditionError, match="is not text"):
        resolve(f"file:{path}")
