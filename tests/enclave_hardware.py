"""A processor with SGX that the tests made, by a root of its own: certificates, collateral, quotes of the real shapes.

Shapes: Intel's "SGX ECDSA quote library reference", appendix A.4 (quote version 3), and "SGX PCK certificate and CRL
profile" (the extension 1.2.840.113741.1.13.1). ``dcap-qvl`` verifies what it makes, given the root.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

FMSPC = bytes.fromhex("00906ea10000")
CPU_SVN = bytes([5] * 16)
PCE_SVN = 13
VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
QE_SIGNER = bytes([7] * 32)
MRENCLAVE = bytes([0xAA] * 32)
MRSIGNER = bytes([0xBB] * 32)
PRODUCT, SVN = 3, 8
INIT, DEBUG, BITS_64 = 0x01, 0x02, 0x04


def report(
    data: bytes = b"",
    *,
    mrenclave: bytes = MRENCLAVE,
    mrsigner: bytes = MRSIGNER,
    product: int = PRODUCT,
    svn: int = SVN,
    debug: bool = False,
) -> bytes:
    """Give the 384 bytes of an enclave's report."""
    attributes = bytes([INIT | BITS_64 | (DEBUG if debug else 0), *[0] * 7, 3, *[0] * 7])
    parts = (CPU_SVN, bytes(4), bytes(28), attributes, mrenclave, bytes(32), mrsigner, bytes(96))
    made = b"".join(parts) + struct.pack("<HH", product, svn) + bytes(60) + data.ljust(64, b"\0")
    assert len(made) == 384
    return made


