"""What is sealed stays sealed: other keys, flipped bytes, cut files and full disks are told apart."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from recoup.errors import DamagedError, PreconditionError, WrongKeyError
from recoup.sealing import decrypt_file, encrypt_file, new_key_pair, opener, public_keys, sealer, wrong_recipient

CLEAR = b"DB_PASSWORD=made-up\n" * 20_000
KEYS = new_key_pair()
OTHER = new_key_pair()


@pytest.fixture
def identity(tmp_path: Path) -> str:
    file = tmp_path / "identity"
    file.write_text(f"# created: today\n# public key: {KEYS.recipient}\n{KEYS.identity.get_secret_value()}\n")
    return f"file:{file}"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    (tmp_path / "clear").write_bytes(CLEAR)
    encrypt_file(tmp_path / "clear", tmp_path / "sealed.age", (OTHER.recipient, KEYS.recipient))
    return tmp_path / "sealed.age"


def test_each_recipient_opens_it(sealed: Path, identity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sealed.read_bytes().startswith(b"age-encryption.org/v1\n")
    assert b"made-up" not in sealed.read_bytes()
    decrypt_file(sealed, tmp_path / "back", identity)
    monkeypatch.setenv("OTHER_IDENTITY", OTHER.identity.get_secret_value())
    decrypt_file(sealed, tmp_path / "back-too", "env:OTHER_IDENTITY")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "back-too").read_bytes() == CLEAR
    assert (tmp_path / "back").stat().st_mode & 0o777 == 0o600


def test_another_key_does_not_open_it(sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRANGER", new_key_pair().identity.get_secret_value())
    with pytest.raises(WrongKeyError, match="env:STRANGER"):
        decrypt_file(sealed, tmp_path / "back", "env:STRANGER")
    assert not list(tmp_path.glob("*back*"))


# The first byte, in the payload's first piece, in its last: each is found; so is every place where it may be cut.
@pytest.mark.parametrize("at", [0, 1000, -1])
def test_a_flipped_byte_is_found_and_leaves_nothing(sealed: Path, identity: str, tmp_path: Path, at: int) -> None:
    data = bytearray(sealed.read_bytes())
    data[at] ^= 1
    sealed.write_bytes(data)
    with pytest.raises(DamagedError):
        decrypt_file(sealed, tmp_path / "back", identity)
    assert not list(tmp_path.glob("*back*"))


@pytest.mark.parametrize("keep", [0, 40, 350, 65_000, -1, -40_000])
def test_a_cut_file_is_found_and_leaves_nothing(sealed: Path, identity: str, tmp_path: Path, keep: int) -> None:
    sealed.write_bytes(sealed.read_bytes()[:keep])
    with pytest.raises(DamagedError):
        decrypt_file(sealed, tmp_path / "back", identity)
    assert not list(tmp_path.glob("*back*"))


def test_a_full_disk_is_no_damage(sealed: Path, identity: str) -> None:
    with (
        sealed.open("rb") as reader,
        open("/dev/full", "wb", buffering=0) as writer,
        pytest.raises(OSError, match="No space"),
    ):
        opener(identity).open(reader, writer)
    with open("/dev/full", "wb", buffering=0) as writer, pytest.raises(OSError, match="No space"):
        sealer((KEYS.recipient,)).seal(io.BytesIO(CLEAR), writer)


def test_an_interruption_passes_through(identity: str) -> None:
    class Interrupted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sealer((KEYS.recipient,)).seal(Interrupted(), io.BytesIO())
    with pytest.raises(KeyboardInterrupt):
        opener(identity).open(Interrupted(), io.BytesIO())


def test_recipients_are_looked_at_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "clear").write_bytes(CLEAR)
    secret = KEYS.identity.get_secret_value()
    for recipients in ((), ("age1nonsense",), (KEYS.recipient, secret)):
        with pytest.raises(PreconditionError) as error:
            encrypt_file(tmp_path / "clear", tmp_path / "sealed.age", recipients)
        assert secret not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["clear"]
    assert wrong_recipient(KEYS.recipient) == ""
    assert "secret key" in wrong_recipient(secret.lower())


def test_an_identity_that_is_none_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT_A_KEY", "hunter2-hunter2")
    with pytest.raises(PreconditionError) as error:
        opener("env:NOT_A_KEY")
    assert "hunter2" not in str(error.value)
    monkeypatch.setenv("NOT_A_KEY", "# only a comment")
    with pytest.raises(PreconditionError):
        opener("env:NOT_A_KEY")


def test_recipients_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "recipients"
    file.write_text(f"# the safe\n{KEYS.recipient}\n\n{OTHER.recipient}\n")
    assert public_keys((f"file:{file}", KEYS.recipient)) == (KEYS.recipient, OTHER.recipient)
    for wrong in ("", "# nobody\n", f"file:{file}\n", KEYS.identity.get_secret_value()):
        file.write_text(wrong)
        with pytest.raises(PreconditionError) as error:
            public_keys((f"file:{file}",))
        assert KEYS.identity.get_secret_value() not in str(error.value)
    with pytest.raises(PreconditionError, match="nowhere"):
        public_keys(("file:/nowhere/recipients",))
