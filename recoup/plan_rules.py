"""What must hold between the parts of a plan: a list of small pure functions, each giving what breaks its rule."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from recoup.plan_chain import ContractComponent
from recoup.plan_chain_rules import chains_can_be_switched
from recoup.plan_contract_rules import contracts_can_be_proven
from recoup.plan_enclave_rules import RULES as ENCLAVE_RULES
from recoup.plan_parts import BackupPolicy, Component, ConfigurationComponent, PostgresComponent, RedisComponent
from recoup.plan_text import Place, Problem
from recoup.plan_words import write_duration
from recoup.sealing import wrong_recipient

if TYPE_CHECKING:
    from recoup.plan import Plan

Rule = Callable[["Plan"], Iterator[Problem]]


def broken(plan: Plan) -> list[Problem]:
    """Give everything in the plan that breaks a rule, each with its place, the rule and why it is there."""
    return [problem for rule in RULES for problem in rule(plan)]


def store_of(component: Component) -> str | None:
    """Give the store a component keeps data in, None when it keeps none."""
    if isinstance(component, PostgresComponent | RedisComponent | ContractComponent | ConfigurationComponent):
        return component.store
    return None


def backup_of(component: Component) -> BackupPolicy | None:
    """Give how a component's store is backed up, None when it is not."""
    kinds = PostgresComponent | RedisComponent | ConfigurationComponent
    return component.backup if isinstance(component, kinds) else None


def components_are_known(plan: Plan) -> Iterator[Problem]:
    """Every name of a component is one that the plan has."""
    named: list[tuple[Place, str]] = [(("platform", "gateway", "component"), plan.platform.gateway.component)]
    for name, component in plan.components.items():
        named += [(("components", name, "depends_on", i), other) for i, other in enumerate(component.depends_on)]
    for n, scenario in enumerate(plan.scenarios):
        named += [(("scenarios", n, "covers", i), other) for i, other in enumerate(scenario.covers)]
    for place, name in named:
        if name not in plan.components:
            why = f"nothing can be stopped, started or checked by that name; known: {', '.join(plan.components)}"
            yield Problem(place, f"unknown component {name}", why, (("components", name),))


def gateway_runs(plan: Plan) -> Iterator[Problem]:
    """The gateway is a service of the stack, and there is something to ask it."""
    gateway = plan.platform.gateway
    component = plan.components.get(gateway.component)
    if component is not None and component.kind != "service":
        why = "users come in through a service; the user-level check has to find it in the stack"
        yield Problem(
            ("platform", "gateway", "component"), f"{gateway.component} is a {component.kind}, not a service", why
        )
    why = "without a check as a user no run can end as recovered"
    if not gateway.requests:
        yield Problem(("platform", "gateway", "requests"), "no requests", why)
    if gateway.login is None:
        for n, request in enumerate(gateway.requests):
            if request.login:
                rule = f"the request '{request.name}' needs a login and the gateway has none"
                yield Problem(("platform", "gateway", "requests", n, "login"), rule, why)


def requests_have_an_order(plan: Plan) -> Iterator[Problem]:
    """A request waits only for earlier ones, each of a name of its own."""
    requests = plan.platform.gateway.requests
    at: Place = ("platform", "gateway", "requests")
    names = (((*at, n, "name"), request.name) for n, request in enumerate(requests))
    yield from _twice(names, "the request", "an answer could not be told from the other's")
    for n, request in enumerate(requests):
        for i, name in enumerate(request.after or ()):
            if name not in (earlier.name for earlier in requests[:n]):
                why = "it would wait for what is never made, or for what waits for it"
                yield Problem(
                    (*at, n, "after", i), f"'{request.name}' comes after '{name}', which is not before it", why
                )


def dependencies_have_no_cycle(plan: Plan) -> Iterator[Problem]:
    """No component depends on itself, over however many others."""
    reported: set[frozenset[str]] = set()
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> Iterator[Problem]:
        if name in path:
            cycle = path[path.index(name) :]
            if frozenset(cycle) not in reported:
                reported.add(frozenset(cycle))
                rule = f"dependencies go in a circle: {' -> '.join((*cycle, name))}"
                yield Problem(
                    ("components", cycle[-1], "depends_on"), rule, "there is no order to stop and start these in"
                )
        elif name not in done:
            for other in plan.components[name].depends_on:
                if other in plan.components:
                    yield from walk(other, (*path, name))
            done.add(name)

    for name in plan.components:
        yield from walk(name, ())


