"""Run as a program: gives the collateral of the quote on standard input from the PCCS in its one argument, as JSON.

dcap-qvl reads a PCCS's answer to its end, however long; here that ends this program, not the recovery.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys

# Sixty times what it needs besides libraries: collateral has about 20 kB.
MOST_MEMORY = 1 << 30
# The exit code where standard error has in one line why there is none; with any other it broke.
SAID = 3


def main(pccs: str) -> int:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        found = asyncio.run(_fetched(pccs, sys.stdin.buffer.read()))
    except (ValueError, RuntimeError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return SAID
    print(found)
    return 0


async def _fetched(pccs: str, quote: bytes) -> str:
    # Here, for the caller of this program has use for its exit code without it.
    import dcap_qvl

    return str((await dcap_qvl.get_collateral(pccs, quote)).to_json())


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # dcap-qvl's own threads go on while the interpreter is taken down, and now and then crash it then.
    os._exit(code)
