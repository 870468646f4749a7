from __future__ import annotations

from datetime import timedelta

from pydantic import SecretStr

from recoup.process import Command, Completed


def test_a_command_is_shown_as_typed_with_its_secrets_masked() -> None:
    command = Command(
        argv=("psql", "-c", "select 'a b'"), env={"PGUSER": "neo"}, secrets={"PGPASSWORD": SecretStr("hunter2")}
    )
    shown = command.shown()
    assert shown == """PGUSER=neo PGPASSWORD=******** psql -c 'select '"'"'a b'"'"''"""
    assert "hunter2" not in shown
    assert "hunter2" not in repr(command)


def test_output_is_text_whatever_bytes_came() -> None:
    assert Completed(0, b" caf\xe9\n", "", timedelta()).text == "caf�"
