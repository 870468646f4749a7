"""What Docker Compose makes of an environment file after a variable of it was changed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import docker
import pytest

from recoup.env_file import changed, values

NAME, NEW = "NEO_X_RPC_URL", "https://two.example:443/p?a=b&c=$D#part"
PLAIN = "https://two.example:443"
COMPOSE = "services: {one: {image: none, environment: {SEEN: '${NEO_X_RPC_URL-}', OTHER: '${OTHER-}'}}}\n"


def told(directory: Path, text: str) -> dict[str, str]:
    """Give what a service would have in its environment; a $ is written twice by Compose."""
    (directory / "compose.yaml").write_text(COMPOSE)
    (directory / ".env").write_bytes(text.encode("utf-8", "surrogateescape"))
    wanted = ["docker", "compose", "--env-file", ".env", "config", "--format", "json"]
    done = subprocess.run(wanted, cwd=directory, check=True, capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)["services"]["one"]["environment"]
    return {name: str(value).replace("$$", "$") for name, value in found.items()}


@pytest.mark.parametrize("new", [PLAIN, NEW])
@pytest.mark.parametrize(
    "line",
    [
        "NEO_X_RPC_URL=https://one.example # the first\n",
        "NEO_X_RPC_URL=https://one.example\t# a tab\n",
        "NEO_X_RPC_URL='https://one.example'#close by\n",
        'export NEO_X_RPC_URL="https://one.example" # quoted\r\n',
        "  NEO_X_RPC_URL = # nothing\n",
        "NEO_X_RPC_URL\n",
        'NEO_X_RPC_URL="a\nNEO_X_RPC_URL=b\n"\n',
        "NEO_X_RPC_URL=a\nNEO_X_RPC_URL=b\n",
        "OTHERS='\nNEO_X_RPC_URL=b\n'\n",
    ],
)
def test_compose_reads_the_new_value_and_the_others_as_before(
    engine: docker.DockerClient, tmp_path: Path, line: str, new: str
) -> None:
    text = f"\ufeff# first\n{line}OTHER='a $b'"
    after = changed(text, {NAME: new})
    assert told(tmp_path, after) == {"SEEN": new, "OTHER": "a $b"}
    assert values(after)[NAME] == new
