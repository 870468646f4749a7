"""Nodes of both chains gone silent, the access brought back, beside the written plan's commands; and the probe alone.

`python -m benchmarks.blockchain`. Each trial has a Compose sandbox of its own. The plan's commands are an export of the
nodes in reserve and `up -d --force-recreate` of everything but the nodes, typed without thinking time. Users count as
served from when both heights come through the gateway. What was made anew is read from the engine; then the Compose
file is deployed, as the next release will be, by a shell that knows nothing of that export.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta

import docker
import httpx

from benchmarks.rounds import machine, markdown, screen, working_place
from flows.backup import run_backup
from flows.blockchain import BlockchainRecovery, run_blockchain_recovery
from flows.redis_store import run_redis_backup
from recoup.errors import RecoupError
from recoup.places import ledger_path
from recoup.plan import ChainComponent, ComposeSite, Endpoint, Plan, load_plan
from recoup.process import Command, run
from recoup.stacks import Stack, open_stack
from tasks import sandbox
from tasks.canary import Canary
from tasks.chain import address_of, look_at_chains
from tasks.chain_fault import ChainFault, inject
from tasks.rpc import RpcError, ask

LIMIT = timedelta(minutes=5)
NODE = "-rpc"
CHAINS = {"neo-n3": "n3", "neo-x": "x"}


@dataclass(frozen=True)
class Switched:
    """Seconds until users were served; containers that were made anew; users served after the next deployment."""

    seconds: float
    anew: int
    stays: bool


def by_recoup(plan: Plan, stack: Stack, made: sandbox.Sandbox) -> None:
    """Bring the access back by the procedure."""
    run_blockchain_recovery(plan, BlockchainRecovery(plan=made.plan), ledger=ledger_path(plan))


def by_the_plan(plan: Plan, stack: Stack, made: sandbox.Sandbox) -> None:
    """Bring the access back by the written plan's commands."""
    exported = {chain.variable: chain.endpoints[1].url for chain in _chains(plan).values()}
    # Nodes are somebody else's: those of the sandbox are left out.
    services = [name for name in stack.names if not name.endswith(NODE)]
    _compose(plan, "up", "--detach", "--force-recreate", *services, env=exported)
    n3 = _chains(plan)["neo-n3"]
    ask(address_of(n3, n3.endpoints[1].url), "getblockcount", deadline=LIMIT)


WAYS = {"recoup recover blockchain": by_recoup, "the written plan's commands": by_the_plan}


def trial(way: str) -> Switched:
    """Make a platform that is in use, silence the nodes it uses, and bring the access back one way."""
    made = sandbox.create("compose", backup_nodes=True)
    with ExitStack() as clean:
        clean.callback(sandbox.destroy, made)
        plan = load_plan(made.plan)
        stack = open_stack(plan)
        run_backup(plan, stack, verify=False)
        run_redis_backup(plan, stack)
        canary = Canary(plan, stack, "canary-benchmark")
        clean.callback(canary.stop)
        canary.start()
        canary.wait_for(20)
        before = _containers(made)
        inject(stack, ChainFault.SILENT, made.id)
        began = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            served = pool.submit(_until_served, plan, stack)
            WAYS[way](plan, stack, made)
            took = served.result() - began
        anew = len(before - _containers(made))
        _compose(plan, "up", "--detach")
        time.sleep(2)
        return Switched(took, anew, _served(plan, stack))


def probe(count: int) -> tuple[float, float, int]:
    """Probe endpoints of which half are silent: all at once, and one after the other; gives seconds and the healthy."""
    made = sandbox.create("process", backup_nodes=True)
    with ExitStack() as clean:
        clean.callback(sandbox.destroy, made)
        chain = _chains(load_plan(made.plan))["neo-n3"]
        well = [one.url for one in chain.endpoints]
        urls = [f"{well[number % len(well)]}?{number}" for number in range(count // 2)]
        for _ in range(count - len(urls)):
            # Takes connections, and nobody ever answers.
            deaf = clean.enter_context(socket.create_server(("127.0.0.1", 0)))
            urls.append(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        many = chain.model_copy(update={"endpoints": tuple(Endpoint(url=url) for url in urls)})
        began = time.monotonic()
        (seen,) = look_at_chains({"neo-n3": (many, urls[0])})
        at_once = time.monotonic() - began
        began = time.monotonic()
        for url in urls:
            with suppress(RpcError):
                ask(url, "getblockcount", deadline=chain.max_latency)
        return at_once, time.monotonic() - began, sum(one.healthy for one in seen.endpoints)


def _until_served(plan: Plan, stack: Stack) -> float:
    while not _served(plan, stack):
        time.sleep(0.1)
    return time.monotonic()


def _served(plan: Plan, stack: Stack) -> bool:
    try:
        host, port = stack.endpoint("api-gateway", 8080)
        paths = [f"http://{host}:{port}/api/v1/chain/{path}/height" for path in CHAINS.values()]
        return all(httpx.get(path, timeout=5, trust_env=False).status_code == 200 for path in paths)
    except (httpx.HTTPError, RecoupError):
        return False


def _containers(made: sandbox.Sandbox) -> set[str]:
    found = docker.from_env().containers.list(all=True, filters={"label": f"io.recoup.sandbox={made.id}"})
    return {str(one.id) for one in found if not str(one.name).endswith(NODE)}


def _chains(plan: Plan) -> dict[str, ChainComponent]:
    return {name: one for name, one in plan.components.items() if isinstance(one, ChainComponent)}


def _compose(plan: Plan, *words: str, env: dict[str, str] | None = None) -> None:
    site = plan.platform.stack
    assert isinstance(site, ComposeSite)
    files = [part for path in (site.file, *site.overrides) for part in ("--file", str(path))]
    argv = ("docker", "compose", "--project-name", site.project, *files, "--env-file", str(site.env_file), *words)
    run(Command(argv, env or {}), timeout=LIMIT)


def main() -> None:
    """Run the trials, one way after the other, and print two tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blockchain", description=__doc__)
    parser.add_argument("--trials", type=int, default=3, help="how often each way (3)")
    parser.add_argument("--endpoints", type=int, default=20, help="how many are probed, half of them silent (20)")
    asked = parser.parse_args()
    where = machine()
    found: dict[str, list[Switched]] = {way: [] for way in WAYS}
    with working_place(None):
        probes = [probe(asked.endpoints) for _ in range(asked.trials)]
        for number in range(1, asked.trials + 1):
            for way in WAYS:
                found[way].append(trial(way))
                screen.print(f"{number}/{asked.trials} {way}: {found[way][-1]}")
    print(f"nodes silent on Docker Compose, {asked.trials} trials ({where})\n")
    rows = [
        (
            way,
            f"{statistics.median(one.seconds for one in trials):.1f}",
            f"{max(one.seconds for one in trials):.1f}",
            f"{max(one.anew for one in trials)}",
            f"{sum(one.stays for one in trials)} of {len(trials)}",
        )
        for way, trials in found.items()
    ]
    head = ("switched by", "median, s", "worst, s", "containers made anew", "served after the next deployment")
    print(markdown(head, rows))
    once, after, healthy = (statistics.median(column) for column in zip(*probes, strict=True))
    print(f"\n{asked.endpoints} endpoints, half of them silent; {healthy:.0f} are told to be healthy\n")
    ways = [
        ("all at once, judged", f"{once:.1f}", "1"),
        ("one call each, in turn", f"{after:.1f}", f"{after / once:.1f}"),
    ]
    print(markdown(("probed", "median, s", "times as long"), ways))


if __name__ == "__main__":
    main()
