"""Nodes of both chains go wrong, the access is brought back, beside the written plan's commands; and the probe alone.

`python -m benchmarks.blockchain`. Each trial has a Compose sandbox of its own. The plan's commands are an export of the
nodes in reserve, `up -d --force-recreate` of everything but the nodes, which are somebody else's, and a request for the
height, typed without thinking time. Users count as served from when the gateway tells both heights as a healthy node
has them. Then the Compose file is deployed, as the next release will be, by a shell that knows nothing of that export.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

import docker
import httpx

from benchmarks.rounds import machine, markdown, rest, screen, working_place
from flows.backup import run_backup
from flows.blockchain import BlockchainRecovery, run_blockchain_recovery
from flows.drill import writing
from flows.redis_store import run_redis_backup
from recoup.places import ledger_path
from recoup.plan import ComposeSite, Endpoint, Plan, load_plan
from recoup.process import Command, run
from recoup.records import Verdict, now
from recoup.stacks import Stack, open_stack
from tasks import sandbox
from tasks.chain import SLOWER, look_at_chains, reached_at
from tasks.chain_fault import ChainFault, inject
from tasks.chain_switch import chains_of
from tasks.rpc import RpcError, ask, call, connection, number

LIMIT, DEPLOYED, PATIENCE = timedelta(minutes=5), timedelta(seconds=20), timedelta(seconds=2)
FAULTS = (ChainFault.SILENT, ChainFault.LAGGING)
NODE, STORES = "-rpc", ("postgres", "redis")
HEIGHT = {"neo-n3": "getblockcount", "evm": "eth_blockNumber"}
# Between two writes of a client that nobody refuses there are some hundredths of a second.
PAUSE = 0.5


@dataclass(frozen=True)
class Switched:
    """Seconds from the fault until users were served and the command ended, and those in which no write was taken.

    ``anew`` are the services whose containers were replaced; ``stays``: users were served after the next deployment.
    """

    seconds: float
    ended: float
    unwritten: float
    anew: tuple[str, ...]
    stays: bool


def by_recoup(plan: Plan, stack: Stack, made: sandbox.Sandbox) -> None:
    """Bring the access back by the procedure."""
    record = run_blockchain_recovery(plan, BlockchainRecovery(plan=made.plan), ledger=ledger_path(plan))
    assert record.verdict is Verdict.RECOVERED, record


def by_the_plan(plan: Plan, stack: Stack, made: sandbox.Sandbox) -> None:
    """Bring the access back by the written plan's commands."""
    chains = chains_of(plan)
    exported = {chain.variable: chain.endpoints[1].url for chain in chains.values()}
    _deploy(plan, stack, "--force-recreate", env=exported)
    ask(reached_at(chains["neo-n3"].endpoints[1]), "getblockcount", deadline=LIMIT)


WAYS = {"recoup recover blockchain": by_recoup, "the written plan's commands": by_the_plan}


def trial(way: str, fault: ChainFault) -> Switched:
    """Make a platform that is in use, have the nodes it uses go wrong, and bring the access back one way."""
    made = sandbox.create("compose", backup_nodes=True)
    with ExitStack() as clean:
        clean.callback(sandbox.destroy, made)
        plan = load_plan(made.plan)
        stack = open_stack(plan)
        run_backup(plan, stack, verify=False)
        run_redis_backup(plan, stack)
        host, port = stack.endpoint("api-gateway", 8080)
        door = f"http://{host}:{port}"
        assert asyncio.run(_right(plan, door, DEPLOYED)), "users are not served before anything went wrong"
        rest(5)
        canary = writing(plan, stack, clean)
        before = _containers(made)
        inject(stack, fault, made.id)
        at, began = now(), time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            right = pool.submit(asyncio.run, _right(plan, door, LIMIT))
            WAYS[way](plan, stack, made)
            ended = time.monotonic() - began
            served = right.result()
        assert served, f"{way}: users are not served"
        canary.wait_for(20, seconds=60)
        canary.stop()
        after = _containers(made)
        anew = tuple(sorted(service for one, service in before.items() if one not in after))
        _deploy(plan, stack)
        stays = asyncio.run(_right(plan, door, DEPLOYED)) is not None
        return Switched(served - began, ended, _pauses(at, list(canary.acknowledged.values())), anew, stays)


