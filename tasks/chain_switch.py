"""Switching a chain to another endpoint: the environment file rewritten, the services that use it made anew."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from pydantic import AwareDatetime, Field, ValidationError

from recoup import env_file
from recoup.addresses import same_place, shown
from recoup.chains import ChainSeen, Choice, choose
from recoup.errors import PreconditionError, RecoveryError
from recoup.places import note_file, write_note
from recoup.plan import ChainComponent, Plan, service_of
from recoup.records import Frozen, now
from recoup.stacks import Stack
from tasks.chain import look_at_chains
from tasks.service_look import settled
from tasks.step import note, step

_NOTE = "chains"


class ChainsSeen(Frozen):
    """All chains that were looked at."""

    chains: tuple[ChainSeen, ...]

    def of(self, name: str) -> ChainSeen:
        return next(one for one in self.chains if one.chain == name)

    def __str__(self) -> str:
        return "; ".join(map(str, self.chains))


class Choices(Frozen):
    """What is to be used from now on, chain by chain."""

    choices: tuple[Choice, ...]

    @property
    def switching(self) -> tuple[Choice, ...]:
        return tuple(one for one in self.choices if one.switches)

    @property
    def without(self) -> tuple[Choice, ...]:
        """Those chains of which no endpoint is healthy."""
        return tuple(one for one in self.choices if not one.use)

    def __str__(self) -> str:
        return "; ".join(one.why for one in self.choices)


class Switched(Frozen):
    """The environment file that was rewritten, what it is kept as, and each variable before (null: none) and after.

    ``left`` is what the services had as each variable, from wherever.
    """

    file: Path | None = None
    kept: Path | None = None
    before: Mapping[str, str | None] = Field(default_factory=dict)
    after: Mapping[str, str] = Field(default_factory=dict)
    left: Mapping[str, str] = Field(default_factory=dict)

    def __str__(self) -> str:
        if not self.before:
            return "nothing was to be changed"
        changes = (
            f"{name}={shown(was or '(not set)')} is now {shown(self.after.get(name, '(not set)'))}"
            for name, was in self.before.items()
        )
        return f"{self.file}: {', '.join(changes)}; the old file is {self.kept}"


class Renewed(Frozen):
    """A service that uses a chain, after it was made anew; ``wrong`` where it is not well."""

    service: str
    done: str
    wrong: str = ""

    def __str__(self) -> str:
        return f"{self.service} {self.done}" + (f"; {self.wrong}" if self.wrong else "")


class _Left(Frozen):
    """When endpoints were left, by the digest of their addresses: a key may be in one, and others may read the note."""

    endpoints: Mapping[str, AwareDatetime] = Field(default_factory=dict)


def chains_of(plan: Plan, names: tuple[str, ...] = ()) -> dict[str, ChainComponent]:
    """Give the plan's chains, or those named; PreconditionError for a name that is none, and where there is none."""
    known = {name: one for name, one in plan.components.items() if isinstance(one, ChainComponent)}
    if not known:
        raise PreconditionError("the plan has no chain", next_step="add a component of kind chain to the plan")
    for name in names:
        if name not in known:
            raise PreconditionError(f"the plan has no chain named {name}", next_step=f"name one of: {', '.join(known)}")
    return {name: known[name] for name in names} if names else known


def named_in_file(stack: Stack, chain: ChainComponent) -> str:
    """Give the endpoint that the environment file names, "" where it names none, or by way of another variable."""
    path = stack.env_file
    said = env_file.values(env_file.read(path)).get(chain.variable, "") if path else ""
    # What Compose puts in the place of $NAME, the services tell.
    return "" if "$" in said else said


def endpoint_in_use(stack: Stack, chain: ChainComponent) -> str:
    """Give the endpoint that the environment file names, else that of the running services, else the plan's first."""
    if said := named_in_file(stack, chain):
        return said
    running = (has.get(chain.variable) for one in stack.names for has in stack.environments(one))
    return next((one for one in running if one), chain.endpoints[0].url)


def endpoints_in_use(plan: Plan, stack: Stack) -> dict[str, str]:
    """Give the endpoint in use of each chain, by the chain's name."""
    return {name: endpoint_in_use(stack, chain) for name, chain in chains_of(plan).items()}


def see_chains(plan: Plan, stack: Stack, names: tuple[str, ...] = ()) -> ChainsSeen:
    """Probe every endpoint of the plan's chains, or of those named, and judge them; changes nothing."""
    chains = {name: (chain, endpoint_in_use(stack, chain)) for name, chain in chains_of(plan, names).items()}
    return ChainsSeen(chains=look_at_chains(chains))


@step(timeout=timedelta(minutes=1))
def diagnose_chains(plan: Plan, stack: Stack, names: tuple[str, ...]) -> ChainsSeen:
    """Say which chains are ill, which of their endpoints, and why."""
    return see_chains(plan, stack, names)


@step(timeout=timedelta(minutes=1))
def choose_endpoints(plan: Plan, found: ChainsSeen, back: bool) -> Choices:
    """Choose the endpoint of each chain; see ``recoup.chains.choose``."""
    return choose_of(plan, found, back)


def choose_of(plan: Plan, found: ChainsSeen, back: bool) -> Choices:
    """See choose_endpoints."""
    noted, chains = _left(plan), chains_of(plan)
    urls = {one.url for chain in found.chains for one in chain.endpoints}
    left = {url: at for url in urls if (at := noted.get(_digest(url)))}
    return Choices(choices=tuple(choose(one.chain, one, left, chains[one.chain], back) for one in found.chains))