def critical_rests_on_critical(plan: Plan) -> Iterator[Problem]:
    """What a critical component depends on is critical too."""
    for name, component in plan.components.items():
        for i, other in enumerate(component.depends_on):
            if component.tier == "critical" and other in plan.components and plan.components[other].tier != "critical":
                place = ("components", name, "depends_on", i)
                why = f"{name} cannot be back before {other}, which has more time than {name} may be away"
                yield Problem(
                    place, f"critical, but depends on {other}, which is not", why, (("components", other, "tier"),)
                )


def services_are_named_once(plan: Plan) -> Iterator[Problem]:
    """No two components are the same service or keep the same store."""
    services: list[tuple[Place, str | None]] = []
    for name, component in plan.components.items():
        services.append((("components", name, "service"), getattr(component, "service", None)))
        if isinstance(component, PostgresComponent) and component.standby:
            services.append((("components", name, "standby", "service"), component.standby.service))
        if isinstance(component, RedisComponent) and component.replica:
            services.append((("components", name, "replica", "service"), component.replica.service))
    yield from _twice(services, "the service", "a restart of one component would take the other one down")
    stores = ((("components", n, "store"), store_of(c)) for n, c in plan.components.items())
    yield from _twice(stores, "the store", "the backups of two components would be taken for each other's")


def components_are_covered(plan: Plan) -> Iterator[Problem]:
    """Every component is covered by a scenario."""
    covered = {name for scenario in plan.scenarios for name in scenario.covers}
    for name in plan.components:
        if name not in covered:
            why = "when it fails, no procedure answers"
            yield Problem(("components", name), "no scenario covers it", why, (("scenarios",),))


def scenarios_are_whole(plan: Plan) -> Iterator[Problem]:
    """Every scenario can be told by signals and has steps, one name, and a procedure of its own."""
    for n, scenario in enumerate(plan.scenarios):
        if not scenario.detection:
            why = "a failure nobody can notice is never answered, and its outage never begins on the clock"
            yield Problem(("scenarios", n, "detection"), f"{scenario.name} has no detection signals", why)
        if not scenario.steps:
            yield Problem(
                ("scenarios", n, "steps"),
                f"{scenario.name} has no steps",
                "people have nothing to go by when recoup is away",
            )
        if not scenario.covers:
            yield Problem(
                ("scenarios", n, "covers"),
                f"{scenario.name} covers no component",
                "then nothing is ever recovered by it",
            )
    names = ((("scenarios", n, "name"), s.name) for n, s in enumerate(plan.scenarios))
    yield from _twice(names, "the scenario", "a drill or an alert that names it could mean either")
    answers = ((("scenarios", n, "procedure"), s.procedure) for n, s in enumerate(plan.scenarios))
    yield from _twice(answers, "the procedure", "a record of it could not say which scenario it answered")


def drills_are_known(plan: Plan) -> Iterator[Problem]:
    """Every drill rehearses a scenario of the plan, or says what it does, at a time that is known."""
    known = {scenario.name for scenario in plan.scenarios}
    for n, drill in enumerate(plan.drills):
        if drill.scenario is None:
            if not drill.what:
                yield Problem(
                    ("drills", n),
                    f"'{drill.name}' says neither scenario nor what",
                    "nobody would know what to do that day",
                )
            if drill.fault:
                yield Problem(
                    ("drills", n, "fault"), f"'{drill.name}' has a fault and no scenario", "there is nothing to break"
                )
        elif drill.scenario not in known:
            why = f"it would fail on its day instead of now; known: {', '.join(sorted(known))}"
            yield Problem(("drills", n, "scenario"), f"unknown scenario {drill.scenario}", why)
    names = ((("drills", n, "name"), drill.name) for n, drill in enumerate(plan.drills))
    yield from _twice(names, "the drill", "its schedule and its records would be mixed up")
    try:
        ZoneInfo(plan.time_zone)
    except (KeyError, ValueError, OSError):
        yield Problem(
            ("time_zone",), "not a known time zone", "the drills would run at another hour than people expect"
        )


def stores_have_objectives(plan: Plan) -> Iterator[Problem]:
    """Every store has an RPO and every RPO a store."""
    stores = {store_of(component): name for name, component in plan.components.items()}
    for store, name in stores.items():
        if store is not None and store not in plan.objectives.rpo:
            why = "how much of it may be lost is then decided by chance"
            yield Problem(
                ("objectives", "rpo", store),
                f"no objective for the store of {name}",
                why,
                (("components", name, "store"),),
            )
    for store in plan.objectives.rpo:
        if store not in stores:
            known = ", ".join(s for s in stores if s)
            why = f"the promise is empty; stores: {known}"
            yield Problem(("objectives", "rpo", store), "no component keeps this store", why, (("components",),))


