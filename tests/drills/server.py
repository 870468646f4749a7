"""A recoup serve of a test's own, and what it offers, asked over the Prefect API as a browser does."""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest

from recoup.process import Command, background
from tests.stack_behaviour import eventually

ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
# The last one that is registered.
LAST = "prune-backups"


@contextmanager
def own_state() -> Iterator[Path]:
    """Give a state directory that every user can enter, and have this process use it."""
    # Not among pytest's own directories: another session of the same user closes those to everybody else.
    with tempfile.TemporaryDirectory(prefix="recoup-serve-") as made, pytest.MonkeyPatch.context() as patch:
        Path(made).chmod(0o755)
        patch.setenv("RECOUP_STATE", made)
        yield Path(made)


@dataclass
class Api:
    """The API of a Prefect server, and the file that holds what recoup serve has said on its terminal."""

    client: httpx.Client
    terminal: Path
    backup: dict[str, object] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return str(self.client.base_url)

    @property
    def said(self) -> str:
        return self.terminal.read_text(encoding="utf-8")

    def post(self, path: str, body: object) -> list[dict[str, object]]:
        end = time.monotonic() + 60
        while True:
            answer = self.client.post(path, json=body)
            # The server's SQLite was busy and nothing was done: Prefect's own clients ask again too.
            if answer.status_code != 503 or time.monotonic() > end:
                break
            time.sleep(0.5)
        answer.raise_for_status()
        found = answer.json()
        return found if isinstance(found, list) else [found]

    def deployment(self, name: str) -> dict[str, object]:
        return next(one for one in self.post("/deployments/filter", {}) if one["name"] == name)

    def pause(self, name: str, *, active: bool = False) -> None:
        """Switch the schedules of a deployment off, or on again."""
        deployment = self.deployment(name)
        schedules = deployment["schedules"]
        assert isinstance(schedules, list)
        for schedule in schedules:
            path = f"/deployments/{deployment['id']}/schedules/{schedule['id']}"
            eventually("it is switched", partial(self._switch, path, active))

    def _switch(self, path: str, active: bool) -> bool:
        return self.client.patch(path, json={"active": active}).is_success

    def pause_everything(self) -> None:
        """Switch every schedule off and wait until nothing runs: of each job only one may, and a test starts it."""
        for deployment in self.post("/deployments/filter", {}):
            self.pause(str(deployment["name"]))
        eventually("nothing runs", lambda: not self.underway())

    def underway(self, deployment: str = "") -> list[dict[str, object]]:
        """Give the runs that are under way, of one deployment or of all."""
        runs: dict[str, object] = {"state": {"type": {"any_": ["PENDING", "RUNNING"]}}}
        if deployment:
            runs["deployment_id"] = {"any_": [deployment]}
        return self.post("/flow_runs/filter", {"flow_runs": runs})

    def run(self, name: str, **changes: object) -> tuple[str, str, str]:
        """Start a deployment as the form does; gives the flow run's id, the state it ended in, and its message."""
        deployment = self.deployment(name)
        parameters = deployment["parameters"]
        assert isinstance(parameters, dict)
        body = {"parameters": {"request": {**parameters["request"], **changes}}, "state": {"type": "SCHEDULED"}}
        run = str(self.post(f"/deployments/{deployment['id']}/create_flow_run", body)[0]["id"])
        end = time.monotonic() + 150
        while True:
            state = self.client.get(f"/flow_runs/{run}").json()["state"]
            if state["type"] in ENDED:
                return run, state["type"], state["message"] or ""
            assert time.monotonic() < end, f"{name} did not end: {state}"
            time.sleep(0.5)


@contextmanager
def served(plan: Path, home: Path, env: Mapping[str, str] | None = None) -> Iterator[Api]:
    """Run recoup serve from outside, on a port of its own, until all it offers is registered and the block is left."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = (sys.executable, "-m", "deployments.cli", "serve", "--plan", str(plan), "--port", str(port))
    url = (env or {}).get("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    terminal = home / "serve.log"
    here = Path(__file__).resolve().parents[2]
    with (
        background(Command(argv, env or {}, cwd=here), log=terminal),
        httpx.Client(base_url=url, timeout=30, trust_env=False) as client,
    ):
        api = Api(client, terminal)
        end = time.monotonic() + 150
        while True:
            assert time.monotonic() < end, api.said
            try:
                names = {one["name"] for one in api.post("/deployments/filter", {})}
            except httpx.HTTPError:
                names = set()
            if LAST in names:
                break
            time.sleep(0.5)
        yield api
    with socket.socket() as probe:
        probe.settimeout(1)
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server outlived recoup serve"
