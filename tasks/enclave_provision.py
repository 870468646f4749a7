"""Giving an attested enclave its secrets again: the plan's command, run in its service, secrets on standard input."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta

from pydantic import SecretStr

from recoup.errors import PreconditionError, ProgramError, RecoveryError
from recoup.plan_enclave import TOLD, Provisioning
from recoup.records import Frozen
from recoup.secrets import mask, resolve
from tasks.enclave import Attested, Enclave
from tasks.enclave_shares import put_together
from tasks.step import note, step

# A shorter line of a secret, a brace say, hides nothing and would blot out what the program says.
_TELLING = 8


class Provisioned(Frozen):
    """That the command ran, and which shares were not right."""

    by: str
    shares: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join((self.by, *self.shares))


@step(timeout=timedelta(minutes=30))
def provision_enclave(enclave: Enclave, attested: Attested) -> Provisioned:
    """Run the plan's command in the enclave's service; raises RecoveryError, its words masked, when it fails.

    Refuses an enclave that was not accepted. What the command prints is not kept: it may hold what it was given.
    """
    if not attested.accepted:
        raise RecoveryError(
            f"{enclave.component} is given nothing: {attested.wrong}", state="nothing was given to the enclave"
        )
    spec = command_of(enclave)
    given, wrong = _input(spec)
    variables = {name: resolve(reference) for name, reference in spec.environment.items()}
    hidden = _spellings(given, *(one.get_secret_value().encode() for one in variables.values()))
    note(f"provisioning {enclave.component}: {spec.command[0]}")
    try:
        done = enclave.stack.execute(
            enclave.service,
            spec.command,
            timeout=spec.timeout,
            env=dict(zip(TOLD, (attested.mrenclave, attested.report_data), strict=True)),
            secrets=variables,
            stdin=given,
        )
    except ProgramError as error:
        raise RecoveryError(
            mask(error.what, hidden),
            state=f"{enclave.component} may have been given its secrets in part",
            next_step="see to what it says, then: recoup recover enclave",
        ) from None
    return Provisioned(by=f"{spec.command[0]} ended well in {done.took.total_seconds():.1f} s", shares=wrong)


def command_of(enclave: Enclave) -> Provisioning:
    """Give how the plan provisions an enclave; PreconditionError when it does not say."""
    if enclave.spec.provision is None:
        raise PreconditionError(
            f"{enclave.component} is attested and lacks its secrets, and the plan has no command to give them",
            state="nothing was given to the enclave",
            next_step="provision it by hand, or name the command in the plan (provision); then: recoup recover enclave",
        )
    return enclave.spec.provision


def _input(spec: Provisioning) -> tuple[bytes, tuple[str, ...]]:
    if spec.shares is not None:
        return put_together(spec.shares)
    if spec.secret is not None:
        return resolve(spec.secret).get_secret_value().encode(), ()
    return b"", ()


def _spellings(*given: bytes) -> tuple[SecretStr, ...]:
    """Give what a program might call its secrets when it complains, longest first: whole, or a line of a key file."""
    parts = (*given, *(line for one in given for line in map(bytes.strip, one.splitlines()) if len(line) >= _TELLING))
    spelled = {
        spelling
        for one in parts
        for spelling in (one.decode("utf-8", "ignore"), one.hex(), one.hex().upper(), b64encode(one).decode())
    }
    return tuple(SecretStr(one) for one in sorted(spelled, key=len, reverse=True) if one)