def objectives_can_be_met(plan: Plan) -> Iterator[Problem]:
    """Backups come often enough for the RPO, two of them are kept, and no tier may be away longer than the platform."""
    for name, component in plan.components.items():
        store, policy = store_of(component), backup_of(component)
        rpo = plan.objectives.rpo.get(store) if store else None
        at: Place = ("components", name, "backup")
        objective: Place = ("objectives", "rpo", store or "")
        if isinstance(component, RedisComponent) and policy is None and rpo is not None:
            yield Problem(
                at, "no backups, though its store has an RPO", "what was never copied is lost whole", (objective,)
            )
        if policy is None:
            continue
        if policy.interval < timedelta(seconds=1):
            yield Problem((*at, "interval"), "not longer than a second", "backups would run without end")
        if policy.keep < 2:
            yield Problem(
                (*at, "keep"), "fewer than 2 sets kept", "when the newest is damaged there must be an older one"
            )
        # What is committed is never lost; the interval of configuration is how long an edit on the server may be.
        if rpo is not None and rpo <= policy.interval and not isinstance(component, ConfigurationComponent):
            every = write_duration(policy.interval)
            rule = f"the RPO of {store} ({write_duration(rpo)}) cannot be met by a backup every {every}"
            why = (
                "a backup holds what was there when it began, so up to one interval plus the time a backup takes"
                f" is lost; the interval must be shorter than {write_duration(rpo)}"
            )
            yield Problem((*at, "interval"), rule, why, (objective,))
    rto = plan.objectives.rto
    for tier, limit in (("critical", rto.critical), ("non-critical", rto.non_critical)):
        if limit > rto.platform:
            rule = f"longer than the platform's ({write_duration(limit)} > {write_duration(rto.platform)})"
            place = ("objectives", "rto", tier)
            yield Problem(
                place, rule, "the platform is not back while a part of it is away", (("objectives", "rto", "platform"),)
            )
    if rto.non_critical < rto.critical <= rto.platform:
        rule = f"longer than non-critical ({write_duration(rto.critical)} > {write_duration(rto.non_critical)})"
        why = "the critical ones are to be back first"
        yield Problem(("objectives", "rto", "critical"), rule, why, (("objectives", "rto", "non-critical"),))
    for tier, limit in (("critical", rto.critical), ("non-critical", rto.non_critical), ("platform", rto.platform)):
        if not limit:
            yield Problem(
                ("objectives", "rto", tier), "no time at all", "no recovery takes none, so it would never be met"
            )


def configuration_can_be_kept(plan: Plan) -> Iterator[Problem]:
    """Paths stay in the checkout, a backup has some, and whoever has secrets names who may open them."""
    for name, component in plan.components.items():
        if not isinstance(component, ConfigurationComponent):
            continue
        at: Place = ("components", name)
        for key, paths in (("paths", component.paths), ("secret", component.secret)):
            for n, path in enumerate(paths):
                if path.startswith("/") or ".." in path.split("/"):
                    why = "a restore would write, and a backup read, what is not the platform's configuration"
                    yield Problem((*at, key, n), f"'{path}' leads out of the checkout", why)
        if component.backup and not (component.paths or component.secret):
            why = "there is nothing to back up, and nothing would be restored"
            yield Problem((*at, "paths"), "a backup of no paths", why, ((*at, "backup"),))
        if component.secret and not component.recipients:
            why = "secrets leave this machine only sealed to an age public key"
            yield Problem((*at, "recipients"), "secrets and nobody who may open them", why, ((*at, "secret"),))


def recipients_are_keys(plan: Plan) -> Iterator[Problem]:
    """Whoever is to open what is sealed has an age public key."""
    named: list[tuple[Place, str]] = []
    for name, component in plan.components.items():
        if isinstance(component, ConfigurationComponent):
            named += [(("components", name, "recipients", n), text) for n, text in enumerate(component.recipients)]
    for i, copy in enumerate(plan.platform.copies):
        named += [(("platform", "copies", i, "recipients", n), text) for n, text in enumerate(copy.recipients)]
    for place, text in named:
        if wrong := wrong_recipient(text):
            yield Problem(place, wrong, "what is sealed to it could not be made, or be opened by anybody")


