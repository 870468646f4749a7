"""A Compose file that knows nothing of recoup: the user's own, unmodified, is what production is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from recoup import env_file
from recoup.chains import Choice
from recoup.errors import PreconditionError, RecoveryError
from recoup.plan import ChainComponent, ComposeSite, Endpoint, Plan, load_plan
from recoup.records import Check, Outcome
from recoup.stacks import open_stack
from recoup.stacks.compose import ComposeStack
from tasks.chain_check import check_chains
from tasks.chain_switch import Choices, endpoint_in_use, put_back, renew_service, switch_endpoints, users_of
from tests.docker.conftest import Sandbox
from tests.stack_behaviour import SOON, eventually

FILE = """
services:
  db:
    image: {postgres}
    restart: always
    environment:
      POSTGRES_PASSWORD: ${{DB_PASSWORD:?}}
      PGDATA: /var/lib/postgresql/data/pgdata
    volumes:
      - ./pg:/var/lib/postgresql/data
      - ./backups:/backups
  cache:
    image: {redis}
    command: ["redis-server", "--appendonly", "yes", "--requirepass", "${{REDIS_PASSWORD:?}}"]
    volumes:
      - cache:/data
volumes:
  cache:
    driver_opts: {{type: tmpfs, device: tmpfs}}
"""


@pytest.fixture
def foreign(sandbox: Sandbox, tmp_path: Path) -> Iterator[ComposeStack]:
    images = (
        dict(line.split("=") for line in sandbox.site.env_file.read_text().splitlines())
        if sandbox.site.env_file
        else {}
    )
    file, env_file = tmp_path / "docker-compose.production.yml", tmp_path / ".env.production"
    file.write_text(FILE.format(postgres=images["RECOUP_POSTGRES_IMAGE"], redis=images["RECOUP_REDIS_IMAGE"]))
    env_file.write_text("DB_PASSWORD=one\nREDIS_PASSWORD=two\n")
    for name in ("pg", "backups"):
        (tmp_path / name).mkdir()
    (tmp_path / "backups" / "precious").write_text("do not move")
    project = f"foreign-{uuid4().hex[:8]}"
    compose = ["docker", "compose", "-p", project, "-f", str(file), "--env-file", str(env_file)]
    subprocess.run([*compose, "up", "--detach"], check=True, timeout=120, capture_output=True)
    yield ComposeStack.open(ComposeSite(file=file, project=project, env_file=env_file))
    subprocess.run([*compose, "down", "--volumes", "--timeout", "2"], check=True, timeout=120, capture_output=True)


def answers(stack: ComposeStack) -> bool:
    try:
        return stack.execute("db", ("pg_isready", "-h", "127.0.0.1"), timeout=SOON, check=False).returncode == 0
    except RecoveryError:
        return False


def psql(stack: ComposeStack, statement: str) -> str:
    return stack.execute("db", ("psql", "-XAtU", "postgres", "-c", statement), timeout=SOON).text


def test_it_is_no_sandbox_and_is_worked_with_all_the_same(foreign: ComposeStack, tmp_path: Path) -> None:
    assert foreign.sandbox is None
    assert {state.service for state in foreign.services()} == {"db", "cache"}
    eventually("the database answers", lambda: answers(foreign))
    host, port = foreign.endpoint("db", 5432)
    assert (host, port) != ("127.0.0.1", 5432)
    assert port == 5432
    before = foreign.state("db").started
    foreign.recreate("db")
    assert foreign.state("db").started != before
    eventually("the database answers again", lambda: answers(foreign))

    # "restart: always" brings a service back after a crash, but not after a kill by hand.
    foreign.kill("db")
    assert not foreign.state("db").running
    foreign.start("db")
    eventually("the database answers again", lambda: answers(foreign))

    psql(foreign, "CREATE TABLE old_data AS SELECT 1")
    foreign.stop("db")
    where = foreign.put_aside("db", label="one")
    assert f"{tmp_path}/pg.aside-one" in where
    assert (tmp_path / "pg.aside-one" / "pgdata" / "PG_VERSION").is_file()
    assert list((tmp_path / "pg").iterdir()) == []
    assert (tmp_path / "backups" / "precious").read_text() == "do not move"
    foreign.start("db")
    eventually("a new database answers", lambda: answers(foreign))
    assert psql(foreign, "SELECT to_regclass('old_data') IS NULL") == "t"
    foreign.stop("db")
    assert foreign.put_aside("db", label="one") == where
    assert (tmp_path / "pg" / "pgdata" / "PG_VERSION").is_file()


def test_a_volume_that_cannot_be_renamed_is_refused_in_words(foreign: ComposeStack) -> None:
    # As process 1, a server stopped before it has set its signal handlers would not hear of it.
    eventually("redis is up", lambda: "Ready to accept" in foreign.logs("cache"))
    foreign.stop("cache")
    with pytest.raises(PreconditionError, match=r"not a plain local one.*tmpfs"):
        foreign.put_aside("cache", label="no")


# What production may be: scaled by hand, told the endpoint under another name, with a job that ran once.
USERS = """
services:
  web: &web
    image: {image}
    command: ["sleep", "600"]
    stop_grace_period: 0s
    environment: {{NEO_N3_RPC_URL: "${{NEO_N3_RPC_URL:-http://127.0.0.1:9/one}}"}}
  odd:
    <<: *web
    environment: {{NODE: "${{NEO_N3_RPC_URL:-http://127.0.0.1:9/one}}"}}
  job:
    <<: *web
    command: ["true"]
