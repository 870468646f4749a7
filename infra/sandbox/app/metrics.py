"""What a role tells Prometheus, in its text format 0.0.4. Nothing is asked for it: a scrape is answered at once.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Labels = tuple[tuple[str, str], ...]

HEALTH, OWN = "/health", "/metrics"
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_FAMILIES = {
    "process_start_time_seconds": ("gauge", "When this process began, Unix time"),
    "neo_healthy": ("gauge", "What the health path answered last: 1 well, 0 not"),
    "neo_requests_total": ("counter", "Requests answered, by status; health and metrics are not counted"),
    "neo_request_duration_seconds": ("histogram", "How long they took"),
    "neo_dependency_up": ("gauge", "Whether the last use of another service worked"),
    "neo_dependency_failures_total": ("counter", "Uses of another service that failed, by kind: timeout or error"),
    "neo_database_errors_total": ("counter", "Statements that the database refused, by class of SQLSTATE"),
    "neo_database_pool_connections": ("gauge", "Connections to the database that are open"),
    "neo_database_pool_waiting": ("gauge", "Requests that wait for a connection"),
    "neo_database_pool_refused_total": ("counter", "Requests that got no connection in time"),
    "neo_chain_height": ("gauge", "The newest block of this node"),
    "neo_contract_calls_total": ("counter", "Calls of contracts, by outcome: ok or error"),
}


class Metrics:
    """The figures of one role. ``before`` is called at each scrape, to set what nobody else sets."""

    def __init__(self) -> None:
        self.before: Callable[[], None] = lambda: None
        self._values: dict[str, dict[tuple[str, Labels], float]] = {name: {} for name in _FAMILIES}
        self.put("process_start_time_seconds", time.time())
        for le in (*(f"{bound:g}" for bound in _BUCKETS), "+Inf"):
            self._add("neo_request_duration_seconds", "_bucket", 0, (("le", le),))
        for suffix in ("_sum", "_count"):
            self._add("neo_request_duration_seconds", suffix, 0)

    def put(self, name: str, value: float, **labels: str) -> None:
        self._values[name]["", tuple(labels.items())] = value

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        """Add to a counter. By 0 it is there from the start: of one that appears, Prometheus misses the first."""
        self._add(name, "", by, tuple(labels.items()))

    def needs(self, *dependencies: str) -> None:
        for dependency in dependencies:
            for kind in ("error", "timeout"):
                self.count("neo_dependency_failures_total", 0, dependency=dependency, kind=kind)

    def worked(self, dependency: str) -> None:
        self.put("neo_dependency_up", 1, dependency=dependency)

    def failed(self, dependency: str, error: BaseException) -> None:
        self.put("neo_dependency_up", 0, dependency=dependency)
        kind = "timeout" if "timeout" in type(error).__name__.lower() else "error"
        self.count("neo_dependency_failures_total", dependency=dependency, kind=kind)

    def watching(self, app: ASGIApp) -> ASGIApp:
        """Give the application with its requests counted and its health noted."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] == OWN:
                await app(scope, receive, send)
                return
            # What ends without an answer is told to the user as 500.
            status, began = 500, time.perf_counter()

            async def noted(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, noted)
            finally:
                if scope["path"] == HEALTH:
                    self.put("neo_healthy", int(status == 200))
                else:
                    self.count("neo_requests_total", code=str(status))
                    self._took(time.perf_counter() - began)

        return watched

    async def tell(self, _: Request) -> Response:
        self.before()
        return Response(self.text(), media_type="text/plain; version=0.0.4")

    def text(self) -> str:
        lines = []
        for name, (kind, meaning) in _FAMILIES.items():
            if values := self._values[name]:
                lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
                lines += [f"{name}{suffix}{_braces(labels)} {value}" for (suffix, labels), value in values.items()]
        return "\n".join(lines) + "\n"

    def _add(self, name: str, suffix: str, value: float, labels: Labels = ()) -> None:
        values = self._values[name]
        values[suffix, labels] = values.get((suffix, labels), 0) + value

    def _took(self, seconds: float) -> None:
        for bound in _BUCKETS:
            self._add("neo_request_duration_seconds", "_bucket", int(seconds <= bound), (("le", f"{bound:g}"),))
        self._add("neo_request_duration_seconds", "_bucket", 1, (("le", "+Inf"),))
        self._add("neo_request_duration_seconds", "_sum", seconds)
        self._add("neo_request_duration_seconds", "_count", 1)


def _braces(labels: Labels) -> str:
    # Values are names of our own, status codes and SQLSTATE classes: nothing that would have to be escaped.
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}" if labels else ""
