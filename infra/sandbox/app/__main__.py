"""Run one role of the sandbox platform: ``python -m app gateway|records|accounts|rpc-n3|rpc-x|rpc-backups``."""

from __future__ import annotations

import sys
from importlib import import_module

import uvicorn

from app.settings import Settings

# Imported by name so that each role pays only for its own libraries at the start.
ROLES = {
    "gateway": ("app.gateway", "build"),
    "records": ("app.records", "build"),
    "accounts": ("app.accounts", "build"),
    "rpc-n3": ("app.rpc", "n3"),
    "rpc-x": ("app.rpc", "x"),
    "rpc-backups": ("app.rpc", "backups"),
}


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in ROLES:
        sys.exit(f"usage: python -m app {'|'.join(ROLES)}")
    settings = Settings.from_environment()
    module, function = ROLES[sys.argv[1]]
    application = getattr(import_module(module), function)(settings)
    uvicorn.run(
        application,
        host=settings.host,
        port=settings.port,
        log_level="info",
        server_header=False,
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
