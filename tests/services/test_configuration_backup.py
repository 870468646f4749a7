"""Deployed configuration is backed up as it is, drift and secrets included; secrets never in clear."""

from __future__ import annotations

import os
import shutil
import zlib
from datetime import timedelta
from pathlib import Path

import pytest

from flows.configuration import run_configuration_backup
from recoup.errors import PreconditionError, RecoveryError
from recoup.manifest import ConfigurationTree
from recoup.plan import BackupPolicy
from recoup.records import Outcome
from recoup.sealing import new_key_pair
from tasks.configuration import read_configuration
from tasks.configuration_backup import take_configuration_backup
from tasks.configuration_git import CHANGED, DELETED, UNKNOWN, UNTRACKED
from tests.configuration_checkout import PASSWORD, PRIVATE_KEY, Deployed, commit, deploy, git, write


@pytest.fixture
def deployed(tmp_path: Path) -> Deployed:
    return deploy(tmp_path)


def outcomes(deployed: Deployed, set_id: str) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in deployed.prove(set_id).checks}


def test_every_kind_of_drift_is_told(deployed: Deployed) -> None:
    root = deployed.root
    write(root / "nginx/nginx.conf", "events {}\n# edited on the server\n")
    write(root / "nginx/conf.d/new.conf", "server {}\n")
    (root / "prometheus/prometheus.yml").unlink()
    (root / "docker-compose.yml").chmod(0o755)
    write(root / "deploy.sh", "changed, but the plan does not name it\n")
    assert read_configuration(deployed.configuration).drift == {
        ".env": UNTRACKED,
        "certs/gateway.key": UNTRACKED,
        "certs/gateway.pem": UNTRACKED,
        "docker-compose.yml": CHANGED,
        "nginx/conf.d/new.conf": UNTRACKED,
        "nginx/nginx.conf": CHANGED,
        "prometheus/prometheus.yml": DELETED,
    }


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_drift_that_git_status_was_told_to_overlook_is_told(deployed: Deployed, flag: str) -> None:
    git(deployed.root, "update-index", flag, "nginx/nginx.conf")
    write(deployed.root / "nginx/nginx.conf", "hidden\n")
    assert git(deployed.root, "status", "--porcelain") == ""
    assert read_configuration(deployed.configuration).drift["nginx/nginx.conf"] == CHANGED


def test_a_staged_change_is_drift_and_a_committed_one_is_none(deployed: Deployed) -> None:
    write(deployed.root / "nginx/nginx.conf", "staged\n")
    git(deployed.root, "add", "nginx/nginx.conf")
    assert read_configuration(deployed.configuration).drift["nginx/nginx.conf"] == CHANGED
    head = commit(deployed.root, "edited")
    reading = read_configuration(deployed.configuration)
    assert "nginx/nginx.conf" not in reading.drift
    assert (reading.control.commit, reading.control.branch) == (head, "main")


def test_line_endings_that_git_itself_converts_are_no_drift(deployed: Deployed) -> None:
    write(deployed.root / ".gitattributes", "*.conf text eol=crlf\n")
    commit(deployed.root, "attributes")
    (deployed.root / "nginx/nginx.conf").unlink()
    git(deployed.root, "checkout", "--", "nginx/nginx.conf")
    assert b"\r\n" in (deployed.root / "nginx/nginx.conf").read_bytes()
    assert "nginx/nginx.conf" not in read_configuration(deployed.configuration).drift


def test_the_set_holds_what_is_deployed_and_is_proven(deployed: Deployed) -> None:
    write(deployed.root / "nginx/nginx.conf", "edited on the server\n", 0o640)
    os.utime(deployed.root / "nginx/nginx.conf", (1_700_000_000, 1_700_000_000))
    taken = run_configuration_backup(deployed.plan())
    one = deployed.repository.get("configuration", taken.set_id)
    assert one.manifest is not None
    assert isinstance(one.manifest.holds, ConfigurationTree)
    assert one.manifest.holds.commit == git(deployed.root, "rev-parse", "HEAD")
    assert set(one.manifest.holds.encrypted) == {".env", "certs/gateway.key"}
    assert "nginx/nginx.conf" in one.manifest.holds.drift
    copy = one.path / "files/nginx/nginx.conf"
    assert (copy.read_text(), copy.stat().st_mode & 0o777, copy.stat().st_mtime) == (
        "edited on the server\n",
        0o640,
        1_700_000_000,
    )
    assert one.manifest.recovery_point <= one.manifest.ended
    assert one.verified is not None
    assert one.verified.passed
    assert len(one.verified.checks) == 4


