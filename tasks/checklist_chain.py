"""Checklist: whether the chains answer by the endpoint in use, on the right network, and know the pinned contracts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx

from recoup.errors import PreconditionError, RecoveryError
from recoup.plan import ChainComponent, ComposeSite, ContractComponent, Plan
from recoup.plan_chain import PinnedContract
from recoup.secrets import resolve
from recoup.stacks import Stack
from tasks.checklist_found import PATIENCE, Found, failed, passed, together, unproven
from tasks.health import told


def chains_answer(plan: Plan, stack: Stack) -> Found:
    """The endpoint in use of each chain tells the plan's network and a height."""
    return together((_chain(plan, name, chain) for name, chain in _chains(plan)), "the plan has no chain")


def contracts_respond(plan: Plan, stack: Stack) -> Found:
    """Each pinned contract is known to a chain that the component depends on."""
    return together(_contracts(plan), "no contract is pinned in the plan: nothing to ask for")


def endpoint_in_use(plan: Plan, chain: ChainComponent) -> str:
    """Give the endpoint that the deployed variable names, else the plan's first."""
    site = plan.platform.stack
    if isinstance(site, ComposeSite) and site.env_file is not None:
        try:
            set_to = resolve(f"dotenv:{Path(site.env_file).absolute()}#{chain.variable}").get_secret_value()
        except PreconditionError:
            return chain.endpoints[0].url
        # One that only the containers know could not be asked from here.
        if any(set_to == one.url for one in chain.endpoints):
            return set_to
    return chain.endpoints[0].url


def _chain(plan: Plan, name: str, chain: ChainComponent) -> Found:
    url = endpoint_in_use(plan, chain)
    try:
        if chain.protocol == "neo-n3":
            network, height = _network_of(_call(url, "getversion")), _call(url, "getblockcount")
        else:
            network, height = _number(_call(url, "eth_chainId")), _call(url, "eth_blockNumber")
    except RecoveryError as error:
        return failed(f"{name}: {error.what}")
    if network != chain.network:
        return failed(f"{name}: {url} is of network {network}, not {chain.network}")
    at = _number(height)
    return passed(f"{name}: network {network}, height {at}") if at else failed(f"{name}: {url} tells no height")


def _contracts(plan: Plan) -> Iterator[Found]:
    chains = dict(_chains(plan))
    for component in plan.components.values():
        if isinstance(component, ContractComponent):
            on = [chains[name] for name in component.depends_on if name in chains]
            for pinned in component.contracts:
                yield _contract(plan, pinned, on)


def _contract(plan: Plan, pinned: PinnedContract, chains: list[ChainComponent]) -> Found:
    trouble = []
    for chain in chains:
        try:
            if _is_there(endpoint_in_use(plan, chain), chain, pinned.hash):
                return passed(f"{pinned.name} is there")
        except RecoveryError as error:
            trouble.append(error.what)
    if trouble:
        return unproven(f"{pinned.name}: {trouble[0]}")
    return failed(f"{pinned.name} ({pinned.hash}) is on no chain that was asked")


def _is_there(url: str, chain: ChainComponent, contract: str) -> bool:
    if chain.protocol == "evm":
        return _call(url, "eth_getCode", contract, "latest") not in (None, "", "0x")
    try:
        found = _call(url, "getcontractstate", contract)
    except _Refused:
        return False
    return isinstance(found, dict) and str(found.get("hash", "")).lower() == contract.lower()


class _Refused(RecoveryError):
    """The node answered, with an error of its own."""


def _call(url: str, method: str, *parameters: str) -> object:
    """Give the result of one JSON-RPC call; raises RecoveryError in words for people."""
    body = {"jsonrpc": "2.0", "method": method, "params": list(parameters), "id": 1}
    try:
        answer = httpx.post(url, json=body, timeout=PATIENCE.total_seconds(), trust_env=False)
        found = answer.json()
    except httpx.HTTPError as error:
        kind, detail = told(error)
        raise RecoveryError(f"{url}: {kind} {detail}".strip()) from None
    except ValueError:
        raise RecoveryError(f"{url} answered {method} with status {answer.status_code} and no JSON") from None
    if not isinstance(found, dict) or ("result" not in found and "error" not in found):
        raise RecoveryError(f"{url} answered {method} with what is no JSON-RPC")
    if wrong := found.get("error"):
        words = wrong.get("message") if isinstance(wrong, dict) else wrong
        raise _Refused(f"{url} refused {method}: {words}")
    return found["result"]


def _network_of(version: object) -> int | None:
    protocol = version.get("protocol") if isinstance(version, dict) else None
    return _number(protocol.get("network")) if isinstance(protocol, dict) else None


def _number(value: object) -> int | None:
    try:
        return int(value, 16) if isinstance(value, str) else int(value) if isinstance(value, int) else None
    except ValueError:
        return None


def _chains(plan: Plan) -> Iterator[tuple[str, ChainComponent]]:
    return ((name, one) for name, one in plan.components.items() if isinstance(one, ChainComponent))
