"""The command line: recoup. Errors become one message and an exit code, never a traceback.

Exit codes: 0 done, recovered; 1 ran, and did not recover or proved nothing; 2 could not run; 130 interrupted.
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Annotated

import typer

import recoup
from recoup.errors import RecoupError

INTERRUPTED = 130
HELP = ["-h", "--help"]
LASTING = {"recover", "rollback", "backup", "restore", "standby"}


@dataclass(frozen=True)
class Entry:
    """One command: the module that holds it under the command's own name, and its line in the help."""

    module: str
    help: str


COMMANDS = {
    "plan": Entry("deployments.plan_commands", "Check, show and describe the plan."),
    "recover": Entry("deployments.recover_commands", "Recover a component by the plan's procedure."),
    "rollback": Entry("deployments.rollback_commands", "Go back to an earlier version of the platform, or return."),
    "drill": Entry("deployments.run_commands", "Drill a procedure on a sandbox that is really broken."),
    "backup": Entry("deployments.backup_commands", "Take, list, verify, copy, fetch and prune backup sets."),
    "restore": Entry("deployments.restore_commands", "Restore a database (to a moment), table or schema beside it."),
    "standby": Entry("deployments.standby_commands", "Show the database's warm standby, or build it anew."),
    "contract": Entry("deployments.contract_commands", "Write down what the plan's smart contracts are now."),
    "ready": Entry("deployments.ready_commands", "Say whether the backups would carry a recovery now."),
    "validate": Entry("deployments.validate_commands", "Look at every item of the plan's checklist, now."),
    "smoke": Entry("deployments.smoke_commands", "Make the plan's requests once, as a user would."),
    "chain": Entry("deployments.chain_commands", "Show every RPC endpoint of every chain, and which to trust."),
    "watch": Entry("deployments.watch", "Write heartbeats, watch the WAL's receiver, until interrupted."),
    "report": Entry("deployments.report_commands", "Show recovery records: the last, one, or all with compliance."),
    "serve": Entry("deployments.serve", "Serve the plan's procedures and schedules from a Prefect server."),
}


def main() -> None:
    """Run the command line and leave with its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    if LASTING & set(sys.argv[1:]):
        # A dropped connection to the machine may not stop a recovery half-way; its journal and record tell the rest.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code."""
    arguments = _spelled_out(arguments)
    try:
        build(arguments)(args=list(arguments), prog_name="recoup")
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except RecoupError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _complain(f"the machine refused: {error.strerror or error}{where}")
        return RecoupError.exit_code
    return 0


def _spelled_out(arguments: Sequence[str]) -> Sequence[str]:
    # ``recoup restore --to … --into …`` means the database.
    if len(arguments) > 1 and arguments[0] == "restore" and arguments[1].startswith("-"):
        return arguments if arguments[1] in HELP else ("restore", "database", *arguments[1:])
    return arguments


def build(arguments: Sequence[str]) -> typer.Typer:
    """Give the application with only the asked-for command imported: importing Prefect costs seconds."""
    root = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": HELP},
    )
    root.callback()(_recoup)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, entry in COMMANDS.items():
        if name == chosen:
            _add(root, name, entry)
        else:
            root.command(name, help=entry.help)(_stub)
    return root


def _add(root: typer.Typer, name: str, entry: Entry) -> None:
    module = importlib.import_module(entry.module)
    found = getattr(module, name, None) or module.app
    if isinstance(found, typer.Typer):
        root.add_typer(found, name=name, help=entry.help)
    else:
        root.command(name)(found)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"recoup {recoup.__version__}")
        raise typer.Exit


def _recoup(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """The disaster-recovery plan that runs, is drilled, and measures its own RTO and RPO."""


def _stub() -> None:
    """Stands in the help for a command that was not asked for."""


def _terminated(number: int, frame: FrameType | None) -> None:
    # A service manager ends a run with SIGTERM; the record must be written then, as for Ctrl-C.
    raise KeyboardInterrupt


def _complain(text: str) -> None:
    print(f"recoup: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