def test_no_secret_stands_in_clear_in_any_file_of_the_set(deployed: Deployed) -> None:
    # Once committed by mistake, and taken out again: the history still has it.
    write(deployed.root / "old.env", f"DB_PASSWORD={PASSWORD}\n")
    commit(deployed.root, "oops")
    (deployed.root / "old.env").unlink()
    commit(deployed.root, "taken out")
    # Reached by other names too.
    (deployed.root / "nginx/env").symlink_to("../.env")
    one = deployed.repository.get("configuration", deployed.take().set_id)
    files = [path for path in one.path.rglob("*") if path.is_file()]
    assert any(path.name == "repository.bundle.age" for path in files)
    for path in files:
        data = path.read_bytes()
        for secret in (PASSWORD, PRIVATE_KEY, deployed.keys.identity.get_secret_value()):
            assert secret.encode() not in data, path
        assert not path.name.endswith((".bundle", ".pack"))
        # Not compressed either: a git object is a zlib stream.
        assert zlib.compress(b"x")[:2] not in data[:64], path
    assert not (one.path / "files/nginx/env").exists()
    assert not (one.path / "files/.env").exists()


def test_a_secret_behind_a_directory_link_is_sealed_too(deployed: Deployed) -> None:
    write(deployed.root / "releases/5/app.env", f"DB_PASSWORD={PASSWORD}\n")
    (deployed.root / "current").symlink_to("releases/5")
    configuration = deployed.with_(paths=("releases", "current"), secret=("current/app.env",))
    taken = take_configuration_backup.fn(configuration, deployed.repository)
    one = deployed.repository.get("configuration", taken.set_id)
    assert (one.path / "secret/releases/5/app.env.age").exists()
    assert not any(PASSWORD.encode() in path.read_bytes() for path in one.path.rglob("*") if path.is_file())


def test_secrets_without_a_recipient_are_refused_before_anything_is_written(deployed: Deployed) -> None:
    for recipients in ((), ("age1nonsense",)):
        with pytest.raises(PreconditionError):
            take_configuration_backup.fn(deployed.with_(recipients=recipients), deployed.repository)
    assert not deployed.repository.root.exists()


def test_nothing_is_published_while_nothing_changed(deployed: Deployed) -> None:
    first = deployed.take()
    again = deployed.take()
    assert (again.published, again.set_id) == (False, first.set_id)
    # Each of these is a change, and the unchanged moment after it is none.
    changes = (
        lambda: write(deployed.root / ".env", "DB_PASSWORD=rotated\n", 0o600),
        lambda: (deployed.root / ".env").chmod(0o640),
        lambda: (deployed.root / "nginx/nginx.conf").unlink(),
        lambda: git(deployed.root, "commit", "--quiet", "--allow-empty", "--message", "release"),
    )
    for change in changes:
        change()
        assert deployed.take().published
        assert not deployed.take().published
    assert len(deployed.repository.sets("configuration")) == 5


def test_a_newest_set_that_is_damaged_or_sealed_to_others_is_taken_anew(deployed: Deployed) -> None:
    first = deployed.repository.get("configuration", deployed.take().set_id)
    (first.path / "files/docker-compose.yml").write_text("rotten\n")
    assert deployed.take().published
    other = new_key_pair()
    changed = deployed.with_(recipients=(deployed.keys.recipient, other.recipient))
    assert take_configuration_backup.fn(changed, deployed.repository).published


def test_without_the_identity_the_secrets_are_unproven_not_passed(deployed: Deployed) -> None:
    set_id = deployed.take().set_id
    deployed.configuration = deployed.with_(identity=None)
    found = outcomes(deployed, set_id)
    assert found == {
        "the set is whole": Outcome.PASSED,
        "the files come back": Outcome.PASSED,
        "the secrets open": Outcome.UNPROVEN,
        "the commit can be checked out": Outcome.UNPROVEN,
    }
    verified = deployed.repository.get("configuration", set_id).verified
    assert verified is not None
    assert not verified.passed


def test_a_set_that_the_plans_identity_does_not_open_fails_its_restore_test(deployed: Deployed) -> None:
    write(deployed.root.parent / "identity", new_key_pair().identity.get_secret_value())
    with pytest.raises(RecoveryError, match="secrets open"):
        run_configuration_backup(deployed.plan())
    (one,) = deployed.repository.sets("configuration")
    assert one.verified is not None
    assert Outcome.FAILED in {check.outcome for check in one.verified.checks}


