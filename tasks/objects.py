"""A bucket of an S3 server as a place for copies: multipart, resumed, verified end to end, locked where asked for."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recoup.errors import DamagedError, PreconditionError, RecoveryError
from recoup.manifest import FileEntry
from recoup.plan import S3Copy
from recoup.progress import Pace
from tasks.objects_server import S3Server, base64_of
from tasks.step import note

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MIB = 1024 * 1024
PART = 16 * MIB
# S3 takes 10,000 parts at most.
MOST_PARTS = 9_000


@dataclass(frozen=True)
class _Part:
    number: int
    md5: str
    sha256: str
    size: int
    data: bytes = field(repr=False, default=b"")


@dataclass(frozen=True)
class Bucket:
    """The copies in one bucket, below the plan's prefix."""

    server: S3Server
    part_size: int = PART

    @classmethod
    def of(cls, spec: S3Copy) -> Bucket:
        """Give the bucket of a plan's copy."""
        return cls(S3Server(spec))

    @property
    def where(self) -> str:
        return self.server.where

    def _at(self, key: str) -> dict[str, Any]:
        return {"Bucket": self.server.spec.bucket, "Key": self.server.prefix + key}

    def check(self) -> None:
        self.server.ask("look into it", lambda s3: s3.head_bucket(Bucket=self.server.spec.bucket))
        if self.server.spec.lock is None:
            return
        if not self.server.ask("read its lock", self.server.has_lock):
            raise PreconditionError(
                f"the plan asks for a lock, and the bucket {self.server.spec.bucket} has no Object Lock",
                next_step="make a new bucket with Object Lock enabled, or take the lock out of the plan's copy",
            )

    def put(self, source: Path, key: str, expected: FileEntry) -> None:
        if source.stat().st_size != expected.size:
            raise _not_as_listed(key, "its size differs")
        part_size = max(self.part_size, -(-expected.size // MOST_PARTS))
        if expected.size <= part_size:
            self._put_whole(source.read_bytes(), key, expected.sha256)
        else:
            self._put_in_parts(source, key, expected, part_size)

    def put_text(self, text: str, key: str) -> None:
        data = text.encode()
        self._put_whole(data, key, hashlib.sha256(data).hexdigest())

    def get(self, key: str, target: Path, expected: FileEntry) -> None:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        version = self.server.version(key)
        size = max(self.part_size, 1)
        spans = [(start, min(start + size, expected.size) - 1) for start in range(0, expected.size, size)]
        with target.open("wb") as file:
            file.truncate(expected.size)
        with ThreadPoolExecutor(self.server.parallel) as pool:
            _all(pool.submit(self._get_span, key, version, target, first, last) for first, last in spans)
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == expected.sha256:
                return
        raise DamagedError(
            f"{key} came from {self.where} with another sha256 than was sent there",
            state="nothing of it was kept",
            next_step="use another copy of it, or an older set",
        )

    def get_text(self, key: str) -> str:
        def read(s3: S3Client) -> bytes:
            more = self.server.version(key)
            return s3.get_object(**self._at(key), **more)["Body"].read()

        try:
            return self.server.ask(f"read {key}", read, absent=True).decode()
        except UnicodeDecodeError:
            raise DamagedError(f"{key} in {self.where} is no text", next_step="use another copy of it") from None

    def listing(self, prefix: str = "") -> dict[str, int]:
        return {key: size for key, (_, size) in self.server.listing(prefix).items()}

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._remove(key)

    def locked_until(self, key: str) -> datetime | None:
        def look(s3: S3Client) -> datetime | None:
            return s3.head_object(**self._at(key), **self.server.version(key)).get("ObjectLockRetainUntilDate")

        try:
            return self.server.ask(f"read the lock of {key}", look, absent=True)
        except FileNotFoundError:
            return None

    def forget_unfinished(self, prefix: str) -> None:
        for key, upload in self._unfinished(prefix):
            self._abort(key, upload)

    def _abort(self, name: str, upload: str) -> None:
        where: dict[str, Any] = {"Bucket": self.server.spec.bucket, "Key": name}
        self.server.ask("give up an unfinished upload", lambda s3: s3.abort_multipart_upload(**where, UploadId=upload))

    def _put_whole(self, data: bytes, key: str, sha256: str) -> None:
        md5, found = hashlib.md5(data, usedforsecurity=False), hashlib.sha256(data)
        if found.hexdigest() != sha256:
            raise _not_as_listed(key, "its sha256 differs")
        answer = self.server.insist(
            f"put {key}",
            lambda s3: s3.put_object(
                **self._at(key),
                Body=data,
                ContentMD5=base64_of(md5.digest()),
                ChecksumSHA256=base64_of(found.digest()),
                **self.server.kms(),
                **self.server.lock(),
            ),
        )
        self.server.agree(key, answer, md5.hexdigest(), base64_of(found.digest()))
        self.server.ensure_locked(key, answer.get("VersionId", ""))

    def _put_in_parts(self, source: Path, key: str, expected: FileEntry, part_size: int) -> None:
        upload, there = self._resumable(key)
        whole = hashlib.sha256()
        parts: list[_Part] = []
        sent = reused = 0
        pace = Pace(f"{key}: sent", expected.size)
        with ThreadPoolExecutor(self.server.parallel) as pool:
            running: set[Future[None]] = set()
            for part in _parts(source, part_size):
                whole.update(part.data)
                parts.append(_Part(part.number, part.md5, part.sha256, part.size))
                if _same(there.get(part.number), part):
                    reused += 1
                else:
                    running.add(pool.submit(self._put_part, key, upload, part))
                sent += part.size
                note(pace.at(sent) + (f", {reused} parts were there" * (reused > 0)))
                if len(running) >= self.server.parallel:
                    # No more in memory than are being sent.
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    _raise_of(done)
            _all(running)
        if whole.hexdigest() != expected.sha256:
            self.forget_unfinished(key)
            raise _not_as_listed(key, "its sha256 differs")
        self._complete(key, upload, parts, expected.size)

    def _put_part(self, key: str, upload: str, part: _Part) -> None:
        answer = self.server.insist(
            f"put part {part.number} of {key}",
            lambda s3: s3.upload_part(
                **self._at(key),
                UploadId=upload,
                PartNumber=part.number,
                Body=part.data,
                ContentMD5=base64_of(bytes.fromhex(part.md5)),
                ChecksumSHA256=part.sha256,
            ),
        )
        self.server.agree(f"part {part.number} of {key}", answer, part.md5, part.sha256)

    def _complete(self, key: str, upload: str, parts: list[_Part], size: int) -> None:
        etags = {number: found["ETag"] for number, found in self._parts_there(key, upload).items()}
        if missing := [part.number for part in parts if part.number not in etags]:
            raise RecoveryError(
                f"{self.where} does not have parts {missing[:5]} of {key} that it took",
                state="no set appeared there",
                next_step="run: recoup backup copy",
            )
        answer = self.server.insist(
            f"complete {key}",
            lambda s3: s3.complete_multipart_upload(
                **self._at(key),
                UploadId=upload,
                MultipartUpload={
                    "Parts": [
                        {"PartNumber": part.number, "ETag": etags[part.number], "ChecksumSHA256": part.sha256}
                        for part in parts
                    ]
                },
            ),
        )
        # Of what came in parts S3 reports the digest of the parts' digests, and their number.
        md5 = hashlib.md5(b"".join(bytes.fromhex(part.md5) for part in parts), usedforsecurity=False).hexdigest()
        sha256 = base64_of(hashlib.sha256(b"".join(base64.b64decode(part.sha256) for part in parts)).digest())
        self.server.agree(key, answer, f"{md5}-{len(parts)}", f"{sha256}-{len(parts)}")
        version = str(answer.get("VersionId", ""))
        more: dict[str, Any] = {"VersionId": version} if version else {}
        head = self.server.ask(f"look at {key}", lambda s3: s3.head_object(**self._at(key), **more))
        if head["ContentLength"] != size:
            raise DamagedError(
                f"{self.where} holds {head['ContentLength']} bytes of {key}, sent were {size}",
                state="no set appeared there",
                next_step="run: recoup backup copy",
            )
        self.server.ensure_locked(key, version)

    def _resumable(self, key: str) -> tuple[str, dict[int, Any]]:
        """Give the upload of this file that a killed run left, with its parts, or a new one."""
        for _, upload in self._unfinished(key, exact=True):
            return upload, self._parts_there(key, upload)
        made = self.server.ask(
            f"begin {key}",
            lambda s3: s3.create_multipart_upload(
                **self._at(key),
                ChecksumAlgorithm="SHA256",
                **self.server.kms(),
                **self.server.lock(),
            ),
        )
        return made["UploadId"], {}

    def _unfinished(self, prefix: str, *, exact: bool = False) -> list[tuple[str, str]]:
        def read(s3: S3Client) -> list[tuple[str, str]]:
            pages = s3.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.server.spec.bucket, Prefix=self.server.prefix + prefix
            )
            found = [
                (one["Initiated"], one["Key"], one["UploadId"]) for page in pages for one in page.get("Uploads", [])
            ]
            return [(key, upload) for _, key, upload in sorted(found, reverse=True)]

        found = self.server.ask("list unfinished uploads", read)
        return [one for one in found if not exact or one[0] == self.server.prefix + prefix]

    def _parts_there(self, key: str, upload: str) -> dict[int, Any]:
        def read(s3: S3Client) -> dict[int, Any]:
            pages = s3.get_paginator("list_parts").paginate(**self._at(key), UploadId=upload)
            return {part["PartNumber"]: part for page in pages for part in page.get("Parts", [])}

        return self.server.ask(f"list the parts of {key}", read)

    def _get_span(self, key: str, version: dict[str, Any], target: Path, first: int, last: int) -> None:
        def read(s3: S3Client) -> bytes:
            answer = s3.get_object(**self._at(key), Range=f"bytes={first}-{last}", **version)
            return answer["Body"].read()

        data = self.server.insist(f"get {key}", read)
        if len(data) != last - first + 1:
            raise DamagedError(f"{key} in {self.where} is cut short", next_step="use another copy, or an older set")
        with target.open("r+b") as file:
            file.seek(first)
            file.write(data)

    def _remove(self, key: str) -> None:
        name = self.server.prefix + key

        def versions(s3: S3Client) -> list[str]:
            pages = s3.get_paginator("list_object_versions").paginate(Bucket=self.server.spec.bucket, Prefix=name)
            return [
                one["VersionId"]
                for page in pages
                for one in (*page.get("Versions", []), *page.get("DeleteMarkers", []))
                if one["Key"] == name
            ]

        # Version by version: without one, a bucket with versions would only hide it, and keep costing.
        for version in self.server.ask(f"list the versions of {key}", versions):
            self._remove_version(key, version)

    def _remove_version(self, key: str, version: str) -> None:
        self.server.ask(f"remove {key}", lambda s3: s3.delete_object(**self._at(key), VersionId=version))


def _parts(source: Path, size: int) -> Iterator[_Part]:
    with source.open("rb") as file:
        number = 1
        while data := file.read(size):
            md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
            yield _Part(number, md5, base64_of(hashlib.sha256(data).digest()), len(data), data)
            number += 1


def _same(there: Any, part: _Part) -> bool:
    """Say whether a part that a killed run sent is the same as this one."""
    if there is None or there["Size"] != part.size:
        return False
    if sha256 := there.get("ChecksumSHA256"):
        return bool(sha256 == part.sha256)
    return bool(there["ETag"].strip('"') == part.md5)


def _all(futures: Iterable[Future[None]]) -> None:
    done, waiting = wait(list(futures), return_when=FIRST_EXCEPTION)
    if any(one.exception() for one in done):
        for one in waiting:
            one.cancel()
    _raise_of(done)


def _raise_of(done: Iterable[Future[None]]) -> None:
    for one in done:
        one.result()


def _not_as_listed(key: str, why: str) -> DamagedError:
    return DamagedError(
        f"{key} on this machine is not what its manifest lists: {why}",
        state="no set appeared in the copy",
        next_step="run: recoup backup verify, and take a new backup",
    )