@dataclass
class Hardware:
    """Root, certificates and keys of one processor, all valid around ``at``."""

    at: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    tcb_status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    revoked: bool = False
    lasts: timedelta = timedelta(days=30)

    def __post_init__(self) -> None:
        self._root_key, self._ca_key, self._pck_key, self._sign_key, self._attest_key = (
            ec.generate_private_key(ec.SECP256R1()) for _ in range(5)
        )
        self._root = self._certificate("Test SGX Root CA", self._root_key, None, self._root_key, ca=True)
        root = self._root, self._root_key
        self._ca = self._certificate("Test SGX PCK Platform CA", self._ca_key, root[0], root[1], ca=True)
        self._pck = self._certificate("Test SGX PCK Certificate", self._pck_key, self._ca, self._ca_key, pck=True)
        self._signer = self._certificate("Test SGX TCB Signing", self._sign_key, root[0], root[1])

    @property
    def root(self) -> bytes:
        """The root's certificate in DER."""
        return self._root.public_bytes(Encoding.DER)

    def quote(self, data: bytes, **body: object) -> bytes:
        """Give a signed quote of version 3 whose report data begin with ``data``; ``body`` as ``report`` takes it."""
        header = struct.pack("<HHIHH", 3, 2, 0, 8, PCE_SVN) + VENDOR + bytes(20)
        signed = header + report(data, **body)  # type: ignore[arg-type]
        public = _point(self._attest_key)
        extra = bytes(range(32))
        qe = report(hashlib.sha256(public + extra).digest(), mrsigner=QE_SIGNER, product=1, svn=8)
        chain = b"".join(one.public_bytes(Encoding.PEM) for one in (self._pck, self._ca, self._root))
        parts = (_sign(self._attest_key, signed), public, qe, _sign(self._pck_key, qe))
        end = struct.pack("<H", len(extra)) + extra + struct.pack("<HI", 5, len(chain)) + chain
        signature = b"".join(parts) + end
        return signed + struct.pack("<I", len(signature)) + signature

    def collateral(self) -> str:
        """Give the collateral as dcap-qvl writes it: JSON."""
        issued, ends = (one.strftime("%Y-%m-%dT%H:%M:%SZ") for one in self._validity())
        level = {
            "tcb": {"sgxtcbcomponents": [{"svn": one} for one in CPU_SVN], "pcesvn": PCE_SVN},
            "tcbDate": issued,
            "tcbStatus": self.tcb_status,
            "advisoryIDs": list(self.advisories),
        }
        known = {"issueDate": issued, "nextUpdate": ends, "tcbEvaluationDataNumber": 17}
        tcb = {"id": "SGX", "version": 3, **known, "fmspc": FMSPC.hex(), "pceId": "0000", "tcbType": 0}
        tcb_info = json.dumps({**tcb, "tcbLevels": [level]}, separators=(",", ":"))
        identity = {"id": "QE", "version": 2, **known, "miscselect": "00000000", "miscselectMask": "FFFFFFFF"}
        identity |= {"attributes": "01" + "00" * 15, "attributesMask": "FB" + "FF" * 7 + "00" * 8}
        identity |= {"mrsigner": QE_SIGNER.hex(), "isvprodid": 1}
        qe_levels = [{"tcb": {"isvsvn": 8}, "tcbDate": issued, "tcbStatus": "UpToDate"}]
        qe_identity = json.dumps({**identity, "tcbLevels": qe_levels}, separators=(",", ":"))
        chain = (self._signer.public_bytes(Encoding.PEM) + self._root.public_bytes(Encoding.PEM)).decode()
        pck_chain = (self._ca.public_bytes(Encoding.PEM) + self._root.public_bytes(Encoding.PEM)).decode()
        revoked = (self._pck.serial_number,) if self.revoked else ()
        return json.dumps(
            {
                "pck_crl_issuer_chain": pck_chain,
                "root_ca_crl": self._crl(self._root, self._root_key, ()).hex(),
                "pck_crl": self._crl(self._ca, self._ca_key, revoked).hex(),
                "tcb_info_issuer_chain": chain,
                "tcb_info": tcb_info,
                "tcb_info_signature": _sign(self._sign_key, tcb_info.encode()).hex(),
                "qe_identity_issuer_chain": chain,
                "qe_identity": qe_identity,
                "qe_identity_signature": _sign(self._sign_key, qe_identity.encode()).hex(),
            }
        )

    def _validity(self) -> tuple[datetime, datetime]:
        return self.at - timedelta(hours=1), self.at + self.lasts

    def _certificate(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: x509.Certificate | None,
        by: ec.EllipticCurvePrivateKey,
        *,
        ca: bool = False,
        pck: bool = False,
    ) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = {"digital_signature": not ca, "key_cert_sign": ca, "crl_sign": ca}
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.at - timedelta(days=300))
            .not_valid_after(self.at + timedelta(days=3000))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.KeyUsage(**usage, **dict.fromkeys(others, False), decipher_only=False), critical=True)
        )
        if pck:
            wanted = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
            builder = builder.add_extension(x509.UnrecognizedExtension(wanted, _sgx_extension()), critical=False)
        return builder.sign(by, hashes.SHA256())

    def _crl(self, issuer: x509.Certificate, key: ec.EllipticCurvePrivateKey, revoked: tuple[int, ...]) -> bytes:
        issued, ends = self._validity()
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.subject)
            .last_update(issued)
            .next_update(ends)
            .add_extension(x509.CRLNumber(1), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        for serial in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(issued)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def simulated(data: bytes, **body: object) -> bytes:
    """Give what an enclave without hardware can give: a quote of the right shape that nobody signed."""
    header = struct.pack("<HHIHH", 3, 2, 0, 0, 0) + VENDOR + bytes(20)
    signature = bytes(64 + 64 + 384 + 64) + struct.pack("<H", 32) + bytes(32) + struct.pack("<HI", 5, 0)
    return header + report(data, **body) + struct.pack("<I", len(signature)) + signature  # type: ignore[arg-type]


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def _oid(last: tuple[int, ...]) -> bytes:
    # 1.2.840.113741.1.13.1, then what it is below.
    return _der(0x06, bytes.fromhex("2a864886f84d010d01") + bytes(last))


def _pair(last: tuple[int, ...], value: bytes) -> bytes:
    return _der(0x30, _oid(last) + value)


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(2, "big").lstrip(b"\0") or b"\0")


def _sgx_extension() -> bytes:
    svns = b"".join(_pair((2, n + 1), _integer(one)) for n, one in enumerate(CPU_SVN))
    tcb = _der(0x30, svns + _pair((2, 17), _integer(PCE_SVN)) + _pair((2, 18), _der(0x04, CPU_SVN)))
    return _der(
        0x30,
        _pair((1,), _der(0x04, bytes(16)))
        + _pair((2,), tcb)
        + _pair((3,), _der(0x04, bytes(2)))
        + _pair((4,), _der(0x04, FMSPC))
        + _pair((5,), _der(0x0A, b"\0")),
    )