@pytest.mark.parametrize("name", ["files/docker-compose.yml", "secret/.env.age", "repository.bundle.age", "index.json"])
def test_a_flipped_byte_anywhere_in_a_set_is_found(deployed: Deployed, name: str) -> None:
    set_id = deployed.take().set_id
    path = deployed.repository.root / set_id / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    assert outcomes(deployed, set_id)["the set is whole"] is Outcome.FAILED


def test_a_checkout_without_git_is_all_drift_and_says_so(deployed: Deployed) -> None:
    os.rename(deployed.root / ".git", deployed.root.parent / "git-elsewhere")
    taken = deployed.take()
    assert taken.commit == ""
    assert "no version control" in str(taken)
    assert set(taken.drift) == {file.path for file in read_configuration(deployed.configuration).files}
    assert "the commit can be checked out" not in outcomes(deployed, taken.set_id)


def test_another_repository_above_the_checkout_is_not_its_own(deployed: Deployed) -> None:
    os.rename(deployed.root / ".git", deployed.root.parent / "git-elsewhere")
    write(deployed.root.parent / "of-home", "x\n")
    git(deployed.root.parent, "init", "--quiet")
    git(deployed.root.parent, "add", "of-home")
    git(deployed.root.parent, "commit", "--quiet", "--message", "dotfiles")
    assert read_configuration(deployed.configuration).control.none == "no git repository"


def test_a_shallow_checkout_keeps_its_files_and_says_that_its_history_is_missing(
    deployed: Deployed, tmp_path: Path
) -> None:
    git(deployed.root, "commit", "--quiet", "--allow-empty", "--message", "second")
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{deployed.root}", "shallow")
    deployed.configuration = deployed.with_(checkout=tmp_path / "shallow", secret=())
    taken = deployed.take()
    assert taken.commit == git(deployed.root, "rev-parse", "HEAD")
    found = outcomes(deployed, taken.set_id)
    assert found["the commit can be checked out"] is Outcome.UNPROVEN
    assert found["the files come back"] is Outcome.PASSED


def test_a_file_that_changes_while_it_is_read_is_not_published(deployed: Deployed) -> None:
    # The repository's own filter writes into the file that git is comparing.
    write(deployed.root / ".gitattributes", "*.conf filter=busy\n")
    git(deployed.root, "config", "filter.busy.clean", "echo '# more' >> nginx/nginx.conf; cat")
    with pytest.raises(RecoveryError, match=r"nginx/nginx\.conf changed while being read"):
        deployed.take()
    assert not deployed.repository.sets("configuration")


def test_a_filter_that_is_not_installed_hides_nothing(deployed: Deployed) -> None:
    write(deployed.root / ".gitattributes", "*.conf filter=lost\n")
    git(deployed.root, "config", "filter.lost.clean", "no-such-program")
    git(deployed.root, "config", "filter.lost.required", "true")
    assert read_configuration(deployed.configuration).drift["nginx/nginx.conf"] == UNKNOWN
    assert deployed.take().published


def test_a_damaged_repository_stops_no_backup(deployed: Deployed) -> None:
    shutil.rmtree(deployed.root / ".git/objects")
    taken = deployed.take()
    assert taken.published
    assert taken.commit == ""
    assert any("git" in line and str(deployed.root) in line for line in deployed.drift())


def test_a_commit_whose_history_is_damaged_keeps_its_files_and_says_so(deployed: Deployed) -> None:
    write(deployed.root / "docker-compose.yml", "release 2\n")
    commit(deployed.root, "release 2")
    blob = git(deployed.root, "rev-parse", "HEAD~1:docker-compose.yml")
    (deployed.root / ".git/objects" / blob[:2] / blob[2:]).unlink()
    found = outcomes(deployed, deployed.take().set_id)
    assert found["the files come back"] is Outcome.PASSED
    assert found["the commit can be checked out"] is Outcome.UNPROVEN


@pytest.mark.parametrize("path", ["../identity", "/etc/hostname", "nginx/../../identity"])
def test_paths_that_lead_out_are_refused(deployed: Deployed, path: str) -> None:
    with pytest.raises(PreconditionError, match="leads out"):
        take_configuration_backup.fn(deployed.with_(paths=(path,)), deployed.repository)