def probe(count: int) -> tuple[float, float, int]:
    """Probe endpoints of which half are silent: all at once, and one after the other; gives seconds and the healthy."""
    made = sandbox.create("process", backup_nodes=True)
    with ExitStack() as clean:
        clean.callback(sandbox.destroy, made)
        chain = chains_of(load_plan(made.plan))["neo-n3"]
        well = [one.url for one in chain.endpoints]
        urls = [f"{well[place % len(well)]}?{place}" for place in range(count // 2)]
        for _ in range(count - len(urls)):
            # Takes connections, and nobody ever answers.
            deaf = clean.enter_context(socket.create_server(("127.0.0.1", 0)))
            urls.append(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        many = chain.model_copy(update={"endpoints": tuple(Endpoint(url=url) for url in urls)})
        rest(5)
        began = time.monotonic()
        (seen,) = look_at_chains({"neo-n3": (many, urls[0])})
        at_once = time.monotonic() - began
        began = time.monotonic()
        for url in urls:
            with suppress(RpcError):
                ask(url, "getblockcount", deadline=chain.max_latency + SLOWER)
        return at_once, time.monotonic() - began, sum(one.healthy for one in seen.endpoints)


async def _right(plan: Plan, door: str, within: timedelta) -> float | None:
    """Give the moment from which the gateway told both heights as a healthy node has them; None: it did not."""
    until = time.monotonic() + within.total_seconds()
    async with connection() as client:
        while time.monotonic() < until:
            with suppress(httpx.HTTPError):
                if await _fits(client, plan, door):
                    return time.monotonic()
            await asyncio.sleep(0.1)
    return None


async def _fits(client: httpx.AsyncClient, plan: Plan, door: str) -> bool:
    for chain in chains_of(plan).values():
        assert chain.gateway
        told = await client.get(f"{door}{chain.gateway.path}", timeout=PATIENCE.total_seconds())
        told.raise_for_status()
        has = await call(client, reached_at(chain.endpoints[1]), HEIGHT[chain.protocol], (), PATIENCE)
        if abs(told.json()[chain.gateway.field] - (number(has.result) or 0)) > chain.max_lag_blocks:
            return False
    return True


def _pauses(since: datetime, taken: list[datetime]) -> float:
    """Give the seconds, from a moment on, in which no write was taken."""
    moments = [since, *sorted(one for one in taken if one > since)]
    apart = [(later - one).total_seconds() for one, later in pairwise(moments)]
    return sum(one for one in apart if one > PAUSE)


def _containers(made: sandbox.Sandbox) -> dict[str, str]:
    """Give the service of each container, by the container's id; those of nodes are left out."""
    found = docker.from_env().containers.list(all=True, filters={"label": f"io.recoup.sandbox={made.id}"})
    named = {str(one.id): str(one.labels["com.docker.compose.service"]) for one in found}
    return {one: service for one, service in named.items() if not service.endswith(NODE)}


def _deploy(plan: Plan, stack: Stack, *words: str, env: dict[str, str] | None = None) -> None:
    site = plan.platform.stack
    assert isinstance(site, ComposeSite)
    files = [part for path in (site.file, *site.overrides) for part in ("--file", str(path))]
    services = [name for name in stack.names if not name.endswith(NODE)]
    argv = ("docker", "compose", "--project-name", site.project, *files, "--env-file", str(site.env_file))
    run(Command((*argv, "up", "--detach", *words, *services), env or {}), timeout=LIMIT)


def _row(way: str, fault: ChainFault, trials: list[Switched], best: float) -> tuple[str, ...]:
    middle = statistics.median(one.seconds for one in trials)
    anew = max((one.anew for one in trials), key=len)
    return (
        f"{fault}: {way}",
        f"{middle:.1f}",
        f"{max(one.seconds for one in trials):.1f}",
        f"{middle / best:.1f}",
        f"{statistics.median(one.ended for one in trials):.1f}",
        f"{statistics.median(one.unwritten for one in trials):.1f}",
        f"{len(anew)}, {sum(one in STORES for one in anew)}",
        f"{sum(one.stays for one in trials)} of {len(trials)}",
    )


def main() -> None:
    """Run the trials in shuffled order, and print two tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blockchain", description=__doc__)
    parser.add_argument("--trials", type=int, default=3, help="how often each way (3)")
    parser.add_argument("--endpoints", type=int, default=20, help="how many are probed, half of them silent (20)")
    asked = parser.parse_args()
    where, order = machine(), random.Random(1)
    found: dict[tuple[ChainFault, str], list[Switched]] = {(fault, way): [] for fault in FAULTS for way in WAYS}
    with working_place(None):
        probes = [probe(asked.endpoints) for _ in range(asked.trials)]
        for turn in range(1, asked.trials + 1):
            for fault, way in order.sample(list(found), len(found)):
                found[fault, way].append(trial(way, fault))
                screen.print(f"{turn}/{asked.trials} {fault}, {way}: {found[fault, way][-1]}")
    print(f"the nodes in use gone wrong on Docker Compose, {asked.trials} trials ({where})\n")
    ours = {fault: statistics.median(one.seconds for one in found[fault, next(iter(WAYS))]) for fault in FAULTS}
    head = ("served again", "median, s", "worst, s", "×", "ended, s", "no write, s", "made anew, stores", "stays")
    print(markdown(head, [_row(way, fault, trials, ours[fault]) for (fault, way), trials in found.items()]))
    once, after, healthy = (statistics.median(column) for column in zip(*probes, strict=True))
    print(f"\n{asked.endpoints} endpoints, half of them silent; {healthy:.0f} are told to be healthy\n")
    ways = [
        ("all at once, judged", f"{once:.1f}", "1.0"),
        ("one call each, in turn, the same time-out", f"{after:.1f}", f"{after / once:.1f}"),
    ]
    print(markdown(("probed", "median, s", "×"), ways))


if __name__ == "__main__":
    main()
