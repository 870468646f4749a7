"""A sandbox's own plan: the platform's plan, pointed at the sandbox and nothing else."""

from __future__ import annotations

from pathlib import Path

from recoup.plan import ComposeSite, PostgresComponent, ProcessSite, RedisComponent, load_plan
from tasks.sandbox_process import DATABASE, DATABASE_USER, HTTP_PORT

_PLAN = Path(__file__).resolve().parent.parent / "infra" / "plan.yaml"


def write_plan(directory: Path, identity: str, site: ComposeSite | ProcessSite, url: str) -> Path:
    """Write ``directory/plan.yaml`` and give its path: every address, place and secret in it is the sandbox's own."""
    plan = load_plan(_PLAN)

    def secret(name: str) -> str:
        return f"file:{directory / 'secrets' / name}"

    components = {}
    for name, component in plan.components.items():
        if isinstance(component, PostgresComponent):
            component = component.model_copy(
                update={
                    "service": "postgres",
                    "port": 5432,
                    "database": DATABASE,
                    "user": DATABASE_USER,
                    "password": secret("db_password"),
                }
            )
        elif isinstance(component, RedisComponent):
            component = component.model_copy(
                update={"service": "redis", "port": 6379, "password": secret("redis_password")}
            )
        components[name] = component
    gateway = plan.platform.gateway
    login = gateway.login and gateway.login.model_copy(
        update={"username": secret("smoke_user"), "password": secret("smoke_password")}
    )
    platform = plan.platform.model_copy(
        update={
            "name": f"sandbox-{identity}",
            "stack": site,
            "state": directory / "state",
            "repository": directory / "backups",
            "gateway": gateway.model_copy(update={"url": url, "port": HTTP_PORT, "login": login}),
        }
    )
    path = directory / "plan.yaml"
    path.write_text(plan.model_copy(update={"platform": platform, "components": components}).dump_yaml(), "utf-8")
    return path
