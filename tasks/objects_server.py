"""An S3 server as it is spoken to: patience, errors in our words, versions, locks and what it says that it holds."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from recoup.errors import DamagedError, RecoupError, RecoveryError
from recoup.plan import S3Copy
from recoup.records import now
from recoup.secrets import mask, resolve
from tasks.objects_errors import explain, not_found, worth_another

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ATTEMPTS = 3
R = TypeVar("R")


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for; ``attempts`` of each request, with growing pauses between them."""

    connect: timedelta = timedelta(seconds=5)
    read: timedelta = timedelta(seconds=60)
    attempts: int = 6


@dataclass(frozen=True)
class S3Server:
    """The server of one copy; ``parallel`` requests at once."""

    spec: S3Copy
    patience: Patience = Patience()
    parallel: int = 4

    @property
    def where(self) -> str:
        """Its address, for people."""
        return f"s3://{self.spec.bucket}/{self.prefix}" + (f" at {self.spec.endpoint}" if self.spec.endpoint else "")

    @property
    def prefix(self) -> str:
        """What every key of ours begins with."""
        return f"{self.spec.prefix.strip('/')}/" if self.spec.prefix.strip("/") else ""

    @cached_property
    def _client(self) -> S3Client:
        spec = self.spec
        keys: dict[str, Any] = {}
        if spec.access_key and spec.secret_key:
            keys = {
                "aws_access_key_id": resolve(spec.access_key).get_secret_value(),
                "aws_secret_access_key": resolve(spec.secret_key).get_secret_value(),
            }
        return boto3.session.Session().client(
            "s3",
            region_name=spec.region,
            endpoint_url=str(spec.endpoint) if spec.endpoint else None,
            config=Config(
                connect_timeout=self.patience.connect.total_seconds(),
                read_timeout=self.patience.read.total_seconds(),
                retries={"mode": "standard", "total_max_attempts": self.patience.attempts},
                max_pool_connections=self.parallel * 2,
                s3={"addressing_style": "path" if spec.endpoint else "auto"},
                # We give our own checksums; the trailing ones that boto3 would add are not understood everywhere.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
            **keys,
        )

    def version(self, key: str) -> dict[str, Any]:
        """Give the arguments that name the version to read."""
        # Under a lock a deletion only hides: what is locked is still there, and is found by its version.
        if self.spec.lock is None:
            return {}
        found = self.listing(key).get(key)
        return {"VersionId": found[0]} if found and found[0] else {}

    def listing(self, prefix: str) -> dict[str, tuple[str, int]]:
        """Give version (empty without a lock) and size of each key, the newest of each that is no deletion."""

        def read(s3: S3Client) -> dict[str, tuple[str, int]]:
            below, found = self.prefix + prefix, {}
            if self.spec.lock is None:
                for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self.spec.bucket, Prefix=below):
                    found.update({one["Key"]: ("", one["Size"]) for one in page.get("Contents", [])})
                return found
            for listing in s3.get_paginator("list_object_versions").paginate(Bucket=self.spec.bucket, Prefix=below):
                for one in listing.get("Versions", []):
                    found.setdefault(one["Key"], (one["VersionId"], one["Size"]))
            return found

        return {key.removeprefix(self.prefix): one for key, one in self.ask("list what is there", read).items()}

    def ensure_locked(self, key: str, version: str) -> None:
        """See that the lock is on, and put it on where the server forgot it; Ceph 18 does for what came in parts."""
        if self.spec.lock is None:
            return
        name = self.prefix + key
        more: dict[str, Any] = {"VersionId": version} if version else {}
        wanted = now() + self.spec.lock - timedelta(minutes=1)

        def until(s3: S3Client) -> datetime | None:
            head = s3.head_object(Bucket=self.spec.bucket, Key=name, **more)
            return head.get("ObjectLockRetainUntilDate") if head.get("ObjectLockMode") == "COMPLIANCE" else None

        def lock(s3: S3Client) -> None:
            retention = {"Mode": "COMPLIANCE", "RetainUntilDate": self._until()}
            s3.put_object_retention(Bucket=self.spec.bucket, Key=name, Retention=retention, **more)  # type: ignore[arg-type]

        found = self.ask(f"read the lock of {key}", until)
        if found is None or found < wanted:
            self.ask(f"lock {key}", lock)
            found = self.ask(f"read the lock of {key}", until)
        if found is None or found < wanted:
            raise RecoveryError(
                f"{self.where} took {key} and did not lock it",
                state="the copy is there without its lock, and is not counted as one",
                next_step="use a bucket with Object Lock, or take the lock out of the plan's copy",
            )

    def has_lock(self, s3: S3Client) -> bool:
        """Say whether Object Lock is enabled in the bucket."""
        try:
            found = s3.get_object_lock_configuration(Bucket=self.spec.bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] == "ObjectLockConfigurationNotFoundError":
                return False
            raise
        return found["ObjectLockConfiguration"].get("ObjectLockEnabled") == "Enabled"

    def kms(self) -> dict[str, Any]:
        """Give the arguments that encrypt an object with the plan's key on the server."""
        key = self.spec.kms_key
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}

    def lock(self) -> dict[str, Any]:
        """Give the arguments that lock an object from now on."""
        if self.spec.lock is None:
            return {}
        return {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": self._until()}

    def _until(self) -> datetime:
        assert self.spec.lock is not None
        return (now() + self.spec.lock).astimezone(UTC)

    def agree(self, what: str, answer: Any, md5: str, sha256: str) -> None:
        """Compare what the server says it has with what was sent. Under KMS an ETag need not be an MD5."""
        reported, etag = answer.get("ChecksumSHA256"), str(answer.get("ETag", "")).strip('"')
        wrong = bool(sha256 and reported and reported != sha256)
        if not wrong and not self.spec.kms_key:
            wrong = etag != md5
        if wrong:
            raise DamagedError(
                f"{self.where} says it holds something else than was sent as {what}",
                state="no set appeared there",
                next_step="run: recoup backup copy; if it happens again, mistrust the way there or the server",
            )

    def insist(self, what: str, ask: Callable[[S3Client], R]) -> R:
        """Ask as ``ask`` does, again where an answer broke off or something was changed on the way."""
        for _ in range(ATTEMPTS - 1):
            try:
                return ask(self._client)
            except (BotoCoreError, ClientError, HTTPError) as error:
                if not worth_another(error):
                    raise self._explained(what, error) from None
        return self.ask(what, ask)

    def ask(self, what: str, ask: Callable[[S3Client], R], *, absent: bool = False) -> R:
        """Give what the server answers, errors in our words; ``absent``: FileNotFoundError where there is no object."""
        try:
            return ask(self._client)
        except (BotoCoreError, ClientError, HTTPError) as error:
            if absent and not_found(error):
                raise FileNotFoundError(what) from None
            raise self._explained(what, error) from None

    def _explained(self, what: str, error: Exception) -> RecoupError:
        spec = self.spec
        secrets = tuple(resolve(one) for one in (spec.access_key, spec.secret_key) if one)
        found = explain(error, f"could not {what} in {self.where}", spec.bucket)
        return type(found)(mask(found.what, secrets), state=found.state, next_step=found.next_step)


def base64_of(digest: bytes) -> str:
    """Give a digest as S3 writes it in headers."""
    return base64.b64encode(digest).decode()