@pytest.mark.parametrize("target", ["/etc/hostname", "../../identity", "../.git/config"])
def test_links_that_lead_out_are_refused(deployed: Deployed, target: str) -> None:
    (deployed.root / "nginx/evil.conf").symlink_to(target)
    with pytest.raises(PreconditionError, match="leads out"):
        deployed.take()
    assert not deployed.repository.root.exists()


def test_a_directory_link_in_the_middle_of_a_path_is_refused_when_it_leads_out(deployed: Deployed) -> None:
    (deployed.root / "etc").symlink_to("/etc")
    for path in ("etc/hostname", "etc/*name", "*/hostname"):
        with pytest.raises(PreconditionError, match="leads out"):
            take_configuration_backup.fn(deployed.with_(paths=(path,)), deployed.repository)


def test_a_pipe_is_refused_and_does_not_hang_the_backup(deployed: Deployed) -> None:
    os.mkfifo(deployed.root / "nginx/pipe")
    with pytest.raises(PreconditionError, match="neither"):
        deployed.take()


@pytest.mark.skipif(os.geteuid() != 0, reason="switches to another user, which only root can")
def test_a_file_that_cannot_be_read_is_named_and_nothing_is_published(deployed: Deployed, tmp_path: Path) -> None:
    place = tmp_path
    while place != Path(place.anchor) and not place.stat().st_mode & 0o001:
        place.chmod(place.stat().st_mode | 0o055)
        place = place.parent
    deployed.configuration.state.mkdir()
    os.chown(deployed.configuration.state, 65534, 65534)
    os.seteuid(65534)
    try:
        with pytest.raises(PreconditionError, match=r"\.env.*Permission denied"):
            deployed.take()
    finally:
        os.seteuid(0)
    assert not deployed.repository.root.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which only root can")
def test_a_checkout_of_another_user_is_read_by_git_as_that_user(deployed: Deployed, tmp_path: Path) -> None:
    import pwd

    other = pwd.getpwnam("nobody")
    place = tmp_path
    while place != Path(place.anchor) and not place.stat().st_mode & 0o001:
        place.chmod(place.stat().st_mode | 0o055)
        place = place.parent
    for path in (deployed.root, *deployed.root.rglob("*")):
        os.chown(path, other.pw_uid, other.pw_gid)
    # What the repository's own settings run is run as its owner, never as root.
    seen = tmp_path / "seen"
    seen.mkdir(mode=0o777)
    seen.chmod(0o777)
    write(deployed.root / ".gitattributes", "*.yml filter=spy\n")
    git(deployed.root, "-c", "safe.directory=*", "config", "filter.spy.clean", f"touch {seen}/ran; cat")
    taken = deployed.take()
    assert taken.commit
    assert (seen / "ran").stat().st_uid == other.pw_uid
    assert outcomes(deployed, taken.set_id)["the commit can be checked out"] is Outcome.PASSED


def test_what_the_plan_names_and_is_not_there_is_said(deployed: Deployed) -> None:
    deployed.configuration = deployed.with_(paths=("docker-compose.yml", "haproxy.cfg"))
    assert deployed.take().absent == ("haproxy.cfg",)
    assert "haproxy.cfg: named in the plan, and not there" in deployed.drift()


def test_drift_is_told_until_it_is_committed_and_secrets_until_they_are_in_a_set(deployed: Deployed) -> None:
    deployed.configuration = deployed.with_(paths=("nginx",))
    assert deployed.drift() == (
        ".env: not in the commit, in no backup set as it is",
        "certs/gateway.key: not in the commit, in no backup set as it is",
    )
    deployed.take()
    assert deployed.drift() == ()
    write(deployed.root / "nginx/nginx.conf", "edited\n")
    assert deployed.drift() == ("nginx/nginx.conf: differs from the commit, in no backup set as it is",)
    deployed.take()
    assert deployed.drift() == ("nginx/nginx.conf: differs from the commit, in the newest set",)
    commit(deployed.root, "edited")
    assert deployed.drift() == ()


def test_old_sets_go_by_the_plans_rule_and_the_newest_proven_one_stays(deployed: Deployed) -> None:
    deployed.configuration = deployed.with_(backup=BackupPolicy(interval=timedelta(minutes=5), keep=2))
    ids = []
    for n in range(4):
        write(deployed.root / "docker-compose.yml", f"release {n}\n")
        ids.append(run_configuration_backup(deployed.plan()).set_id)
    assert [one.set_id for one in deployed.repository.sets("configuration")] == ids[:1:-1]
