"""The Plan: the written disaster-recovery plan as validated data, read from YAML with every problem at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import Field, StringConstraints

from recoup import plan_faults, plan_text
from recoup.errors import PlanError, PreconditionError
from recoup.plan_chain import ChainComponent, ContractComponent, Endpoint
from recoup.plan_document import (
    ChecklistItem,
    Contact,
    Drill,
    EscalationLevel,
    ExternalContact,
    FollowUp,
    Locations,
    Objectives,
    Procedure,
    RtoObjectives,
    Scenario,
    UsefulCommand,
    WrittenProcedure,
    WrittenStep,
)
from recoup.plan_enclave import EnclaveComponent
from recoup.plan_parts import (
    BackupPolicy,
    Component,
    ConfigurationComponent,
    ContinuousPolicy,
    PostgresComponent,
    RedisComponent,
    RedisReplica,
    ServiceComponent,
    Standby,
    WalPolicy,
)
from recoup.plan_platform import (
    Certificates,
    ComposeSite,
    Copy,
    DirectoryCopy,
    Gateway,
    Login,
    Monitoring,
    Platform,
    ProcessSite,
    Request,
    S3Copy,
    Terraform,
)
from recoup.plan_release import Migrations, Release
from recoup.plan_rules import broken
from recoup.plan_words import Name, Text
from recoup.records import Frozen

__all__ = [
    "BackupPolicy",
    "Certificates",
    "ChainComponent",
    "ChecklistItem",
    "Component",
    "ComposeSite",
    "ConfigurationComponent",
    "Contact",
    "ContinuousPolicy",
    "ContractComponent",
    "Copy",
    "DirectoryCopy",
    "Drill",
    "EnclaveComponent",
    "Endpoint",
    "EscalationLevel",
    "ExternalContact",
    "FollowUp",
    "Gateway",
    "Locations",
    "Login",
    "Migrations",
    "Monitoring",
    "Objectives",
    "Plan",
    "Platform",
    "PostgresComponent",
    "Procedure",
    "ProcessSite",
    "RedisComponent",
    "RedisReplica",
    "Release",
    "Request",
    "RtoObjectives",
    "S3Copy",
    "Scenario",
    "ServiceComponent",
    "Standby",
    "Terraform",
    "UsefulCommand",
    "WalPolicy",
    "WrittenProcedure",
    "WrittenStep",
    "json_schema",
    "load_plan",
]


C = TypeVar("C", PostgresComponent, RedisComponent, ConfigurationComponent, EnclaveComponent)


class Plan(Frozen):
    """A whole plan. Durations are timedelta, schedules cron in ``time_zone``, secrets references."""

    name: Name
    title: Text
    version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+\.\d+$")]
    updated: date
    review: Text
    purpose: Text
    platform: Platform
    components: Mapping[Name, Component] = Field(min_length=1)
    objectives: Objectives
    scenarios: tuple[Scenario, ...]
    procedures: tuple[WrittenProcedure, ...] = ()
    time_zone: Text = "UTC"
    drills: tuple[Drill, ...] = ()
    contacts: tuple[Contact, ...] = Field(min_length=1)
    escalation: tuple[EscalationLevel, ...] = Field(min_length=1)
    external_contacts: tuple[ExternalContact, ...] = ()
    checklist: tuple[ChecklistItem, ...] = Field(min_length=1)
    post_recovery: tuple[FollowUp, ...] = ()
    commands: tuple[UsefulCommand, ...] = ()
    locations: Locations

    def component(self, name: str) -> Component:
        """Give the component of that name; PreconditionError with the known names when there is none."""
        try:
            return self.components[name]
        except KeyError:
            raise _unknown("component", name, self.components) from None

    def service(self, component: str) -> str:
        """Give the name that a component has in the stack; PreconditionError when it does not run there."""
        service = service_of(self.component(component))
        if service is None:
            raise PreconditionError(
                f"the component {component} does not run as a service of the stack",
                next_step=f"name one that does: {', '.join(n for n, c in self.components.items() if service_of(c))}",
            )
        return service

    def postgres(self, name: str | None = None) -> tuple[str, PostgresComponent]:
        """Give the named postgres component, or the plan's only one, with its name; PreconditionError otherwise."""
        return self._one(PostgresComponent, "postgres", name)

    def redis(self, name: str | None = None) -> tuple[str, RedisComponent]:
        """Give the named redis component, or the plan's only one, with its name; PreconditionError otherwise."""
        return self._one(RedisComponent, "redis", name)

    def configuration(self, name: str | None = None) -> tuple[str, ConfigurationComponent]:
        """Give the named configuration component, or the only one, with its name; PreconditionError otherwise."""
        return self._one(ConfigurationComponent, "configuration", name)

    def enclave(self, name: str | None = None) -> tuple[str, EnclaveComponent]:
        """Give the named enclave component, or the plan's only one, with its name; PreconditionError otherwise."""
        return self._one(EnclaveComponent, "enclave", name)

    def _one(self, wanted: type[C], kind: str, name: str | None) -> tuple[str, C]:
        known = {n: c for n, c in self.components.items() if isinstance(c, wanted)}
        if name is None:
            if len(known) == 1:
                return next(iter(known.items()))
            raise PreconditionError(
                f"the plan has {len(known)} {kind} components and none was named",
                next_step=f"name one of: {', '.join(known)}" if known else "add one to the plan's components",
            )
        if name not in known:
            raise _unknown(f"{kind} component", name, known)
        return name, known[name]

    def owner(self, action: FollowUp) -> str:
        """Give who owes an action after a recovery: role and name."""
        contact = next((one for one in self.contacts if one.role == action.owner), self.contacts[0])
        return f"{contact.role} ({contact.name})"

    def rto(self, component: str) -> timedelta:
        """Give the recovery time objective of a component, by its tier; of the platform's own name, that of all."""
        rto = self.objectives.rto
        if component == self.platform.name and component not in self.components:
            return rto.platform
        return rto.critical if self.component(component).tier == "critical" else rto.non_critical

    def rpo(self, store: str) -> timedelta:
        """Give the recovery point objective of a store; PreconditionError when the plan has none for it."""
        try:
            return self.objectives.rpo[store]
        except KeyError:
            raise _unknown("store", store, self.objectives.rpo) from None

    def dependents(self, component: str) -> tuple[str, ...]:
        """Give the components that run as services and depend on this one, directly or not, in stop order.

        Each comes after everything that depends on it (the gateway first); reversed it is the start order.
        """
        self.component(component)
        order: list[str] = []
        seen = {component}

        def visit(name: str) -> None:
            for other, spec in self.components.items():
                if name in spec.depends_on and other not in seen:
                    seen.add(other)
                    visit(other)
            order.append(name)

        visit(component)
        return tuple(name for name in order if name != component and service_of(self.components[name]))

    def scenario_for(self, procedure: str) -> Scenario:
        """Give the scenario that a procedure answers; PreconditionError when none names it."""
        for scenario in self.scenarios:
            if scenario.procedure == procedure:
                return scenario
        raise _unknown("procedure", procedure, {s.procedure: s for s in self.scenarios})

    def dump_yaml(self) -> str:
        """Give a YAML text that ``load_plan`` reads back to an equal plan (durations to the millisecond)."""
        data = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)


