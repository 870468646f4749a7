"""A caching service of Intel's collateral (PCCS) with what a processor of the tests has; shapes: PCS API, version 4.

https://api.portal.trustedservices.intel.com/content/documentation.html
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from urllib.parse import quote, urlsplit

from tests.enclave_hardware import Hardware


def pccs(hardware: Callable[[], Hardware], asked: list[str]) -> type[BaseHTTPRequestHandler]:
    """Give a handler that serves the collateral of a processor; ``asked`` takes the paths."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path.removeprefix("/sgx/certification/v4/")
            asked.append(path)
            known = json.loads(hardware().collateral())
            tcb = f'{{"tcbInfo":{known["tcb_info"]},"signature":"{known["tcb_info_signature"]}"}}'
            identity = f'{{"enclaveIdentity":{known["qe_identity"]},"signature":"{known["qe_identity_signature"]}"}}'
            answers: dict[str, tuple[bytes, str, str]] = {
                "pckcrl": (bytes.fromhex(known["pck_crl"]), "SGX-PCK-CRL-Issuer-Chain", "pck_crl_issuer_chain"),
                "rootcacrl": (known["root_ca_crl"].encode(), "", ""),
                "tcb": (tcb.encode(), "TCB-Info-Issuer-Chain", "tcb_info_issuer_chain"),
                "qe/identity": (identity.encode(), "SGX-Enclave-Identity-Issuer-Chain", "qe_identity_issuer_chain"),
            }
            if path not in answers:
                self.send_error(404)
                return
            body, header, chain = answers[path]
            self.send_response(200)
            if header:
                self.send_header(header, quote(known[chain]))
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return

    return Handler