"""
ONE, TWO, N3 = "http://127.0.0.1:9/one", "http://127.0.0.1:9/two", "neo-n3"


@pytest.fixture
def users(sandbox: Sandbox, tmp_path: Path) -> Iterator[Plan]:
    """Give the plan of a platform whose services use a chain, and whose env file does not name it yet."""
    assert sandbox.site.env_file
    file, env = tmp_path / "compose.yaml", tmp_path / ".env"
    file.write_text(USERS.format(image=env_file.values(env_file.read(sandbox.site.env_file))["RECOUP_REDIS_IMAGE"]))
    env.write_text("OTHER=1\n")
    site = ComposeSite(file=file, project=f"users-{uuid4().hex[:8]}", env_file=env)
    plan = load_plan(Path(__file__).parents[2] / "infra" / "plan.yaml")
    chain = chain_of(plan).model_copy(update={"endpoints": (Endpoint(url=ONE), Endpoint(url=TWO)), "gateway": None})
    compose = ["docker", "compose", "-p", site.project, "-f", str(file), "--env-file", str(env)]
    up = ["up", "--detach", "--scale", "web=2"]
    subprocess.run([*compose, *up], check=True, timeout=120, capture_output=True)
    yield plan.model_copy(
        update={
            "platform": plan.platform.model_copy(update={"stack": site, "state": tmp_path}),
            "components": {**plan.components, N3: chain},
        }
    )
    subprocess.run([*compose, "down", "--timeout", "0"], check=True, timeout=120, capture_output=True)


def used(plan: Plan, url: str) -> Check:
    found = check_chains.fn(plan, open_stack(plan), {N3: url}).checks
    return next(one for one in found if one.name == f"{N3}: the services use it")


def test_every_replica_is_made_anew_and_stays(users: Plan) -> None:
    stack, wanted, old = open_stack(users), {"NEO_N3_RPC_URL": TWO}, {"NEO_N3_RPC_URL": ONE}
    assert isinstance(stack, ComposeStack)
    assert stack.env_file
    stack.env_file.write_text(f"NEO_N3_RPC_URL={TWO}\n")
    # As a run that was killed between the two leaves it.
    subprocess.run(["docker", "rm", "--force", f"{stack.name}-web-1"], check=True, timeout=60, capture_output=True)
    site = users.platform.stack
    assert isinstance(site, ComposeSite)
    compose = ["docker", "compose", "-p", site.project, "-f", str(site.file), "--env-file", str(stack.env_file)]
    up = ["up", "--detach", "--no-recreate", "--scale", "web=2", "web"]
    subprocess.run([*compose, *up], check=True, timeout=120, capture_output=True)
    assert sorted(one["NEO_N3_RPC_URL"] for one in stack.environments("web")) == [ONE, TWO]
    assert used(users, TWO).outcome is Outcome.FAILED
    renew_service.fn(users, stack, "web", wanted, old)
    assert [one["NEO_N3_RPC_URL"] for one in stack.environments("web")] == [TWO, TWO]


def test_another_name_for_the_endpoint_is_found_a_job_is_not_run_again_and_all_is_put_back(users: Plan) -> None:
    stack = open_stack(users)
    file = stack.env_file
    assert file
    eventually("the job has ended", lambda: stack.state("job").stopped)
    ran = stack.state("job").started
    chosen = Choices(choices=(Choice(chain=N3, was=endpoint_in_use(stack, chain_of(users)), use=TWO, why=""),))
    switched = switch_endpoints.fn(users, stack, chosen, "one")
    assert users_of(users, stack, switched.after, switched.left) == ("odd", "web")
    for one in ("odd", "web"):
        renew_service.fn(users, stack, one, switched.after, switched.left)
    found = used(users, TWO)
    assert (found.outcome, found.seen) == (Outcome.PASSED, f"odd, web: {TWO}")
    # Somebody has changed the file meanwhile.
    file.write_text(file.read_text().replace("OTHER=1", "OTHER=2"))
    undone = put_back.fn(users, stack, switched)
    assert file.read_text() == "OTHER=2\n"
    assert f"NEO_N3_RPC_URL={TWO} is now (not set)" in str(undone)
    for one in users_of(users, stack, undone.after, switched.after):
        renew_service.fn(users, stack, one, undone.after, switched.after)
    assert used(users, ONE).outcome is Outcome.PASSED
    assert stack.environments("odd")[0]["NODE"] == ONE
    assert stack.state("job").started == ran
    # Whatever the services have, the next deployment takes what the file says.
    file.write_text(f"NEO_N3_RPC_URL={TWO}\n")
    assert used(users, ONE).outcome is Outcome.FAILED
    # By way of another variable: the services tell what it is.
    file.write_text("HOST=127.0.0.1:9\nNEO_N3_RPC_URL=http://${HOST}/one\n")
    assert endpoint_in_use(stack, chain_of(users)) == ONE


def chain_of(plan: Plan) -> ChainComponent:
    chain = plan.component(N3)
    assert isinstance(chain, ChainComponent)
    return chain