def standbys_can_be_judged(plan: Plan) -> Iterator[Problem]:
    """A database with a standby has its WAL received, and the two listen on different ports."""
    for name, component in plan.components.items():
        if not isinstance(component, PostgresComponent) or component.standby is None:
            continue
        at: Place = ("components", name, "standby")
        if component.continuous is None:
            why = "without the received WAL nobody can tell what the standby lacks when it is to take over"
            yield Problem(at, "a standby without continuous backup", why, (("components", name, "continuous"),))
        elif component.standby.slot == component.continuous.slot:
            why = "only one of the two could receive WAL by it"
            yield Problem((*at, "slot"), "the slot of the WAL receiver", why, ((*at[:2], "continuous", "slot"),))
        if component.standby.port == component.port:
            why = "the two share the directory of their sockets, which are told apart by the port"
            yield Problem((*at, "port"), "the port of the database itself", why, ((*at[:2], "port"),))


def releases_can_be_made(plan: Plan) -> Iterator[Problem]:
    """A version's checkout has the files that define the stack, and the way down ends where it is told to."""
    release, site = plan.platform.release, plan.platform.stack
    if release is None:
        return
    at: Place = ("platform", "release")
    if site.kind == "compose" and not site.file.is_relative_to(release.checkout):
        why = "every version would be defined by the same file"
        yield Problem((*at, "checkout"), "platform.stack.file is not in it", why, (("platform", "stack", "file"),))
    if release.migrations and not any("{target}" in part for part in release.migrations.down):
        why = "it would undo one migration, or all of them, whichever version is gone back to"
        yield Problem((*at, "migrations", "down"), "no {target} in it", why)


def checklist_is_whole(plan: Plan) -> Iterator[Problem]:
    """Every item of the checklist has a check, and stands there once."""
    for n, item in enumerate(plan.checklist):
        if not item.check:
            why = "an item nobody looks at can only be ticked by belief; name the check that proves it"
            yield Problem(("checklist", n, "check"), f"no check for '{item.item}'", why)
    items = ((("checklist", n, "item"), item.item.casefold()) for n, item in enumerate(plan.checklist))
    yield from _twice(items, "the item", "two ticks for one thing make a run look better proven than it is")


def follow_ups_have_owners(plan: Plan) -> Iterator[Problem]:
    """Who owes an action after a recovery is one of the contacts."""
    roles = {contact.role for contact in plan.contacts}
    for n, action in enumerate(plan.post_recovery):
        if action.owner is not None and action.owner not in roles:
            why = f"nobody would be asked for it; roles: {', '.join(sorted(roles))}"
            yield Problem(
                ("post_recovery", n, "owner"), f"no contact has the role {action.owner}", why, (("contacts",),)
            )


def escalation_is_consecutive(plan: Plan) -> Iterator[Problem]:
    """Levels go 1, 2, 3 … and each is called later than the one before."""
    for n, level in enumerate(plan.escalation):
        if level.level != n + 1:
            rule = f"level {level.level} where level {n + 1} is due"
            yield Problem(("escalation", n, "level"), rule, "a level left out or named twice is a call nobody makes")
        if n and level.after <= plan.escalation[n - 1].after:
            rule = f"called after {write_duration(level.after)}, no later than the level before"
            why = "then nobody can tell whose turn it is"
            yield Problem(("escalation", n, "after"), rule, why, (("escalation", n - 1, "after"),))


RULES: tuple[Rule, ...] = (
    components_are_known,
    gateway_runs,
    requests_have_an_order,
    dependencies_have_no_cycle,
    critical_rests_on_critical,
    services_are_named_once,
    components_are_covered,
    scenarios_are_whole,
    drills_are_known,
    stores_have_objectives,
    objectives_can_be_met,
    configuration_can_be_kept,
    recipients_are_keys,
    standbys_can_be_judged,
    releases_can_be_made,
    chains_can_be_switched,
    contracts_can_be_proven,
    checklist_is_whole,
    follow_ups_have_owners,
    escalation_is_consecutive,
    *ENCLAVE_RULES,
)


def _twice(found: Iterable[tuple[Place, Hashable]], what: str, why: str) -> Iterator[Problem]:
    first: dict[Hashable, Place] = {}
    for place, value in found:
        if value is None:
            continue
        if value in first:
            yield Problem(place, f"{what} '{value}' is there twice", why, (first[value],))
        else:
            first[value] = place
