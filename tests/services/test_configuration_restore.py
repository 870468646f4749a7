"""Configuration is brought back from a set: shown first, each file whole or not at all, nothing lost that was there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.configuration import ConfigurationRecovery, preview_configuration, run_configuration_recovery
from flows.copies import require_complete, run_copies
from recoup.errors import PreconditionError, RecoveryError
from recoup.journal import Journal
from recoup.plan import DirectoryCopy
from recoup.records import Outcome, Subject
from recoup.sealing import new_key_pair
from tasks.configuration import Configuration
from tests.configuration_checkout import PASSWORD, Deployed, commit, deploy, git, tree, write

MANY = 600


@pytest.fixture
def deployed(tmp_path: Path) -> Deployed:
    return deploy(tmp_path)


def test_the_difference_is_shown_first_and_never_a_secret(deployed: Deployed) -> None:
    (deployed.root / "nginx/logo.bin").write_bytes(b"\xff\x00\x01")
    deployed.take()
    write(deployed.root / "docker-compose.yml", "services:\n  gateway:\n    image: gateway:2\n")
    write(deployed.root / ".env", "DB_PASSWORD=another-secret\n", 0o600)
    write(deployed.root / "nginx/extra.conf", "server {}\n")
    write(deployed.root / "nginx/conf.d/gateway.conf", "\x1b[2J steer the terminal\n")
    (deployed.root / "nginx/logo.bin").write_bytes(b"\xff\x00\x02")
    (deployed.root / "certs/gateway.key").unlink()
    (deployed.root / "nginx/nginx.conf").chmod(0o600)
    before = tree(deployed.root)
    lines = preview_configuration(deployed.plan())
    text = "\n".join(lines)
    assert "-    image: gateway:2" in lines
    assert "+    image: gateway:1" in lines
    assert ".env: differs (secret)" in lines
    assert "certs/gateway.key: missing (secret)" in lines
    assert "nginx/logo.bin: binary differs" in lines
    assert "nginx/extra.conf: deployed and not in the set; it is left" in lines
    assert "nginx/nginx.conf: mode 0600 now, 0644 in the set" in lines
    assert PASSWORD not in text
    assert "another-secret" not in text
    assert "\x1b" not in text
    assert tree(deployed.root) == before


def test_everything_comes_back_and_the_old_is_kept(deployed: Deployed) -> None:
    os.utime(deployed.root / ".env", (1_700_000_000, 1_700_000_000))
    good = tree(deployed.root)
    deployed.take()
    write(deployed.root / "docker-compose.yml", "broken\n", 0o777)
    write(deployed.root / ".env", "DB_PASSWORD=wrong\n", 0o644)
    (deployed.root / "nginx/conf.d/gateway.conf").unlink()
    (deployed.root / "nginx/conf.d").rmdir()
    write(deployed.root / "nginx/extra.conf", "server {}\n")
    restored = deployed.restore()
    assert set(restored.written) == {"docker-compose.yml", ".env", "nginx/conf.d/gateway.conf"}
    assert restored.left == ("nginx/extra.conf",)
    assert [check.outcome for check in restored.checks] == [Outcome.PASSED]
    after = tree(deployed.root)
    assert {path: after[path] for path in good} == good
    assert after["nginx/extra.conf"][1] == b"server {}\n"
    assert after["docker-compose.yml.before-20261123T031205Z"] == (0o777, b"broken\n")
    assert after[".env.before-20261123T031205Z"] == (0o644, b"DB_PASSWORD=wrong\n")
    assert (deployed.root / ".env").stat().st_mtime == 1_700_000_000
    # What is kept aside is no configuration: it is in no later set.
    assert not deployed.take().published or not any("before" in f for f in deployed.take().drift)
    assert deployed.restore().written == ()


def test_it_comes_back_on_an_empty_host_from_the_set_alone(deployed: Deployed, tmp_path: Path) -> None:
    write(deployed.root / "nginx/nginx.conf", "edited on the server\n")
    good, head = tree(deployed.root), git(deployed.root, "rev-parse", "HEAD")
    deployed.take()
    # Another machine: no checkout, no git server, no state; only the sets and, from elsewhere, the identity.
    os.rename(deployed.root, tmp_path / "lost")
    os.rename(deployed.configuration.state, tmp_path / "lost-state")
    os.rename(tmp_path / "sets", tmp_path / "fetched")
    spec = deployed.configuration.spec.model_copy(update={"checkout": tmp_path / "srv/new/checkout"})
    deployed.configuration = Configuration("configuration", spec, tmp_path / "new-state")
    deployed.repository = type(deployed.repository)(tmp_path / "fetched")
    record = deployed.recover()
    assert "checked out anew" in record.steps[-1].detail
    assert "0 old ones kept aside" in record.steps[-1].detail
    assert tree(tmp_path / "srv/new/checkout") == good
    assert git(tmp_path / "srv/new/checkout", "rev-parse", "HEAD") == head
    assert git(tmp_path / "srv/new/checkout", "status", "--porcelain") == "M nginx/nginx.conf"
    assert git(tmp_path / "srv/new/checkout", "fsck", "--full") == ""
    assert sorted(p.name for p in (tmp_path / "srv/new").iterdir()) == ["checkout"]


def test_where_no_set_is_here_one_is_fetched_from_a_copy(deployed: Deployed, tmp_path: Path) -> None:
    good = tree(deployed.root)
    took = deployed.take().set_id
    plan = deployed.plan()
    copies = (DirectoryCopy(name="elsewhere", path=tmp_path / "elsewhere"),)
    plan = plan.model_copy(update={"platform": plan.platform.model_copy(update={"copies": copies})})
    (tmp_path / "elsewhere").mkdir()
    require_complete(run_copies(plan))
    os.rename(deployed.root, tmp_path / "lost")
    os.rename(deployed.repository.root, tmp_path / "lost-sets")
    assert any("elsewhere" in line for line in preview_configuration(plan))
    assert not deployed.repository.root.exists(), "a look fetches nothing"
    request = ConfigurationRecovery(plan=tmp_path / "unused")
    record = run_configuration_recovery(plan, request, ledger=tmp_path / "ledger.jsonl")
    assert record.backup is not None
    assert record.backup.set_id == took
    assert record.stack == "compose: none yet"
    assert tree(deployed.root) == good


def test_links_come_back_as_links(deployed: Deployed) -> None:
    (deployed.root / "nginx/current.conf").symlink_to("nginx.conf")
    deployed.take()
    (deployed.root / "nginx/current.conf").unlink()
    write(deployed.root / "nginx/current.conf", "a file now\n")
    deployed.restore()
    assert os.readlink(deployed.root / "nginx/current.conf") == "nginx.conf"
    assert (deployed.root / "nginx/current.conf.before-20261123T031205Z").read_text() == "a file now\n"


def test_a_checkout_at_another_commit_gets_its_files_and_keeps_its_commit(deployed: Deployed) -> None:
    deployed.take()
    write(deployed.root / "docker-compose.yml", "release 2\n")
    head = commit(deployed.root, "release 2")
    restored = deployed.restore()
    assert restored.written == ("docker-compose.yml",)
    assert "stands at" in restored.notes[0]
    assert git(deployed.root, "rev-parse", "HEAD") == head


def test_a_damaged_newest_set_is_skipped_and_named(deployed: Deployed) -> None:
    good = tree(deployed.root)
    first = deployed.take().set_id
    write(deployed.root / "docker-compose.yml", "changed\n")
    second = deployed.take().set_id
    path = deployed.repository.root / second / "secret/.env.age"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert any(line.startswith(f"not usable: {second}") for line in preview_configuration(deployed.plan()))
    assert deployed.restore().set_id == first
    assert {name: tree(deployed.root)[name] for name in good} == good
    with pytest.raises(RecoveryError, match=second):
        deployed.restore(second)


def test_a_set_that_the_identity_does_not_open_is_skipped(deployed: Deployed) -> None:
    first = deployed.take().set_id
    write(deployed.root / "docker-compose.yml", "changed\n")
    mine = deployed.configuration
    deployed.configuration = deployed.with_(recipients=(new_key_pair().recipient,))
    second = deployed.take().set_id
    deployed.configuration = mine
    assert deployed.restore().set_id == first
    with pytest.raises(RecoveryError, match="does not open"):
        deployed.restore(second)


@pytest.mark.parametrize("identity", [None, "file:/nowhere/identity"])
def test_without_the_identity_nothing_is_written(deployed: Deployed, identity: str | None) -> None:
    deployed.take()
    write(deployed.root / "docker-compose.yml", "changed\n")
    before = tree(deployed.root)
    deployed.configuration = deployed.with_(identity=identity)
    with pytest.raises(PreconditionError, match="identity"):
        deployed.restore()
    assert tree(deployed.root) == before


def test_a_set_that_was_made_to_write_elsewhere_is_refused(deployed: Deployed, tmp_path: Path) -> None:
    one = deployed.repository.root / deployed.take().set_id
    index = (one / "index.json").read_text()
    for path in ("../escaped", "/tmp/escaped", ".git/hooks/post-checkout"):
        (one / "index.json").write_text(index.replace('"docker-compose.yml"', f'"{path}"'))
        # Its maker has put the manifest right, too.
        manifest = deployed.repository.get("configuration", one.name).manifest
        assert manifest is not None
        from recoup.catalog import entries

        (one / "manifest.json").rename(tmp_path / "manifest.json")
        fixed = manifest.model_copy(update={"files": entries(one)})
        (one / "manifest.json").write_text(fixed.model_dump_json())
        with pytest.raises(RecoveryError, match="not below the checkout"):
            deployed.restore(one.name)
    assert not (tmp_path / "escaped").exists()


def test_it_does_not_write_through_a_link_that_leads_out(deployed: Deployed, tmp_path: Path) -> None:
    deployed.take()
    (tmp_path / "elsewhere").mkdir()
    for path in (deployed.root / "nginx").rglob("*.conf"):
        path.unlink()
    (deployed.root / "nginx/conf.d").rmdir()
    (deployed.root / "nginx").rmdir()
    (deployed.root / "nginx").symlink_to(tmp_path / "elsewhere")
    # The plan names it no more, so that nothing but the set itself leads there.
    deployed.configuration = deployed.with_(paths=("docker-compose.yml",))
    with pytest.raises(PreconditionError, match="leads out"):
        deployed.restore()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_is_secret_by_now_is_not_shown_though_it_was_not_when_the_set_was_taken(deployed: Deployed) -> None:
    spec = deployed.configuration.spec
    shown = deployed.with_(paths=(*spec.paths, ".env"), secret=("certs",))
    secret, deployed.configuration = deployed.configuration, shown
    deployed.take()
    deployed.configuration = secret
    write(deployed.root / ".env", "DB_PASSWORD=another-secret\n", 0o600)
    text = "\n".join(preview_configuration(deployed.plan()))
    assert ".env: differs (secret, though not yet when the set was taken)" in text
    assert "another-secret" not in text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_files_come_back_to_whom_they_belonged(deployed: Deployed) -> None:
    of_a_container, gone = deployed.root / "nginx/nginx.conf", deployed.root / "nginx/conf.d/gateway.conf"
    os.chown(of_a_container, 4242, 4243)
    os.chown(gone, 4242, 4243)
    deployed.take()
    os.chown(of_a_container, 0, 0)
    gone.unlink()
    assert "nginx/nginx.conf: owner root:root now, 4242:4243 in the set" in preview_configuration(deployed.plan())
    record = deployed.recover()
    assert [check.outcome for check in record.checks if check.subject is Subject.DATA] == [Outcome.PASSED]
    for path in (of_a_container, gone):
        assert (path.stat().st_uid, path.stat().st_gid) == (4242, 4243)


def test_a_full_disk_changes_no_deployed_file(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    # The ledger that the tests share may be larger than the disk is here.
    monkeypatch.setenv("RECOUP_STATE", str(deployed.configuration.state))
    write(deployed.root / "nginx/big.conf", "#" * 300_000)
    deployed.take()
    write(deployed.root / "docker-compose.yml", "changed\n")
    (deployed.root / "nginx/big.conf").unlink()
    before = tree(deployed.root)
    child = _restore(
        deployed,
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))",
    )
    assert child.wait(60) == 1
    assert child.stderr is not None
    assert "no deployed file was changed" in child.stderr.read()
    assert tree(deployed.root) == before


@pytest.mark.parametrize("moment", ["files are written beside", "files are swapped"])
def test_killed_half_way_each_file_is_old_or_new_and_the_next_run_finishes(deployed: Deployed, moment: str) -> None:
    for n in range(MANY):
        write(deployed.root / f"nginx/sites/{n:04}.conf", f"server {{ # new {n}\n}}\n")
    deployed.take()
    for n in range(MANY):
        write(deployed.root / f"nginx/sites/{n:04}.conf", f"server {{ # old {n}\n}}\n")
    sites = deployed.root / "nginx/sites"
    signs: dict[str, Callable[[], bool]] = {
        "files are written beside": lambda: any(p.name.endswith(".recoup-new") for p in sites.iterdir()),
        "files are swapped": lambda: any(".before-" in p.name for p in sites.iterdir()),
    }
    child = _restore(deployed)
    deadline = time.monotonic() + 60
    while not signs[moment]() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    assert child.wait(30) == -signal.SIGKILL
    states = {_state(sites / f"{n:04}.conf", n) for n in range(MANY)}
    assert states <= {"old", "new"}
    assert "old" in states, "it had finished before it was killed: this shows nothing"
    assert states == ({"old"} if moment == "files are written beside" else {"old", "new"})
    kept = {p.name: p.read_bytes() for p in sites.iterdir() if ".before-" in p.name}
    assert all(b"# old" in text for text in kept.values())
    left = _unfinished(deployed)
    # A backup by schedule meanwhile holds what is half old: the choice of the killed run stands.
    half = deployed.take().set_id
    record = deployed.recover()
    assert record.run_id == left.header.run_id
    assert record.backup is not None
    assert record.backup.set_id != half
    assert [check.outcome for check in record.checks if check.subject is Subject.DATA] == [Outcome.PASSED]
    assert {_state(sites / f"{n:04}.conf", n) for n in range(MANY)} == {"new"}
    # Every old file is still there, once, and nothing half-written is.
    old = sorted(p.name.partition(".before-")[0] for p in sites.iterdir() if ".before-" in p.name)
    assert old == [f"{n:04}.conf" for n in range(MANY)]
    assert not list(deployed.root.rglob("*.recoup-new"))


def test_a_file_killed_between_keeping_and_replacing_is_kept_once(deployed: Deployed) -> None:
    deployed.take()
    write(deployed.root / "docker-compose.yml", "old\n")
    os.link(deployed.root / "docker-compose.yml", deployed.root / "docker-compose.yml.before-20261123T031200Z")
    restored = deployed.restore()
    assert restored.aside == ("docker-compose.yml.before-20261123T031200Z",)
    assert (deployed.root / restored.aside[0]).read_text() == "old\n"
    assert len([p for p in deployed.root.iterdir() if ".before-" in p.name]) == 1


def test_two_restores_at_once_are_one_and_a_refusal(deployed: Deployed) -> None:
    from recoup.errors import BusyError
    from recoup.lease import lease

    deployed.take()
    platform = deployed.plan().platform
    with lease(platform.state, platform.name, "somebody else"), pytest.raises(BusyError, match="somebody else"):
        deployed.recover()


def _state(path: Path, n: int) -> str:
    text = path.read_text()
    return next((s for s in ("old", "new") if text == f"server {{ # {s} {n}\n}}\n"), f"neither: {text!r}")


def _unfinished(deployed: Deployed) -> Journal:
    platform = deployed.plan().platform
    left = Journal.unfinished(platform.state, platform.name, "configuration", "configuration")
    assert left is not None
    return left


def _restore(deployed: Deployed, first: str = "") -> subprocess.Popen[str]:
    place = deployed.root.parent / "plan.yaml"
    place.write_text(deployed.plan().dump_yaml())
    program = (
        f"{first}\nfrom pathlib import Path\nfrom flows import configuration as flow\n"
        f"flow.recover_configuration.fn(flow.ConfigurationRecovery(plan=Path({str(place)!r})))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True
    )
