"""infra/plan.yaml holds the written plan: every line of its lists, every command, every name and number."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from recoup.plan import ChainComponent, Plan, WrittenStep, load_plan

PLAN = Path(__file__).resolve().parents[2] / "infra" / "plan.yaml"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan(PLAN)


def test_the_document_itself(plan: Plan) -> None:
    assert plan.title == "Disaster Recovery Plan - Neo Service Layer"
    assert plan.version == "1.0.0"
    assert plan.review == "Quarterly"
    assert "outlines the disaster recovery (DR) procedures for the Neo Service Layer platform" in plan.purpose


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("service", "API Gateway: entry point for all services"),
        ("service", "core business logic"),
        ("postgres", "PostgreSQL Database: primary data store"),
        ("redis", "Redis Cache: session and cache storage"),
        ("contract", "Smart Contracts: blockchain components"),
        ("enclave", "Intel SGX Enclaves: secure computation"),
    ],
)
def test_each_key_component(plan: Plan, kind: str, words: str) -> None:
    assert any(c.kind == kind and words in c.description for c in plan.components.values())


def test_objectives(plan: Plan) -> None:
    rto = plan.objectives.rto
    assert (rto.critical, rto.non_critical, rto.platform) == (
        timedelta(hours=1),
        timedelta(hours=4),
        timedelta(hours=8),
    )
    assert plan.objectives.rpo == {
        "database": timedelta(minutes=15),
        "redis": timedelta(hours=1),
        "configuration": timedelta(),
        "contracts": timedelta(),
    }


SCENARIOS = {
    "Database Failure": (
        "database",
        ["Health check alerts", "Connection pool exhaustion", "Application errors"],
        [
            "Verify database status",
            "Attempt restart",
            "If restart fails, restore from backup",
            "Verify data integrity",
        ],
    ),
    "Service Outage": (
        "service",
        ["Prometheus alerts", "Health check failures", "User reports"],
        [
            "Identify failed services",
            "Check service logs",
            "Restart failed service",
            "If persistent failure, redeploy",
        ],
    ),
    "Complete Infrastructure Failure": (
        "platform",
        ["Multiple service alerts", "Infrastructure monitoring alerts", "Complete platform unavailability"],
        ["Provision new infrastructure", "Deploy platform", "Restore data", "Verify services"],
    ),
    "Blockchain Node Failure": (
        "blockchain",
        ["Smart contract invocation failures", "Blockchain sync lag alerts", "RPC timeout errors"],
        ["Switch to backup RPC endpoint", "Update service configuration", "Verify blockchain connectivity"],
    ),
    "Security Breach": (
        "breach",
        ["Suspicious activity alerts", "Unauthorized access attempts", "Data integrity violations"],
        [
            "Isolate affected systems",
            "Rotate all credentials",
            "Review audit logs",
            "Deploy with new credentials",
        ],
    ),
}


def test_the_five_scenarios_with_their_signals_and_steps_in_order(plan: Plan) -> None:
    found = {s.title: (s.procedure, list(s.detection), [step.title for step in s.steps]) for s in plan.scenarios}
    assert found == SCENARIOS
    assert list(found) == list(SCENARIOS)


COMPOSE = "docker-compose -f docker-compose.production.yml"
STEP_COMMANDS = [
    'docker exec neo-postgres pg_isready || echo "Database is down"',
    "docker restart neo-postgres",
    "./scripts/restore-database.sh latest",
    'docker exec neo-postgres psql -U $DB_USER -d $DB_NAME -c "SELECT COUNT(*) FROM information_schema.tables;"',
    f"{COMPOSE} ps",
    f"{COMPOSE} logs --tail=100 <service_name>",
    f"{COMPOSE} restart <service_name>",
    f"{COMPOSE} up -d --force-recreate <service_name>",
    "terraform apply -var-file=production.tfvars",
    "./scripts/quick-deploy.sh docker production",
    "./scripts/restore-all.sh latest",
    "./scripts/smoke-tests.sh https://api.neo-service-layer.com",
    "export NEO_N3_RPC_URL=https://mainnet2.neo.coz.io:443",
    "export NEO_X_RPC_URL=https://backup.neox.org:443",
    f"{COMPOSE} up -d --force-recreate",
    '\'{"jsonrpc":"2.0","method":"getblockcount","params":[],"id":1}\'',
    "./scripts/emergency-shutdown.sh",
    "./scripts/rotate-all-credentials.sh",
    "./scripts/security-audit.sh --last-24h",
    "./scripts/secure-redeploy.sh",
    "ls -t /var/backups/neo-service-layer/*-database.sql.gz | head -1",
    f"{COMPOSE} stop api-gateway",
    'gunzip -c "$BACKUP_FILE" | docker exec -i neo-postgres psql -U $DB_USER -d $DB_NAME',
    f"{COMPOSE} start api-gateway",
    r'docker exec neo-postgres psql -U $DB_USER -d $DB_NAME -c "\dt"',
    "./scripts/restore-database.sh $BACKUP_TIMESTAMP",
    "./scripts/restore-redis.sh $BACKUP_TIMESTAMP",
    "./scripts/restore-configs.sh $BACKUP_TIMESTAMP",
    f"{COMPOSE} up -d",
    "sleep 30",
    "./scripts/health-check-all.sh",
    "./scripts/smoke-tests.sh http://localhost",
    "git tag --sort=-creatordate | head -2 | tail -1",
    "git checkout $PREVIOUS_VERSION",
    f"{COMPOSE} build",
    "docker exec neo-api-gateway dotnet ef database migrate",
]


def all_steps(plan: Plan) -> list[WrittenStep]:
    of_scenarios = [step for scenario in plan.scenarios for step in scenario.steps]
    return of_scenarios + [step for procedure in plan.procedures for step in procedure.steps]


@pytest.mark.parametrize("command", STEP_COMMANDS)
def test_each_command_of_the_steps_word_for_word(plan: Plan, command: str) -> None:
    steps = all_steps(plan)
    assert any(command in (step.command or "") for step in steps)


def test_a_destructive_command_of_the_document_says_why_it_must_not_be_run(plan: Plan) -> None:
    steps = all_steps(plan)
    for part in ("gunzip -c", "terraform apply", "restore-redis.sh", "sleep 30", "database migrate"):
        found = [step for step in steps if part in (step.command or "")]
        assert found
        assert all(step.unsafe and step.recoup for step in found)


def test_the_procedures_with_their_scripts(plan: Plan) -> None:
    assert [(p.title, p.script) for p in plan.procedures] == [
        ("Database Recovery", "restore-database.sh"),
        ("Full Platform Recovery", "restore-all.sh"),
        ("Rollback Procedure", "rollback.sh"),
    ]


@pytest.mark.parametrize(
    ("every", "names"),
    [
        ("monthly", ["Database backup and restore", "Service failover", "Monitoring alert verification"]),
        ("quarterly", ["Full platform recovery", "Rollback procedures", "Security incident response"]),
        ("annual", ["Complete infrastructure rebuild", "Cross-region failover", "Extended downtime simulation"]),
    ],
)
def test_the_testing_schedule(plan: Plan, every: str, names: list[str]) -> None:
    assert [drill.name for drill in plan.drills if drill.every == every] == names


def test_a_drill_every_night(plan: Plan) -> None:
    nightly = [drill for drill in plan.drills if drill.every == "nightly"]
    assert [drill.scenario for drill in nightly] == ["database-failure"]


def test_schedules_come_as_often_as_the_calendar_says(plan: Plan) -> None:
    shapes = {"nightly": (True, True), "monthly": (False, True), "quarterly": (False, False), "annual": (False, False)}
    for drill in plan.drills:
        _, _, day, month, _ = drill.schedule.split()
        assert (day == "*", month == "*") == shapes[drill.every], drill.name
        if drill.every in ("quarterly", "annual"):
            assert len(month.split(",")) == {"quarterly": 4, "annual": 1}[drill.every]


def test_contacts(plan: Plan) -> None:
    assert [(c.role, c.name, c.phone, c.email) for c in plan.contacts] == [
        ("Incident Commander", "John Doe", "+1-555-0100", "john.doe@company.com"),
        ("Platform Lead", "Jane Smith", "+1-555-0101", "jane.smith@company.com"),
        ("Database Admin", "Bob Johnson", "+1-555-0102", "bob.johnson@company.com"),
        ("Security Lead", "Alice Brown", "+1-555-0103", "alice.brown@company.com"),
    ]
    assert [(e.level, e.who, e.via) for e in plan.escalation] == [
        (1, "On-call engineer", "PagerDuty"),
        (2, "Platform Lead", None),
        (3, "Engineering Director", None),
        (4, "CTO", None),
    ]
    assert [(c.service, c.contact, c.phone, c.email) for c in plan.external_contacts] == [
        ("AWS Support", "Premium Support", "+1-800-xxx-xxxx", "support@aws.com"),
        ("Azure Support", "Premier Support", "+1-800-xxx-xxxx", "support@azure.com"),
        ("Neo Foundation", "Technical Support", None, "support@neo.org"),
    ]


def test_the_checklist_and_what_comes_after(plan: Plan) -> None:
    assert [item.item for item in plan.checklist] == [
        "All services are running",
        "Health checks passing",
        "Database connectivity verified",
        "Redis connectivity verified",
        "Blockchain RPC accessible",
        "Smart contracts responding",
        "Authentication working",
        "API endpoints tested",
        "Monitoring active",
        "Logs flowing",
        "Backups running",
        "SSL certificates valid",
        # This plan's own.
        "Enclaves attested",
    ]
    assert len({item.check for item in plan.checklist}) == 13
    assert tuple(one.action for one in plan.post_recovery) == (
        "Document incident timeline",
        "Update runbooks if needed",
        "Conduct post-mortem",
        "Implement preventive measures",
        "Test fixes",
    )


def test_useful_commands(plan: Plan) -> None:
    assert [(c.title, c.command) for c in plan.commands] == [
        ("Check all service status", f"{COMPOSE} ps"),
        ("View recent logs", f"{COMPOSE} logs --tail=1000 --since=1h"),
        ("Database connection test", "docker exec neo-postgres pg_isready"),
        ("Redis connection test", "docker exec neo-redis redis-cli ping"),
        ("Blockchain connectivity test", "curl -s $NEO_N3_RPC_URL | jq ."),
        ("Force recreate all services", f"{COMPOSE} up -d --force-recreate"),
        ("Emergency shutdown", f"{COMPOSE} down"),
        ("Backup now", "./scripts/backup-automation.sh"),
    ]


def test_locations(plan: Plan) -> None:
    assert plan.locations.scripts == Path("/home/ubuntu/neo-service-layer/scripts")
    assert plan.platform.repository == Path("/var/backups/neo-service-layer")
    assert plan.locations.bucket == "neo-service-layer-backups"
    assert plan.platform.address == "https://api.neo-service-layer.com"


def test_both_chains_with_the_backup_endpoints_of_the_document(plan: Plan) -> None:
    chains = {c.variable: c for c in plan.components.values() if isinstance(c, ChainComponent)}
    n3, x = chains["NEO_N3_RPC_URL"], chains["NEO_X_RPC_URL"]
    assert (n3.network, x.network) == (860833102, 47763)
    assert n3.endpoints[1].url == "https://mainnet2.neo.coz.io:443"
    assert x.endpoints[1].url == "https://backup.neox.org:443"


def test_a_copy_for_a_drill_cannot_reach_the_production_gateway(plan: Plan) -> None:
    assert plan.platform.gateway.url is None


def test_the_user_level_check_writes_and_reads_back(plan: Plan) -> None:
    requests = plan.platform.gateway.requests
    written = next(
        n for n, r in enumerate(requests) if r.method == "POST" and "{unique}" in (r.body or {}).get("id", "")
    )
    read = next(n for n, r in enumerate(requests) if r.path == "/api/v1/records/{unique}")
    assert written < read
