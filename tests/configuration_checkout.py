"""A made-up deployed checkout on real git, and its configuration component, to test with."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from flows.configuration import ConfigurationRecovery, run_configuration_recovery
from recoup.catalog import Repository
from recoup.plan import BackupPolicy, ConfigurationComponent, Plan, load_plan
from recoup.records import RecoveryRecord
from recoup.sealing import KeyPair, new_key_pair
from tasks.configuration import Configuration
from tasks.configuration_backup import ConfigurationTaken, take_configuration_backup, unprotected_drift
from tasks.configuration_proof import ConfigurationProof, prove_configuration_backup
from tasks.configuration_restore import ConfigurationRestored, choose_configuration, restore_files

PLAN = Path(__file__).resolve().parents[1] / "infra" / "plan.yaml"
PASSWORD = "made-up-password-of-a-test"
PRIVATE_KEY = "-----BEGIN PRIVATE KEY-----made-up-----END PRIVATE KEY-----"
PATHS = ("docker-compose.yml", "nginx", "prometheus/*.yml", "certs/*.pem")
SECRET = (".env", "certs/*.key")


@dataclass
class Deployed:
    """A checkout, its component, and where its sets go."""

    root: Path
    configuration: Configuration
    repository: Repository
    keys: KeyPair

    def with_(self, **changes: object) -> Configuration:
        """Give the component changed."""
        spec = self.configuration.spec.model_copy(update=changes)
        return Configuration(self.configuration.component, spec, self.configuration.state)

    def plan(self) -> Plan:
        plan = load_plan(PLAN)
        platform = plan.platform.model_copy(
            update={"repository": self.repository.root, "state": self.configuration.state, "copies": ()}
        )
        components = {**plan.components, "configuration": self.configuration.spec}
        return plan.model_copy(update={"platform": platform, "components": components})

    def take(self) -> ConfigurationTaken:
        return take_configuration_backup.fn(self.configuration, self.repository)

    def drift(self) -> tuple[str, ...]:
        return unprotected_drift(self.configuration, self.repository)

    def recover(self) -> RecoveryRecord:
        """Bring it back by the whole procedure, and give its record."""
        plan = self.plan()
        return run_configuration_recovery(
            plan, ConfigurationRecovery(plan=PLAN), ledger=plan.platform.state / "ledger.jsonl"
        )

    def prove(self, set_id: str) -> ConfigurationProof:
        return prove_configuration_backup.fn(self.configuration, self.repository, set_id)

    def restore(self, use: str = "latest", label: str = "20261123T031205Z") -> ConfigurationRestored:
        chosen = choose_configuration.fn(self.configuration, self.repository, use)
        return restore_files.fn(self.configuration, self.repository, chosen.set_id, label)


def deploy(place: Path) -> Deployed:
    """Make a checkout with one commit, and beside it, in no commit, the env file and a certificate with its key."""
    root = place / "checkout"
    write(root / "docker-compose.yml", "services:\n  gateway:\n    image: gateway:1\n")
    write(root / "nginx/nginx.conf", "events {}\nhttp { include conf.d/*.conf; }\n")
    write(root / "nginx/conf.d/gateway.conf", "server { listen 443 ssl; }\n")
    write(root / "prometheus/prometheus.yml", "scrape_configs: []\n")
    write(root / "deploy.sh", "#!/bin/sh\necho not configuration\n", 0o755)
    write(root / ".gitignore", ".env\ncerts/\n")
    git(root, "init", "--quiet", "--initial-branch=main")
    commit(root, "deployed")
    write(root / ".env", f"DB_PASSWORD={PASSWORD}\n", 0o600)
    write(root / "certs/gateway.pem", "-----BEGIN CERTIFICATE-----made-up\n")
    write(root / "certs/gateway.key", f"{PRIVATE_KEY}\n", 0o600)
    keys = new_key_pair()
    write(place / "identity", f"# created: today\n{keys.identity.get_secret_value()}\n", 0o600)
    spec = ConfigurationComponent(
        tier="critical",
        checkout=root,
        paths=PATHS,
        secret=SECRET,
        recipients=(keys.recipient,),
        identity=f"file:{place / 'identity'}",
        backup=BackupPolicy(interval=timedelta(minutes=5), keep=10),
    )
    return Deployed(root, Configuration("configuration", spec, place / "state"), Repository(place / "sets"), keys)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def git(root: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ("git", *identity, *arguments), cwd=root, env=clean, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


def commit(root: Path, message: str) -> str:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", message)
    return git(root, "rev-parse", "HEAD")


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Give every file below a directory, outside .git, with its mode and bytes."""
    files = (path for path in root.rglob("*") if path.is_file() and ".git" not in path.relative_to(root).parts)
    return {str(p.relative_to(root)): (p.stat().st_mode & 0o7777, p.read_bytes()) for p in files}
