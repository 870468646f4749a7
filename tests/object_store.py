"""A real S3 server for the tests, sets to copy to it, and a way there that can be made bad."""

from __future__ import annotations

import http.client
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config

import recoup
from recoup.catalog import BackupSet, Repository, entries, set_id
from recoup.manifest import DatabaseContent, DatabaseDump, DatabaseShape, Manifest, TableContent
from recoup.plan import Copy, Plan, S3Copy, load_plan
from tasks.copies import CopyPlace
from tasks.objects import Bucket
from tasks.objects_server import Patience, S3Server

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PLAN = Path(recoup.__file__).parent.parent / "infra" / "plan.yaml"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
# The least that S3 takes for a part that is not the last.
PART = 5 * 1024 * 1024
HURRIED = Patience(connect=timedelta(seconds=2), read=timedelta(seconds=2), attempts=2)


def required_endpoint() -> str:
    """Give the server's address; skips aloud without one, or fails where one was promised."""
    if endpoint := os.environ.get("RECOUP_S3_ENDPOINT"):
        return endpoint
    why = 'no S3 server: eval "$(.ci/object-store DIR)" starts one'
    if os.environ.get("RECOUP_REQUIRE_S3"):
        pytest.fail(why)
    pytest.skip(why)


def client() -> S3Client:
    """Give a client that looks at the server from outside, past everything that is tested."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=required_endpoint(),
        region_name="us-east-1",
        aws_access_key_id=os.environ["RECOUP_S3_ACCESS_KEY"],
        aws_secret_access_key=os.environ["RECOUP_S3_SECRET_KEY"],
        config=Config(s3={"addressing_style": "path"}, connect_timeout=10, read_timeout=30),
    )


def new_bucket(*, lock: bool = False) -> str:
    name = f"recoup-{uuid4().hex[:12]}"
    client().create_bucket(Bucket=name, ObjectLockEnabledForBucket=lock)
    return name


def spec_of(bucket: str, **more: Any) -> S3Copy:
    """Give a plan's copy in a bucket of the server."""
    known = {
        "name": "cloud",
        "bucket": bucket,
        "prefix": "neo",
        "endpoint": required_endpoint(),
        "access_key": "env:RECOUP_S3_ACCESS_KEY",
        "secret_key": "env:RECOUP_S3_SECRET_KEY",
    }
    return S3Copy.model_validate({**known, **more})


def copy_of(spec: S3Copy, repository: Path, patience: Patience | None = None) -> CopyPlace:
    """Give the copy with parts so small that a test needs only megabytes."""
    bucket = Bucket(S3Server(spec, patience or Patience()), part_size=PART)
    return CopyPlace(spec, bucket, repository / ".outgoing" / spec.name)


def plan_with(repository: Path, *copies: Copy) -> Plan:
    plan = load_plan(PLAN)
    return plan.model_copy(
        update={"platform": plan.platform.model_copy(update={"repository": repository, "copies": copies})}
    )


def taken(repository: Repository, at: datetime, big: int = 0, series: str = "database") -> BackupSet:
    """Publish a set as a backup would; ``big`` is the size of one of its files in bytes."""
    with repository.staging(series, at) as staged:
        (staged / "dump").mkdir()
        (staged / "dump" / "toc.dat").write_bytes(b"public.secret_table")
        (staged / "dump" / "empty").write_bytes(b"")
        (staged / "dump" / ".hidden").write_bytes(b"as .env is")
        if big:
            (staged / "dump" / "big.dat").write_bytes(os.urandom(big))
        (staged / "globals.sql").write_text("CREATE ROLE neo;\n")
        holds = DatabaseDump(
            database="neo",
            server_version=180000,
            system_identifier="7000",
            compression="gzip:1",
            shape=DatabaseShape(owner="neo", encoding="UTF8", collate="C", ctype="C"),
            content=DatabaseContent(
                schema_fingerprint="f", tables=(TableContent(name="public.secret_table", rows=1, digest="9"),)
            ),
        )
        manifest = Manifest(
            set_id=set_id(series, at),
            store="database",
            component="postgres",
            recovery_point=at,
            started=at,
            ended=at + timedelta(seconds=1),
            recoup_version="0",
            holds=holds,
            files=entries(staged),
        )
        return repository.publish(staged, manifest)


@dataclass
class Way:
    """An HTTP proxy to the server: what it does to each request can be changed while it runs.

    ``refuse`` answers 503 itself; ``answer`` may change a body on its way back, ``send`` one on its
    way there, ``etag`` what the server says it holds; ``cut`` breaks an answer off half-way.
    """

    port: int = 0
    requests: list[str] = field(default_factory=list)
    refuse: Callable[[str, str], bool] = lambda method, path: False
    answer: Callable[[str, str, bytes], bytes] = lambda method, path, body: body
    send: Callable[[str, str, bytes], bytes] = lambda method, path, body: body
    before: Callable[[str, str], None] = lambda method, path: None
    etag: Callable[[str, str, str], str] = lambda method, path, etag: etag
    cut: Callable[[str, str], bool] = lambda method, path: False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def parts_sent(self) -> int:
        return sum(line.startswith("PUT ") and "partNumber=" in line for line in self.requests)


def every_second() -> Callable[[str, str], bool]:
    count = itertools.count()
    return lambda method, path: next(count) % 2 == 0


def slow(seconds: float) -> Callable[[str, str], None]:
    return lambda method, path: time.sleep(seconds)


def flipped(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1]) if body else body


@contextmanager
def way_to_server() -> Iterator[Way]:
    """Give a way to the server that is a good one until the test changes it."""
    upstream = urlsplit(required_endpoint())
    way = Way()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            method, path = self.command, self.path
            way.requests.append(f"{method} {path}")
            way.before(method, path)
            if way.refuse(method, path):
                self.reply(503, {}, b"<Error><Code>ServiceUnavailable</Code></Error>")
                return
            there = http.client.HTTPConnection(str(upstream.hostname), upstream.port, timeout=30)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("expect", "connection")}
            there.request(method, path, way.send(method, path, body), headers)
            got = there.getresponse()
            data = got.read()
            self.reply(got.status, dict(got.getheaders()), way.answer(method, path, data))
            there.close()

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            try:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() == "etag":
                        value = way.etag(self.command, self.path, value)
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                length = headers.get("Content-Length") or headers.get("content-length") or "0"
                self.send_header("Content-Length", length if self.command == "HEAD" else str(len(body)))
                self.end_headers()
                if self.command != "HEAD" and not way.cut(self.command, self.path):
                    self.wfile.write(body)
                elif self.command != "HEAD":
                    self.wfile.write(body[: len(body) // 2])
                    self.close_connection = True
            except OSError:
                # Who asked has been killed, or has lost patience.
                self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    way.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield way
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