@step(timeout=timedelta(minutes=1))
def switch_endpoints(plan: Plan, stack: Stack, chosen: Choices, label: str) -> Switched:
    """Write the chosen endpoints into the stack's environment file; the old one stays beside, named by ``label``.

    Raises PreconditionError where the stack has no such file, RecoveryError when it cannot be written: it is as it was.
    """
    path = stack.env_file
    if path is None and not chosen.switching:
        return Switched()
    if path is None:
        raise PreconditionError(
            "the stack has no environment file in which an endpoint could be switched",
            next_step="name it in the plan: platform.stack.env_file",
        )
    chains, text = chains_of(plan), env_file.read(path)
    kept = path.with_name(f"{path.name}.before-{label}")
    # What a killed run of this name had written already is its change, too.
    was = env_file.values(env_file.read(kept) if kept.exists() else text)
    wanted = {chains[one.chain].variable: one.use for one in chosen.choices if one.use}
    switching = {chains[one.chain].variable for one in chosen.switching}
    has = env_file.values(text)
    after = {v: url for v, url in wanted.items() if v in switching or (v in has and has[v] != was.get(v))}
    if not after:
        return Switched()
    env_file.write(path, env_file.changed(text, after), keep=kept)
    _note(plan, {one.was: now() for one in chosen.switching if one.was})
    had = {chains[one.chain].variable: one.was for one in chosen.switching}
    left = {name: old for name in after if (old := had.get(name) or was.get(name))}
    return Switched(file=path, kept=kept, before={name: was.get(name) for name in after}, after=after, left=left)


def component_of(plan: Plan, service: str) -> str | None:
    """Give the component that runs as a service of the stack; None where the plan knows none."""
    return next((name for name, one in plan.components.items() if service_of(one) == service), None)


def is_job(plan: Plan, stack: Stack, service: str) -> bool:
    """Say whether a service ended in good order and the plan knows none like it: nobody wants it run once more."""
    return component_of(plan, service) is None and stack.state(service).stopped


def users_of(plan: Plan, stack: Stack, wanted: Mapping[str, str], old: Mapping[str, str]) -> tuple[str, ...]:
    """Give the services that have one of these variables, under its name or with its ``old`` value under another."""
    values = set(old.values())

    def uses(has: Mapping[str, str]) -> bool:
        return any(name in wanted or value in values for name, value in has.items())

    users = (one for one in stack.names if any(map(uses, stack.environments(one))))
    return tuple(one for one in users if not is_job(plan, stack, one))


def stale(stack: Stack, service: str, wanted: Mapping[str, str], old: Mapping[str, str]) -> bool:
    """Say whether an instance of a service was made with other values than these."""
    gone = {value for name, value in old.items() if wanted.get(name) != value}
    return any(
        any(has.get(name, value) != value for name, value in wanted.items()) or any(v in gone for v in has.values())
        for has in stack.environments(service)
    )


@step(timeout=timedelta(minutes=5))
def renew_service(plan: Plan, stack: Stack, service: str, wanted: Mapping[str, str], old: Mapping[str, str]) -> Renewed:
    """Make a service anew, alone, that was made with another endpoint, and wait until it is well."""
    done = "has it already"
    if stale(stack, service, wanted, old):
        note(f"making {service} anew with its endpoints")
        stack.recreate(service)
        done = "made anew"
    component = component_of(plan, service)
    if component is None:
        return Renewed(service=service, done=done)
    seen = settled(plan, stack, component)
    return Renewed(service=service, done=done, wrong=str(seen) if seen.ill else "")


@step(timeout=timedelta(minutes=1))
def put_back(plan: Plan, stack: Stack, switched: Switched) -> Switched:
    """Put the environment file back: whole, or where somebody has changed it meanwhile the variables alone."""
    assert switched.file and switched.kept, "nothing was switched"
    old, text = env_file.read(switched.kept), env_file.read(switched.file)
    ours = env_file.changed(old, switched.after)
    set_before = {name: was for name, was in switched.before.items() if was is not None}
    env_file.write(switched.file, old if text == ours else env_file.changed(text, switched.before))
    # The next run takes another one, where there is one.
    _note(plan, {url: now() for url in switched.after.values()}, back=tuple(set_before.values()))
    return Switched(file=switched.file, kept=switched.kept, before=dict(switched.after), after=set_before)


def _left(plan: Plan) -> dict[str, AwareDatetime]:
    try:
        return dict(_Left.model_validate_json(note_file(plan, _NOTE).read_bytes()).endpoints)
    except (OSError, ValidationError):
        return {}


def _digest(url: str) -> str:
    return hashlib.sha256(same_place(url).encode("utf-8", "surrogateescape")).hexdigest()


def _note(plan: Plan, left: Mapping[str, AwareDatetime], back: tuple[str, ...] = ()) -> None:
    again = {_digest(url) for url in back}
    kept = {digest: at for digest, at in _left(plan).items() if digest not in again}
    left = kept | {_digest(url): at for url, at in left.items()}
    try:
        write_note(note_file(plan, _NOTE), _Left(endpoints=left).model_dump_json(indent=2))
    except OSError as error:
        raise RecoveryError(
            f"which endpoint was left could not be written down: {error.strerror}",
            state="the environment file is changed already; no service was made anew since",
            next_step="see to the room in platform.state, then run the same command again",
        ) from None
