"""A plan broken in one place is told what is wrong there, and no more; broken in many, all at once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recoup.errors import PlanError
from recoup.plan import Plan, load_plan
from recoup.plan_faults import lines, validate
from recoup.plan_rules import broken
from recoup.plan_text import PlanText

PLAN = Path(__file__).resolve().parents[2] / "infra" / "plan.yaml"
Data = dict[str, Any]
GOOD: Data = yaml.safe_load(PLAN.read_text(encoding="utf-8"))


def problems(tmp_path: Path, content: str | bytes | Data) -> tuple[str, ...]:
    file = tmp_path / "plan.yaml"
    if isinstance(content, dict):
        content = yaml.safe_dump(content, sort_keys=False)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(PlanError) as error:
        load_plan(file)
    assert error.value.problems
    assert error.value.exit_code == 2
    assert all(problem in str(error.value) for problem in error.value.problems)
    assert not any("\n" in problem for problem in error.value.problems)
    return error.value.problems


def put(*path: str | int, to: object) -> Callable[[Data], None]:
    def change(data: Data) -> None:
        owner: Any = data
        for part in path[:-1]:
            owner = owner[part]
        owner[path[-1]] = to

    return change


def drop(*path: str | int) -> Callable[[Data], None]:
    def change(data: Data) -> None:
        owner: Any = data
        for part in path[:-1]:
            owner = owner[part]
        del owner[path[-1]]

    return change


C, S = "components", "scenarios"

BROKEN = {
    "unknown key": (put(C, "postgres", "prot", to=5432), "components.postgres.prot", "unknown key; did you mean port?"),
    "unknown key at the top": (put("colour", to="blue"), "colour", "unknown key"),
    "key of another kind": (put(C, "redis", "database", to="x"), "components.redis.database", "it belongs elsewhere"),
    "unit missing": (put("objectives", "rpo", "database", to=15), "objectives.rpo.database", "unit missing"),
    "unit missing in a component": (
        put(C, "postgres", "backup", "interval", to="10"),
        "components.postgres.backup.interval",
        "unit missing",
    ),
    "missing key": (drop(C, "postgres", "database"), "components.postgres.database", "missing"),
    "unknown kind": (put(C, "redis", "kind", to="memcached"), "components.redis", "memcached"),
    "no contacts": (put("contacts", to=[]), "contacts", "at least one is needed"),
    "port out of range": (put(C, "redis", "port", to=70000), "components.redis.port", "less than or equal to 65535"),
    "stack": (put("platform", "stack", "project", to=7), "platform.stack.project", "valid string"),
    "impossible schedule": (put("drills", 0, "schedule", to="0 25 * * *"), "drills[0].schedule", "hour"),
    "schedule too short": (put("drills", 0, "schedule", to="daily"), "drills[0].schedule", "five fields"),
    "uncovered component": (
        lambda d: d[S][3]["covers"].remove("neo-x"),
        "components.neo-x",
        "no scenario covers it",
    ),
    "unknown dependency": (
        lambda d: d[C]["redis"].update(depends_on=["ghost"]),
        "components.redis.depends_on[0]",
        "unknown component ghost",
    ),
    "unknown in a scenario": (
        lambda d: d[S][0]["covers"].append("ghost"),
        "scenarios[0].covers[1]",
        "unknown component ghost",
    ),
    "cycle": (
        put(C, "postgres", "depends_on", to=["api-gateway"]),
        "components.postgres.depends_on",
        "api-gateway -> records-service -> postgres -> api-gateway",
    ),
    "depends on itself": (put(C, "redis", "depends_on", to=["redis"]), "components.redis.depends_on", "redis -> redis"),
    "critical on non-critical": (
        put(C, "redis", "depends_on", to=["enclaves"]),
        "components.redis.depends_on[0]",
        "depends on enclaves, which is not",
    ),
    "standby without received WAL": (
        lambda d: d[C]["postgres"].update(standby={"service": "pair"}, continuous=None),
        "components.postgres.standby",
        "a standby without continuous backup",
    ),
    "versions out of another directory than the stack's file": (
        put("platform", "release", "checkout", to="/srv/elsewhere"),
        "platform.release.checkout",
        "platform.stack.file is not in it",
    ),
    "a way down that ends nowhere": (
        put("platform", "release", "migrations", "down", to=["./migrate", "down"]),
        "platform.release.migrations.down",
        "no {target} in it",
    ),
    "a tag without the version": (
        put("platform", "release", "tag", to="latest"),
        "platform.release.tag",
        "pattern",
    ),
    "standby on the port of the database": (
        put(C, "postgres", "standby", to={"service": "pair", "port": 5432}),
        "components.postgres.standby.port",
        "the port of the database itself",
    ),
    "standby with the slot of the receiver": (
        put(C, "postgres", "standby", to={"service": "pair", "slot": "recoup"}),
        "components.postgres.standby.slot",
        "the slot of the WAL receiver",
    ),
    "standby that is another component": (
        put(C, "postgres", "standby", to={"service": "redis"}),
        "components.redis.service",
        "the service 'redis' is there twice",
    ),
    "RPO equal to the interval": (
        put(C, "postgres", "backup", "interval", to="15m"),
        "components.postgres.backup.interval",
        "cannot be met by a backup every 15m",
    ),
    "RPO tighter than the interval": (
        put("objectives", "rpo", "redis", to="5m"),
        "components.redis.backup.interval",
        "the RPO of redis (5m) cannot be met",
    ),
    "Redis without backups": (drop(C, "redis", "backup"), "components.redis.backup", "no backups"),
    "one set kept": (put(C, "postgres", "backup", "keep", to=1), "components.postgres.backup.keep", "fewer than 2"),
    "backups without end": (
        put(C, "postgres", "backup", "interval", to="0m"),
        "components.postgres.backup.interval",
        "not longer than a second",
    ),
    "store without RPO": (drop("objectives", "rpo", "redis"), "objectives.rpo.redis", "no objective"),
    "RPO without store": (put("objectives", "rpo", "tape", to="1h"), "objectives.rpo.tape", "no component keeps"),
    "critical longer than platform": (
        put("objectives", "rto", "critical", to="9h"),
        "objectives.rto.critical",
        "longer than the platform's (9h > 8h)",
    ),
    "critical longer than non-critical": (
        put("objectives", "rto", "critical", to="5h"),
        "objectives.rto.critical",
        "longer than non-critical (5h > 4h)",
    ),
    "no time to recover": (put("objectives", "rto", "critical", to="0m"), "objectives.rto.critical", "no time at all"),
    "item without check": (drop("checklist", 3, "check"), "checklist[3].check", "Redis connectivity verified"),
    "item twice": (
        lambda d: d["checklist"].append(dict(d["checklist"][0])),
        "checklist[13].item",
        "is there twice",
    ),
    "request after a later one": (
        put("platform", "gateway", "requests", 1, "after", to=["read it back"]),
        "platform.gateway.requests[1].after[0]",
        "comes after 'read it back', which is not before it",
    ),
    "request twice": (
        put("platform", "gateway", "requests", 2, "name", to="health"),
        "platform.gateway.requests[2].name",
        "is there twice",
    ),
    "action of nobody": (
        put("post_recovery", 2, "owner", to="Somebody"),
        "post_recovery[2].owner",
        "no contact has the role Somebody",
    ),
    "level left out": (put("escalation", 3, "level", to=5), "escalation[3].level", "level 5 where level 4 is due"),
    "levels at one time": (put("escalation", 2, "after", to="15m"), "escalation[2].after", "no later than"),
    "drill of nothing": (put("drills", 0, "scenario", to="flood"), "drills[0].scenario", "unknown scenario flood"),
    "drill that says nothing": (drop("drills", 3, "what"), "drills[3]", "neither scenario nor what"),
    "no signals": (put(S, 1, "detection", to=[]), "scenarios[1].detection", "no detection signals"),
    "no steps": (drop(S, 1, "steps"), "scenarios[1].steps", "no steps"),
    "two answers": (put(S, 1, "procedure", to="database"), "scenarios[1].procedure", "is there twice"),
    "gateway is no service": (
        put("platform", "gateway", "component", to="postgres"),
        "platform.gateway.component",
        "not a service",
    ),
    "gateway unknown": (
        put("platform", "gateway", "component", to="door"),
        "platform.gateway.component",
        "unknown component door",
    ),
    "no requests": (put("platform", "gateway", "requests", to=[]), "platform.gateway.requests", "no requests"),
    "service twice": (
        put(C, "redis", "service", to="postgres"),
        "components.redis.service",
        "the service 'postgres' is there twice",
    ),
    "replica of itself": (
        put(C, "redis", "replica", to={"service": "redis"}),
        "components.redis.replica.service",
        "the service 'redis' is there twice",
    ),
    "store twice": (
        lambda d: (d[C]["configuration"].update(store="contracts"), d["objectives"]["rpo"].pop("configuration")),
        "components.configuration.store",
        "is there twice",
    ),
    "secrets without a recipient": (
        drop(C, "configuration", "recipients"),
        "components.configuration.recipients",
        "nobody who may open them",
    ),
    "recipient that is no key": (
        put(C, "configuration", "recipients", to=["age1nonsense"]),
        "components.configuration.recipients[0]",
        "not an age public key",
    ),
    "path out of the checkout": (
        put(C, "configuration", "paths", 1, to="nginx/../../etc"),
        "components.configuration.paths[1]",
        "leads out of the checkout",
    ),
    "backup of no paths": (
        lambda d: d[C]["configuration"].update(paths=[], secret=[]),
        "components.configuration.paths",
        "a backup of no paths",
    ),
    "time zone": (put("time_zone", to="Mars/Olympus"), "time_zone", "not a known time zone"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_fault_is_one_problem_with_place_rule_and_reason(tmp_path: Path, name: str) -> None:
    change, place, rule = BROKEN[name]
    data = copy.deepcopy(GOOD)
    change(data)
    found = problems(tmp_path, data)
    assert len(found) == 1, found
    head, _, why = found[0].partition(" - ")
    assert head.startswith((f"{place} (line ", f"{place}: "))
    assert rule in head
    assert why


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    data = copy.deepcopy(GOOD)
    chosen = (
        "unknown key",
        "unit missing",
        "uncovered component",
        "RPO tighter than the interval",
        "item without check",
        "level left out",
        "drill of nothing",
        "no signals",
        "missing key",
        "service twice",
        "unknown in a scenario",
    )
    for name in chosen:
        BROKEN[name][0](data)
    data[C]["postgres"]["password"] = "hunter2"
    found = problems(tmp_path, data)
    for name in chosen:
        assert any(p.startswith(BROKEN[name][1]) and BROKEN[name][2] in p for p in found), name
    assert len(found) == len(chosen) + 1


def test_a_misspelt_key_that_was_needed_is_one_problem(tmp_path: Path) -> None:
    data = copy.deepcopy(GOOD)
    data[C]["postgres"]["databse"] = data[C]["postgres"].pop("database")
    (found,) = problems(tmp_path, data)
    assert "did you mean database?" in found


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((C, "postgres", "password"), "hunter2"),
        ((C, "postgres", "password"), 4711_0815),
        (("platform", "gateway", "login", "password"), "hunter2"),
        (("platform", "gateway", "requests", 1, "body", "api_token"), "hunter2"),
        ((C, "postgres", "description"), "postgres://neo:hunter2@db/neo"),
        ((C, "neo-n3", "endpoints", 0, "url"), "https://user:hunter2@mainnet1.neo.coz.io:443"),
        (("commands", 0, "command"), "PGPASSWORD=hunter2 psql -h db"),
        (("commands", 0, "command"), "redis-cli -a hunter2 ping"),
        (("commands", 0, "command"), "mysql --password=hunter2"),
        ((S, 0, "steps", 0, "command"), "echo '-----BEGIN RSA PRIVATE KEY-----hunter2'"),
        (("post_recovery", 0), "use AKIAHUNTER2HUNTER2AB"),
        (("db_password",), "hunter2"),
        ((C, "configuration", "recipients", 0), "AGE-SECRET-KEY-1HUNTER2HUNTER2"),
    ],
)
def test_a_secret_in_clear_is_found_and_not_repeated(
    tmp_path: Path, path: tuple[str | int, ...], value: object
) -> None:
    data = copy.deepcopy(GOOD)
    put(*path, to=value)(data)
    found = problems(tmp_path, data)
    assert len(found) == 1, found
    assert "a secret written in clear" in found[0]
    assert "hunter2" not in found[0].lower()
    assert "47110815" not in found[0]


@pytest.mark.parametrize(
    "command",
    [
        "PGPASSWORD=$DB_PASSWORD psql",
        "psql postgres://neo:$DB_PASSWORD@db/neo",
        'redis-cli -a "$REDIS_PASSWORD" ping',
        "tool --password-file /run/secrets/x",
        "./scripts/rotate-all-credentials.sh",
        "curl https://host:443/a@b",
    ],
)
def test_a_variable_in_a_command_is_no_secret(tmp_path: Path, command: str) -> None:
    data = copy.deepcopy(GOOD)
    data["commands"][0]["command"] = command
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    assert load_plan(file).commands[0].command == command


def test_the_line_of_the_problem_is_told(tmp_path: Path) -> None:
    text = PLAN.read_text(encoding="utf-8").replace("    critical: 1h", "    critical: 1")
    line = text.splitlines().index("    critical: 1") + 1
    (found,) = problems(tmp_path, text)
    assert found.startswith(f"objectives.rto.critical (line {line}): unit missing")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("- a\n- b\n", "does not hold keys"),
        ("just words", "does not hold keys"),
        ("a: [b, c", "line 1, column 9: not valid YAML"),
        ("a: b\n\tc: d", "line 2"),
        (b"\x7fELF\x02\x01\x00\xff\xfe", "not UTF-8"),
        (b"\x00\x01\x02", "not valid YAML"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: &a [*a]", "contains itself"),
        ("a: !!python/object/apply:os.system [ls]", "tag"),
        ("a: 2026-02-30", "impossible date"),
        ("? [a, b]\n: c", "a key that is not a text"),
        ("a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [" + "*a," * 99 + "]\nc: &c [" + "*b," * 99 + "]\n", "too many values"),
        ("a: 1\n---\nb: 2\n", "single document"),
        ("x" * 1_000_001, "larger than 1 MB"),
    ],
)
def test_a_text_that_is_no_plan(tmp_path: Path, content: str | bytes, rule: str) -> None:
    found = problems(tmp_path, content)
    assert rule in found[0]
    assert len(found) == 1


def test_a_broken_line_is_not_quoted(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "password: hunter2: [\n")
    assert "hunter2" not in found


def test_a_key_written_twice(tmp_path: Path) -> None:
    text = PLAN.read_text(encoding="utf-8") + "\nname: other\n"
    (found,) = problems(tmp_path, text)
    assert found.startswith("name (line ")
    assert "written twice" in found


def test_a_file_that_is_not_there_and_a_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "nope.yaml", tmp_path):
        with pytest.raises(PlanError, match="cannot be read"):
            load_plan(path)


@pytest.mark.parametrize("key", GOOD)
def test_nonsense_is_answered_with_problems(key: str) -> None:
    # Whatever stands at a place, the answer is a list of problems and not a crash.
    nonsense: tuple[object, ...] = (None, 7, [], [{}], {}, {"a": {"b": [1]}}, True)
    for value in nonsense:
        plan, repaired, faults = validate(Plan, {**GOOD, key: value})
        found = faults + (broken(repaired) if repaired else [])
        # An empty list is right where the document may be silent, an empty text nowhere.
        assert plan is not None or found
        assert lines(found, PlanText()) or value == []
