"""What a sandbox stands on, made by Terraform for real: its own copy of infra/terraform/sandbox, with its own state."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

from recoup.plan import Terraform
from tasks.embedded import unprivileged
from tasks.sandbox_process import APPLICATION_HOMES
from tasks.terraform import apply_infrastructure, plan_infrastructure

ROOT = Path(__file__).resolve().parent.parent / "infra" / "terraform" / "sandbox"
_OWN = shutil.ignore_patterns(".terraform*", "*.tfstate*", "sandbox.tfvars")
_HOMES = ("postgres", "redis", *APPLICATION_HOMES)


def provision(kind: Literal["process", "compose"], directory: Path, identity: str) -> Terraform:
    """Make the network and volumes, or the directories, of a new sandbox, and give the root that made them."""
    root = directory / "terraform"
    shutil.copytree(ROOT, root, ignore=_OWN)
    owners = {"postgres": unprivileged() or ""}
    places: dict[str, object] = {
        "sandbox": identity,
        "stack": kind,
        "prefix": f"recoup-{identity}_",
        "networks": ["default"] if kind == "compose" else [],
        "volumes": ["postgres-data", "redis-data"] if kind == "compose" else [],
        "root": str(directory),
        "directories": {f"services/{name}": owners.get(name, "") for name in _HOMES} if kind == "process" else {},
    }
    variables = root / "sandbox.tfvars.json"
    variables.write_text(json.dumps(places, indent=2) + "\n", encoding="utf-8")
    spec = Terraform(root=root, var_file=variables)
    planned = plan_infrastructure.fn(spec, directory / "state" / "terraform" / "first.tfplan", False)
    apply_infrastructure.fn(spec, planned)
    return spec
