"""A sandbox's deployed configuration: a small real checkout with made-up secrets, and a key pair of its own."""

from __future__ import annotations

import os
import secrets as tokens
import shutil
from datetime import timedelta
from pathlib import Path

from recoup.plan import ConfigurationComponent
from recoup.process import run
from recoup.sealing import new_key_pair
from tasks.configuration_git import git_command

_FILES = {
    "docker-compose.production.yml": "services:\n  api-gateway:\n    env_file: .env.production\n",
    "nginx/nginx.conf": "events {}\nhttp {\n  server {\n    listen 443 ssl;\n  }\n}\n",
    "monitoring/prometheus.yml": "scrape_configs:\n  - job_name: api-gateway\n",
    ".gitignore": ".env.production\n",
}
_AS = ("-c", "user.name=sandbox", "-c", "user.email=sandbox@localhost", "-c", "commit.gpgsign=false")


def make_configuration(component: ConfigurationComponent, directory: Path) -> ConfigurationComponent:
    """Make ``directory/configuration`` and give the component that points at it.

    Where git is not installed it is a plain directory. Raises ProgramError when git fails.
    """
    root, kept = directory / "configuration", directory / "secrets"
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    _private(root / ".env.production", f"DB_PASSWORD={tokens.token_hex(16)}\nJWT_SECRET={tokens.token_hex(16)}\n")
    if shutil.which("git"):
        for arguments in (("init", "--quiet"), ("add", "--all"), (*_AS, "commit", "--quiet", "--message", "deployed")):
            run(git_command(root, *arguments), timeout=timedelta(seconds=30))
    keys = new_key_pair()
    kept.mkdir(mode=0o700, exist_ok=True)
    _private(kept / "configuration_identity", keys.identity.get_secret_value() + "\n")
    own = {
        "checkout": root,
        "paths": ("docker-compose.production.yml", "nginx", "monitoring/prometheus.yml"),
        "secret": (".env.production",),
        "recipients": (keys.recipient,),
        "identity": f"file:{kept / 'configuration_identity'}",
    }
    return component.model_copy(update=own)


def _private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
