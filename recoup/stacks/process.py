"""A stack of plain child processes, for the embedded sandbox: daemons that outlive whoever started them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

from pydantic import SecretStr

from recoup.errors import PreconditionError, ProgramError, RecoveryError
from recoup.process import Completed, run
from recoup.secrets import resolve
from recoup.stacks import Health, ServiceState, process_made, proctable
from recoup.stacks.process_command import command_of, drop_to, environment_of, owner_of
from recoup.stacks.process_files import copy, empty_place
from recoup.stacks.process_logs import ENDED, STARTING, ended_in_order, excerpt
from recoup.stacks.process_probe import answers
from recoup.stacks.process_release import ProcessReleases
from recoup.stacks.process_spec import ServiceSpec, StackSpec, read_spec

START = timedelta(seconds=30)
STOP = timedelta(seconds=30)
_AT_ONCE = timedelta(seconds=10)

# The child writes its own identity through the locked pid file and lets go of it only then: whoever starts a service
# may be killed at any moment, and still nobody else can start a second one before the first has a pid file.
_DAEMON = (
    "read -r stat </proc/$$/stat; read -r boot </proc/sys/kernel/random/boot_id; "
    'printf "%s\\n%s\\n" "$stat" "$boot" >&0; exec </dev/null; exec "$@"'
)

# Children of this very process: their exit codes are known here, and they must be reaped here.
_CHILDREN: dict[int, subprocess.Popen[bytes]] = {}
_CODES: dict[proctable.Identity, int] = {}


class ProcessStack:
    """The services of a ``stack.json`` as child processes; several recoup processes may open the same directory."""

    def __init__(self, directory: Path, spec: StackSpec, code: Path | None = None) -> None:
        self.directory = directory
        self.name = spec.name
        self._spec = spec
        self._code = code

    @classmethod
    def open(cls, directory: Path, code: Path | None = None) -> ProcessStack:
        """Give the stack described by ``directory/stack.json``, its programs from ``code`` where that is named.

        Raises PreconditionError when there is none.
        """
        return cls(directory, read_spec(directory, code), code)

    @property
    def fingerprint(self) -> str:
        return f"process:{socket.gethostname()}:{self._spec.sandbox or self.directory}"

    @property
    def sandbox(self) -> str | None:
        return read_spec(self.directory).sandbox

    @property
    def env_file(self) -> Path | None:
        return self._spec.env_file

    @property
    def releases(self) -> ProcessReleases:
        return ProcessReleases(self.directory, self._service, self._code)

    def services(self) -> tuple[ServiceState, ...]:
        with ThreadPoolExecutor(max_workers=8) as pool:
            return tuple(pool.map(self.state, self.names))

    @property
    def names(self) -> tuple[str, ...]:
        """The services' names, in the order of the description."""
        return tuple(service.name for service in self._spec.services)

    def runs(self, service: str) -> bool:
        """Say whether the service's process lives, without asking it anything."""
        who = self._identity(self._service(service))
        return who is not None and _running(who)

    def state(self, service: str) -> ServiceState:
        spec = self._service(service)
        who = self._identity(spec)
        if who is None:
            return ServiceState(service, False, Health.NONE, "never started")
        started = datetime.fromtimestamp(self._pid_file(spec).stat().st_mtime, UTC)
        if not _running(who):
            code = _CODES.get(who)
            status = f"exited (code {'unknown' if code is None else code})"
            stopped = ended_in_order(self._log_file(spec))
            return ServiceState(service, False, Health.NONE, status, code, started, stopped=stopped)
        return ServiceState(service, True, self._health(spec, started), f"running (pid {who.pid})", None, started)

    def create(self, *, timeout: timedelta = START) -> None:
        self._spec = read_spec(self.directory, self._code)
        for spec in self._spec.services:
            if not spec.home.is_dir():
                spec.home.parent.mkdir(parents=True, exist_ok=True)
                empty_place(spec.home, owner_of(spec), 0o755)

    def start(self, service: str, *, timeout: timedelta = START) -> None:
        spec = process_made.made(self.directory, self._service(service))
        with self._held(spec, timeout) as pid_file:
            self._start(spec, pid_file)

    def stop(self, service: str, *, timeout: timedelta = STOP) -> None:
        spec = self._service(service)
        with self._held(spec, timeout):
            self._stop(spec, timeout)

    def kill(self, service: str) -> None:
        spec = self._service(service)
        with self._held(spec, _AT_ONCE):
            self._clear(spec, self._identity(spec))

    def freeze(self, service: str) -> None:
        who = self._identity(self._service(service))
        for one in proctable.family(who) if who else ():
            proctable.send(one, signal.SIGSTOP)

    def restart(self, service: str, *, timeout: timedelta = STOP) -> None:
        self._make(process_made.made(self.directory, self._service(service)), timeout)

    def recreate(
        self, service: str, *, timeout: timedelta = STOP, image: str = "", env: Mapping[str, str] = {}
    ) -> None:
        self._spec = read_spec(self.directory, self._code)
        self._make(process_made.otherwise(self.directory, self._service(service), image, env), timeout)

    def environments(self, service: str) -> tuple[Mapping[str, str], ...]:
        return (process_made.made(self.directory, self._service(service)).env,) if self.image(service) else ()

    def image(self, service: str) -> str:
        return process_made.image(self.directory, self._service(service).name)

    def keep_image(self, service: str) -> str:
        return process_made.keep(self.directory, self._service(service))

    def secrets(self, service: str) -> tuple[SecretStr, ...]:
        found = []
        for reference in self._service(service).secrets.values():
            # What is not there was not given either.
            with contextlib.suppress(PreconditionError):
                found.append(resolve(reference))
        return tuple(found)

    def logs(self, service: str, *, tail: int = 100, since: datetime | None = None) -> str:
        return excerpt(self._log_file(self._service(service)), tail=tail, since=since)

    def execute(
        self,
        service: str,
        argv: tuple[str, ...],
        *,
        timeout: timedelta,
        env: Mapping[str, str] = {},
        secrets: Mapping[str, SecretStr] = {},
        stdin: BinaryIO | bytes | None = None,
        stdout: BinaryIO | None = None,
        check: bool = True,
    ) -> Completed:
        spec = self._service(service)
        if not self.runs(service):
            raise RecoveryError(
                f"{argv[0]} cannot run in {service}: it is not running",
                state="nothing was run",
                next_step=f"start {service} first",
            )
        own = {name: resolve(reference) for name, reference in spec.secrets.items()}
        command = command_of(spec, argv, env, {**own, **secrets}, spec.home)
        return run(command, timeout=timeout, stdin=stdin, stdout=stdout, check=check, user=drop_to(spec))

    def beside(
        self,
        service: str,
        argv: tuple[str, ...],
        *,
        timeout: timedelta,
        mounts: Iterable[Path] = (),
        env: Mapping[str, str] = {},
        secrets: Mapping[str, SecretStr] = {},
        stdin: BinaryIO | bytes | None = None,
        stdout: BinaryIO | None = None,
        check: bool = True,
    ) -> Completed:
        spec = self._service(service)
        for mount in mounts:
            if not mount.is_dir():
                raise PreconditionError(f"the directory {mount} is not there", next_step="make it first")
        command = command_of(spec, argv, env, secrets, self.directory)
        return run(command, timeout=timeout, stdin=stdin, stdout=stdout, check=check)

    def inside(self, service: str, port: int) -> tuple[str, int]:
        return self.endpoint(service, port)

    def endpoint(self, service: str, port: int) -> tuple[str, int]:
        spec = self._service(service)
        if port != spec.port or spec.listens is None:
            raise PreconditionError(f"{service} has no port {port}", next_step=f"its port is {spec.port}")
        return "127.0.0.1", spec.listens

    def copy_in(self, service: str, source: Path, destination: str) -> None:
        copy(source, Path(destination), owner_of(self._service(service)))

    def copy_out(self, service: str, source: str, destination: Path) -> None:
        self._service(service)
        copy(Path(source), destination, None)

    def put_aside(self, service: str, *, label: str) -> str:
        spec = self._service(service)
        if spec.data is None:
            raise PreconditionError(f"{service} keeps no data that could be put aside")
        if not label or "/" in label:
            raise PreconditionError(f"{label!r} cannot be part of a directory's name")
        aside = spec.data.with_name(f"{spec.data.name}.aside-{label}")
        with self._held(spec, _AT_ONCE):
            if self.runs(service) or self._remains(spec):
                raise PreconditionError(
                    f"{service} is running; its data stays where it is", next_step=f"stop {service}"
                )
            if not aside.exists():
                if not spec.data.exists():
                    empty_place(spec.data, owner_of(spec), 0o700)
                    return f"{spec.data} was gone: there was nothing to put aside"
                spec.data.rename(aside)
            if not spec.data.exists():
                old = aside.stat()
                empty_place(spec.data, (old.st_uid, old.st_gid), old.st_mode & 0o7777)
        return f"directory {aside}"

    # -- the parts; those that change a service are called with its pid file held ------------------------------

    def _make(self, spec: ServiceSpec, timeout: timedelta) -> None:
        with self._held(spec, timeout) as pid_file:
            self._stop(spec, timeout)
            self._start(spec, pid_file)

    def _start(self, spec: ServiceSpec, pid_file: BinaryIO) -> None:
        who = self._identity(spec)
        if who and _running(who):
            return
        self._clear(spec, who)
        process_made.note_made(self.directory, spec)
        environment = {
            **environment_of(spec),
            **{name: resolve(ref).get_secret_value() for name, ref in spec.secrets.items()},
        }
        spec.home.mkdir(parents=True, exist_ok=True)
        pid_file.seek(0)
        pid_file.truncate()
        user = None if spec.drops else drop_to(spec)
        with self._log_file(spec).open("ab") as log:
            _mark(log, STARTING, spec)
            try:
                child = subprocess.Popen(
                    ("/bin/sh", "-c", _DAEMON, spec.name, *spec.argv),
                    env=environment,
                    cwd=spec.home,
                    stdin=pid_file,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    user=user,
                    extra_groups=[] if user else None,
                )
            except OSError as error:
                raise RecoveryError(
                    f"{spec.name} could not be started: {error.strerror}", state=f"{spec.name} is down"
                ) from None
        _CHILDREN[child.pid] = child
        # Reaped as soon as it ends: PostgreSQL takes a zombie for a living postmaster and refuses its lock file.
        threading.Thread(target=child.wait, name=f"reap-{spec.name}", daemon=True).start()
        until = time.monotonic() + _AT_ONCE.total_seconds()
        while self._identity(spec) is None and child.poll() is None:
            if time.monotonic() > until:
                raise RecoveryError(
                    f"{spec.name} has no pid file after {_AT_ONCE.seconds} s", state="it may be running"
                )
            time.sleep(0.002)

    def _stop(self, spec: ServiceSpec, timeout: timedelta) -> None:
        who = self._identity(spec)
        running = who is not None and _running(who)
        if who and proctable.send(who, signal.Signals[spec.stop_signal]):
            proctable.wait_gone(who, timeout)
        self._clear(spec, who)
        if running:
            with self._log_file(spec).open("ab") as log:
                _mark(log, ENDED, spec)

    def _clear(self, spec: ServiceSpec, who: proctable.Identity | None) -> None:
        """End whatever is left of the service: PostgreSQL's children outlive a killed parent while they are busy."""
        left = proctable.end(lambda: (*(proctable.family(who) if who else ()), *self._remains(spec)))
        if left:
            raise RecoveryError(
                f"{spec.name} cannot be ended: process {', '.join(str(p.pid) for p in left)} ignores SIGKILL",
                state=f"{spec.name} is half down",
                next_step="see what the process waits for (a dead disk or mount), then try again",
            )
        if who:
            _running(who)
            proctable.release_shared_memory({who.pid})

    def _remains(self, spec: ServiceSpec) -> tuple[proctable.Identity, ...]:
        return proctable.dwelling(spec.home)

    def _health(self, spec: ServiceSpec, started: datetime) -> Health:
        probe = spec.health
        if probe is None:
            return Health.NONE
        if probe.kind == "program":
            healthy = self._program_answers(spec, probe.argv, timedelta(seconds=probe.timeout))
        else:
            healthy = spec.listens is not None and answers(probe, spec.listens)
        if healthy:
            return Health.HEALTHY
        age = datetime.now(UTC) - started
        return Health.STARTING if age < timedelta(seconds=probe.grace) else Health.UNHEALTHY

    def _program_answers(self, spec: ServiceSpec, argv: tuple[str, ...], timeout: timedelta) -> bool:
        command = command_of(spec, argv, {}, {}, spec.home)
        try:
            return run(command, timeout=timeout, check=False, user=drop_to(spec)).returncode == 0
        except ProgramError:
            return False

    def _identity(self, spec: ServiceSpec) -> proctable.Identity | None:
        try:
            return proctable.parse(self._pid_file(spec).read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def _held(self, spec: ServiceSpec, timeout: timedelta) -> Iterator[BinaryIO]:
        """Hold the service's pid file, so that one process at a time starts or ends it."""
        path = self._pid_file(spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + timeout.total_seconds()
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b", buffering=0) as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise RecoveryError(
                            f"{spec.name} is being started or stopped by another process for longer than {timeout}",
                            state="nothing was changed by this one",
                            next_step="wait for the other one to end, then try again",
                        ) from None
                    time.sleep(0.01)
            yield file

    def _pid_file(self, spec: ServiceSpec) -> Path:
        return self.directory / "run" / f"{spec.name}.pid"

    def _log_file(self, spec: ServiceSpec) -> Path:
        path = self.directory / "logs" / f"{spec.name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _service(self, name: str) -> ServiceSpec:
        for service in self._spec.services:
            if service.name == name:
                return service
        raise PreconditionError(
            f"the stack {self.name} has no service {name}", next_step=f"it has: {', '.join(self.names)}"
        )


def _mark(log: BinaryIO, event: str, spec: ServiceSpec) -> None:
    log.write(f"{datetime.now(UTC).isoformat(sep=' ')}{event}{spec.name}\n".encode())
    log.flush()


def _running(who: proctable.Identity) -> bool:
    child = _CHILDREN.get(who.pid)
    alive = proctable.alive(who)
    if child is not None and not alive:
        # It has ended; the thread that reaps it may need a moment to say how.
        with contextlib.suppress(subprocess.TimeoutExpired):
            _CODES[who] = child.wait(timeout=1)
            _CHILDREN.pop(who.pid, None)
    return alive
