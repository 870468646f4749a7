"""Copies in a real bucket: what arrives, what is locked, what a killed run leaves, and what comes back."""

from __future__ import annotations

import multiprocessing
import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from flows.copies import fetch_latest, prune_everywhere, run_copies
from recoup.catalog import Repository, problems
from recoup.errors import DamagedError, PreconditionError, RecoveryError
from recoup.records import now
from recoup.retention import Keep
from recoup.sealing import KeyPair, new_key_pair
from tasks.copies import NOTE
from tasks.copies_sync import expiring
from tests.object_store import (
    NOON,
    PART,
    client,
    copy_of,
    new_bucket,
    plan_with,
    required_endpoint,
    spec_of,
    taken,
    way_to_server,
)

pytestmark = pytest.mark.s3
BIG = 2 * PART + 12345
_SEPARATE = multiprocessing.get_context("forkserver")


@pytest.fixture(autouse=True)
def _a_server() -> None:
    required_endpoint()


@pytest.fixture
def here(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backups")


@pytest.fixture
def there(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "empty-host")


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    made = new_key_pair()
    (tmp_path / "identity").write_text(made.identity.get_secret_value())
    return made


def objects(bucket: str) -> dict[str, bytes]:
    """Read everything in a bucket from outside."""
    s3 = client()
    names = [one["Key"] for one in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return {name: s3.get_object(Bucket=bucket, Key=name)["Body"].read() for name in names}


def test_a_set_arrives_byte_for_byte_and_comes_back_whole(here: Repository, there: Repository) -> None:
    one = taken(here, NOON, BIG)
    bucket = new_bucket()
    copy = copy_of(spec_of(bucket), here.root)
    copy.push(one)
    stored = objects(bucket)
    for name in ("dump/big.dat", "dump/toc.dat", "dump/empty", "globals.sql"):
        assert stored[f"neo/{one.set_id}/{name}"] == (one.path / name).read_bytes()
    (listed,) = copy.sets("database")
    assert (listed.set_id, listed.broken, listed.verified) == (one.set_id, "", False)
    got = copy.fetch(one.set_id, there)
    assert problems(got) == ""
    assert got.manifest == one.manifest
    assert not list(copy.spool.glob("2*")), "what was needed to go on is not needed any more"


def test_sealed_nothing_of_the_content_can_be_read_in_the_bucket(
    here: Repository, there: Repository, keys: KeyPair, tmp_path: Path
) -> None:
    one = taken(here, NOON, BIG)
    bucket = new_bucket()
    sealed = spec_of(bucket, recipients=(keys.recipient,), identity=f"file:{tmp_path / 'identity'}")
    copy_of(sealed, here.root).push(one)
    stored = objects(bucket)
    assert not any(b"secret_table" in data or b"CREATE ROLE" in data for data in stored.values())
    clear = [name for name in stored if not name.endswith(".age")]
    assert clear == [f"neo/{one.set_id}/{NOTE}"]
    got = copy_of(sealed, there.root).fetch(one.set_id, there)
    assert problems(got) == ""


def test_a_backup_that_nobody_can_open_is_found_by_looking(here: Repository, keys: KeyPair, tmp_path: Path) -> None:
    one = taken(here, NOON)
    bucket = new_bucket()
    (tmp_path / "other").write_text(new_key_pair().identity.get_secret_value())
    right = spec_of(bucket, recipients=(keys.recipient,), identity=f"file:{tmp_path / 'identity'}")
    wrong = right.model_copy(update={"identity": f"file:{tmp_path / 'other'}"})
    none = right.model_copy(update={"identity": None})
    copy_of(right, here.root).push(one)
    assert copy_of(right, here.root).problems(one.set_id, tmp_path / "scratch") == ""
    assert "does not open" in copy_of(wrong, here.root).problems(one.set_id, tmp_path / "scratch")
    assert "names no identity" in copy_of(none, here.root).problems(one.set_id, tmp_path / "scratch")
    assert not list((tmp_path / "scratch").glob("*"))


def _push(spec: str, root: Path) -> None:
    from recoup.plan import S3Copy

    repository = Repository(root)
    copy_of(S3Copy.model_validate_json(spec), root).push(repository.sets("database")[0])


@pytest.mark.parametrize("sealed", [False, True], ids=["clear", "sealed"])
def test_a_push_that_is_killed_shows_no_set_and_the_next_one_sends_only_what_is_missing(
    sealed: bool, here: Repository, there: Repository, keys: KeyPair, tmp_path: Path
) -> None:
    one = taken(here, NOON, 6 * PART)
    bucket = new_bucket()
    reached = threading.Event()
    with way_to_server() as way:
        more = {"recipients": (keys.recipient,), "identity": f"file:{tmp_path / 'identity'}"} if sealed else {}
        spec = spec_of(bucket, endpoint=way.endpoint, **more)

        def hold(method: str, path: str) -> None:
            if method == "PUT" and "partNumber=" in path and way.parts_sent() > 4:
                reached.set()
                threading.Event().wait(20)

        way.before = hold
        child = _SEPARATE.Process(target=_push, args=(spec.model_dump_json(), here.root))
        child.start()
        assert reached.wait(60)
        # The first four are on the server.
        child.kill()
        child.join(20)
        copy = copy_of(spec, here.root)
        assert copy.sets("database") == ()
        way.before = lambda method, path: None
        way.requests.clear()
        copy.push(one)
        parts = 6 + sealed
        assert 0 < way.parts_sent() < parts, "some parts were sent again, and not all"
        assert [s.set_id for s in copy.sets("database")] == [one.set_id]
        assert problems(copy.fetch(one.set_id, there)) == ""
    assert not client().list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_a_file_that_changed_at_home_is_not_copied_as_if_it_were_good(here: Repository, keys: KeyPair) -> None:
    one = taken(here, NOON, BIG)
    big = one.path / "dump" / "big.dat"
    data = bytearray(big.read_bytes())
    data[PART] ^= 1
    big.write_bytes(data)
    for more in ({}, {"recipients": (keys.recipient,)}):
        copy = copy_of(spec_of(new_bucket(), **more), here.root)
        with pytest.raises(DamagedError, match="not what its manifest lists"):
            copy.push(one)
        assert copy.sets("database") == ()


def test_the_servers_own_encryption_is_asked_for(here: Repository) -> None:
    if not (key := os.environ.get("RECOUP_S3_KMS_KEY")):
        pytest.skip("this S3 server has no KMS key")
    one = taken(here, NOON, BIG)
    bucket = new_bucket()
    copy = copy_of(spec_of(bucket, kms_key=key), here.root)
    copy.push(one)
    for name in objects(bucket):
        head = client().head_object(Bucket=bucket, Key=name)
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"]) == ("aws:kms", key)
    with pytest.raises(PreconditionError, match="refuses"):
        copy_of(spec_of(new_bucket(), kms_key="no-such-key"), here.root).push(one)


def test_under_a_lock_nobody_removes_a_set_and_retention_says_until_when(here: Repository, there: Repository) -> None:
    lock = timedelta(minutes=2)
    bucket = new_bucket(lock=True)
    copy = copy_of(spec_of(bucket, lock=lock), here.root)
    old, new = taken(here, NOON, BIG), taken(here, NOON + timedelta(hours=1))
    copy.push(old)
    copy.push(new)
    # Ceph forgets the lock of what comes in parts: it is asked of every single object.
    for version in client().list_object_versions(Bucket=bucket)["Versions"]:
        head = client().head_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
        assert head["ObjectLockMode"] == "COMPLIANCE", version["Key"]
        assert head["ObjectLockRetainUntilDate"] > now()
    decisions = {one.set_id: one for one in expiring(copy, "database", Keep(1))}
    assert decisions[old.set_id].kept
    assert decisions[old.set_id].reason.startswith("locked until")
    with pytest.raises(RecoveryError, match="locked until"):
        copy.remove(old.set_id)
    with pytest.raises(RecoveryError, match="forbids"):
        copy.place.remove([f"{old.set_id}/dump/big.dat"])
    # Somebody with our own key deletes everything, as far as he can.
    for name in objects(bucket):
        client().delete_object(Bucket=bucket, Key=name)
    assert objects(bucket) == {}
    assert [one.set_id for one in copy.sets("database")] == [new.set_id, old.set_id]
    assert problems(copy.fetch(old.set_id, there)) == ""


def test_a_lock_that_has_ended_lets_go(here: Repository) -> None:
    bucket = new_bucket(lock=True)
    copy = copy_of(spec_of(bucket, lock=timedelta(seconds=1)), here.root)
    one = taken(here, NOON)
    copy.push(one)
    until = copy.locked_until(one.set_id)
    assert until is not None
    threading.Event().wait(max(0.0, (until - now()).total_seconds()) + 1.5)
    copy.remove(one.set_id)
    assert copy.sets("database") == ()
    assert not client().list_object_versions(Bucket=bucket).get("Versions")


def test_a_bucket_that_cannot_lock_is_refused_before_anything_is_sent(here: Repository) -> None:
    bucket = new_bucket()
    with pytest.raises(PreconditionError, match="no Object Lock"):
        copy_of(spec_of(bucket, lock=timedelta(days=1)), here.root).push(taken(here, NOON))
    assert objects(bucket) == {}


def test_a_missing_bucket_is_named(here: Repository) -> None:
    with pytest.raises(PreconditionError, match="there is no bucket no-such-bucket") as refused:
        copy_of(spec_of("no-such-bucket"), here.root).push(taken(here, NOON))
    assert "make the bucket" in refused.value.next_step


def test_wrong_credentials_are_told_and_never_shown(here: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, one = new_bucket(), taken(here, NOON)
    for name in ("RECOUP_S3_SECRET_KEY", "RECOUP_S3_ACCESS_KEY"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "wrong-credential-value")
            with pytest.raises(PreconditionError, match="does not accept the credentials") as refused:
                copy_of(spec_of(bucket), here.root).push(one)
        assert "wrong-credential-value" not in str(refused.value)
        assert os.environ["RECOUP_S3_SECRET_KEY"] not in str(refused.value)


def test_an_empty_host_gets_the_newest_good_set_and_is_told_which_were_passed_over(
    here: Repository, there: Repository
) -> None:
    bucket = new_bucket()
    spec = spec_of(bucket)
    plan = plan_with(here.root, spec)
    for hours in range(3):
        taken(here, NOON + timedelta(hours=hours))
        assert run_copies(plan).complete
    old, middle, newest = (one.set_id for one in reversed(copy_of(spec, here.root).sets("database")))
    client().delete_object(Bucket=bucket, Key=f"neo/{newest}/globals.sql")
    client().put_object(Bucket=bucket, Key=f"neo/{middle}/globals.sql", Body=b"CREATE ROLE ne0;\n")
    fetched = fetch_latest(plan_with(there.root, spec), "", "database")
    assert fetched.use.set_id == old
    assert {one.set_id: one.reason.split()[0] for one in fetched.use.skipped} == {
        newest: "globals.sql",
        middle: f"{middle}/globals.sql",
    }
    (got,) = there.sets("database")
    assert problems(got) == ""
    assert [path.name for path in there.root.iterdir()] == [old], "no half of a set, and nothing hidden, is left"


def test_copies_are_pruned_by_the_plans_rule_and_a_dry_run_removes_nothing(here: Repository) -> None:
    bucket = new_bucket()
    spec = spec_of(bucket)
    plan = plan_with(here.root, spec)
    copy = copy_of(spec, here.root)
    keep = plan.postgres()[1].backup.keep
    for n in range(keep + 2):
        if n % 30 == 0 or n > keep - 2:
            copy.push(taken(here, NOON + timedelta(minutes=n)))
    before = [one.set_id for one in copy.sets("database")]
    small = plan.postgres()[1].backup.model_copy(update={"keep": 2})
    component = plan.postgres()[1].model_copy(update={"backup": small})
    plan = plan.model_copy(update={"components": {**plan.components, "postgres": component}})
    told = list(prune_everywhere(plan, ("database",), dry_run=True))
    assert [one.set_id for one in copy.sets("database")] == before
    assert all(one.reason for place in told for one in place.decisions)
    assert [sum(not one.kept for one in place.decisions) for place in told] == [len(before) - 2, len(before) - 2]
    list(prune_everywhere(plan, ("database",), dry_run=False))
    assert [one.set_id for one in copy.sets("database")] == before[:2]
    assert [one.set_id for one in here.sets("database")] == before[:2]
    left = {name.split("/")[1] for name in objects(bucket)}
    assert left == set(before[:2])
