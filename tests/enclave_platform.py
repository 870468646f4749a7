"""A platform with an enclave in it: real processes, a plan of its own, and a processor that the test commands."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import yaml

from flows.enclave import EnclaveRecovery, run_enclave_recovery
from recoup.ledger import Ledger
from recoup.plan import Plan, load_plan
from recoup.records import Check, Outcome, RecoveryRecord
from recoup.stacks import proctable
from recoup.stacks.process import ProcessStack
from recoup.stacks.process_spec import Probe, ServiceSpec, StackSpec
from tasks.enclave import Enclave
from tasks.sandbox_process import free_ports
from tasks.services import wait_for_services
from tests.enclave_hardware import MRENCLAVE, MRSIGNER, PRODUCT, SVN, Hardware
from tests.web import answering, serving

ROOT = Path(__file__).resolve().parents[1]
STANDIN = Path(__file__).with_name("enclave_standin.py")
SECRET = b"a secret of thirty-two bytes ..."
Data = dict[str, Any]


@dataclass
class Processor:
    """What the enclave's service has its quotes from; ``quote`` makes one of a nonce, or gives an error's status."""

    hardware: Hardware = field(default_factory=Hardware)
    quote: Callable[[bytes], bytes | int] | None = None
    nonces: list[bytes] = field(default_factory=list)

    def reply(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        nonce = bytes.fromhex(parse_qs(urlsplit(path).query)["nonce"][0])
        self.nonces.append(nonce)
        made = self.quote(nonce) if self.quote else self.hardware.quote(nonce)
        return (made, b'{"error": "no quoting enclave"}') if isinstance(made, int) else (200, made)


@dataclass
class EnclavePlatform:
    """The platform of one test: its directory, its processor, and the enclave's part of the plan, to be changed."""

    directory: Path
    processor: Processor
    port: int
    enclave: Data
    first: Hardware

    @property
    def collateral(self) -> Path:
        return self.directory / "collateral.json"

    @property
    def secret(self) -> Path:
        return self.directory / "secret"

    def reset(self) -> None:
        """Make all as it is in the beginning: a sound processor, and an enclave that runs and has no secret."""
        self.processor.quote, self.processor.hardware = None, self.first
        self.processor.nonces.clear()
        self.enclave = enclave_data(self.directory, self.port)
        self.collateral.write_text(self.first.collateral(), encoding="utf-8")
        self.secret.write_bytes(SECRET)
        (self.directory / "services" / "vault" / "provisioned.json").unlink(missing_ok=True)
        if not self._is_without_secret():
            self.stack.restart("vault")
            wait_for_services(self.stack, ("vault",))

    def _is_without_secret(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/self-test", trust_env=False).status_code == 503
        except httpx.HTTPError:
            return False

    def gives(self, quote: Callable[[bytes], bytes | int]) -> None:
        """Have the processor give what this makes of a nonce; a number is the status of an error."""
        self.processor.quote = quote

    def quotes(self, **body: object) -> None:
        """Have the processor sign another report: ``body`` as ``enclave_hardware.report`` takes it."""
        self.gives(lambda nonce: self.processor.hardware.quote(nonce, **body))

    def replays(self) -> None:
        """Have the service play back a quote that was good once."""
        old = self.processor.hardware.quote(bytes(range(32)))
        self.gives(lambda _: old)

    @property
    def file(self) -> Path:
        path = self.directory / "plan.yaml"
        path.write_text(yaml.safe_dump(plan_data(self.directory, self.enclave), sort_keys=False), encoding="utf-8")
        return path

    @property
    def plan(self) -> Plan:
        return load_plan(self.file)

    @property
    def stack(self) -> ProcessStack:
        return ProcessStack.open(self.directory)

    def asked(self) -> Enclave:
        return Enclave.of(self.plan, self.stack)

    def recover(self, **more: object) -> RecoveryRecord:
        request = EnclaveRecovery.model_validate({"plan": self.file, **more})
        return run_enclave_recovery(self.plan, request, ledger=self.ledger)

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger.jsonl"

    def records(self) -> tuple[RecoveryRecord, ...]:
        return tuple(Ledger(self.ledger).records())

    @property
    def provisioned(self) -> list[Data]:
        """What the provisioning command was told, each time that it ran."""
        log = self.directory / "services" / "vault" / "provisioned.json"
        return [yaml.safe_load(line) for line in log.read_text().splitlines()] if log.exists() else []


@contextmanager
def enclave_platform(directory: Path) -> Iterator[EnclavePlatform]:
    """Give a platform whose enclave runs and has no secret; its processes are ended afterwards."""
    processor = Processor()
    with serving(answering(processor.reply)) as processor_port:
        enclave_port, gateway_port = free_ports(2)
        address = f"http://127.0.0.1:{processor_port}"
        services = tuple(
            enclave_service(directory, name, port, address)
            for name, port in (("vault", enclave_port), ("door", gateway_port))
        )
        spec = StackSpec(name="enclaves", sandbox="enclaves", services=services)
        (directory / "stack.json").write_text(spec.model_dump_json(), encoding="utf-8")
        (directory / "collateral.json").write_text(processor.hardware.collateral(), encoding="utf-8")
        (directory / "secret").write_bytes(SECRET)
        stack = ProcessStack.open(directory)
        try:
            stack.start("vault")
            stack.start("door")
            wait_for_services(stack, ("vault", "door"))
            data = enclave_data(directory, enclave_port)
            yield EnclavePlatform(directory, processor, enclave_port, data, processor.hardware)
        finally:
            proctable.end(lambda: proctable.dwelling(directory))


def enclave_service(directory: Path, name: str, port: int, processor: str) -> ServiceSpec:
    """Give a service with an enclave that has its quotes from the processor at this address."""
    return ServiceSpec(
        name=name,
        argv=(sys.executable, str(STANDIN), "serve", str(port), processor),
        home=directory / "services" / name,
        port=port,
        listens=port,
        health=Probe(kind="http", path="/health"),
    )


def enclave_data(directory: Path, port: int) -> Data:
    """Give the enclave of the plan, whole: pins, quote, collateral, provisioning, self-test."""
    return {
        "kind": "enclave",
        "tier": "non-critical",
        "service": "vault",
        "mrenclave": MRENCLAVE.hex(),
        "mrsigner": MRSIGNER.hex(),
        "product_id": PRODUCT,
        "min_svn": SVN,
        "start_timeout": "20s",
        "quote": {"port": port, "path": "/quote?nonce={nonce}"},
        "collateral": {"file": str(directory / "collateral.json")},
        "provision": {
            "command": [sys.executable, str(STANDIN), "provision", str(port)],
            "secret": f"file:{directory / 'secret'}",
        },
        "self_test": {"path": "/self-test", "proves": {"fingerprint": hashlib.sha256(SECRET).hexdigest()}},
    }


def plan_data(directory: Path, enclave: Data) -> Data:
    """Give a plan of a gateway and an enclave; what it says to people is the written plan's."""
    data: Data = yaml.safe_load((ROOT / "infra" / "plan.yaml").read_text(encoding="utf-8"))
    platform = data["platform"]
    platform |= {"stack": {"kind": "process", "directory": str(directory)}}
    platform |= {key: str(directory / key) for key in ("state", "repository", "scratch")}
    for key in ("copies", "release", "terraform", "monitoring", "version"):
        platform.pop(key, None)
    port = yaml.safe_load((directory / "stack.json").read_text())["services"][1]["port"]
    request = {"name": "health", "method": "GET", "path": "/health", "status": 200, "contains": ["status"]}
    platform["gateway"] = {"component": "door", "port": port, "health": "/health", "requests": [request]}
    door = {"kind": "service", "tier": "critical", "service": "door"}
    data |= {"components": {"vault": enclave, "door": door}, "drills": []}
    data["objectives"]["rpo"] = {}
    for scenario in data["scenarios"]:
        scenario["covers"] = ["vault", "door"]
    data["checklist"] = [{"item": "Enclaves attested", "check": "enclaves-attested"}]
    return data


def named(checks: tuple[Check, ...], name: str) -> Check:
    return next(one for one in checks if one.name == f"vault: {name}")


def not_passed(checks: tuple[Check, ...]) -> dict[str, Outcome]:
    """Give what did not pass, by the name without the component."""
    return {one.name.removeprefix("vault: "): one.outcome for one in checks if one.outcome is not Outcome.PASSED}