def service_of(component: Component) -> str | None:
    """Give the name a component has in the stack, None when it does not run there."""
    if isinstance(component, ContractComponent | ConfigurationComponent):
        return None
    return component.service


def load_plan(path: Path) -> Plan:
    """Read a plan. Raises PlanError with every problem, ``place (line n): rule - why``; never repeats a secret."""
    text = plan_text.read(path)
    problems = list(text.problems)
    plan = None
    if isinstance(text.data, dict):
        problems += plan_faults.secrets_in_clear(text.data)
        plan, repaired, faults = plan_faults.validate(Plan, text.data)
        problems += faults
        if repaired is not None:
            problems += [found for found in broken(repaired) if not plan_faults.drawn_from(found, problems)]
    if plan is None or problems:
        lines = plan_faults.lines(problems, text)
        raise PlanError(f"the plan {path} has {len(lines)} problem{'s' if len(lines) != 1 else ''}", lines)
    return plan


def json_schema() -> str:
    """Give the JSON Schema of a plan's file, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Plan.model_json_schema(by_alias=True)}
    return json.dumps(schema, indent=2)


def _unknown(what: str, name: str, known: Mapping[str, object]) -> PreconditionError:
    return PreconditionError(
        f"the plan has no {what} named {name}",
        next_step=f"name one of: {', '.join(known)}" if known else f"add a {what} to the plan",
    )
