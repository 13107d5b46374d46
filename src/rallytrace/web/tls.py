"""TLS: the certificate that a server makes for itself, and the context of one that it is given."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import os
import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rallytrace.errors import InputError, MissingDependency
from rallytrace.files import AtomicFile, make_folder, output_errors
from rallytrace.web.names import LOCAL_NAMES

CERTIFICATE_DAYS = 397


def tls_context(cert: Path, key: Path) -> ssl.SSLContext:
    """For a server, of PEM files; TLS 1.2 or later. Raises InputError for files that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Asks for no password: a server has nobody to answer.
        context.load_cert_chain(cert, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"cannot use {cert} and {key} for TLS, as they are no certificate and key ({error}): "
            "expected PEM files that belong together"
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def self_signed(folder: Path, hosts: Iterable[str], name: str = "endpoint") -> tuple[Path, Path]:
    """NAME.crt and its NAME.key in `folder`, made at the first start, and anew where they are expired or damaged, or of
    other hosts.

    The key file has mode 0600. Raises MissingDependency without cryptography, OutputError.
    """
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingDependency("--tls self-signed needs cryptography: pip install 'rallytrace[serve]'") from error
    names = sorted({*LOCAL_NAMES, socket.gethostname(), *hosts} - {"0.0.0.0", "::", ""})
    cert = folder / f"{name}.crt"
    key = folder / f"{name}.key"
    if _is_good(cert, key, names):
        return cert, key
    make_folder(folder)
    for path, data in zip((key, cert), _new_certificate(names), strict=True):
        with (atomic := AtomicFile(path, "wb")) as file, output_errors(path):
            os.chmod(atomic.partial, 0o600)
            file.write(data)
    return cert, key


def _is_good(cert: Path, key: Path, names: list[str]) -> bool:
    """Whether the two belong together, are for all `names`, and for the next week."""
    from cryptography import x509

    if not (cert.is_file() and key.is_file()):
        return False
    try:
        tls_context(cert, key)
        old = x509.load_pem_x509_certificate(cert.read_bytes())
        alternatives = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (InputError, ValueError, x509.ExtensionNotFound):
        return False
    known = {str(each.value) for each in alternatives}
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=7)
    return known >= set(names) and old.not_valid_after_utc > soon


def _new_certificate(names: list[str]) -> tuple[bytes, bytes]:
    """A P-256 key and a certificate for `names`, PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rallytrace")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName([_alternative(n) for n in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _alternative(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def fingerprint(cert: Path) -> str:
    """SHA-256 of a PEM certificate, in hex: what a client pins."""
    text = cert.read_text("ascii").split("-----BEGIN CERTIFICATE-----")[1].split("-----END")[0]
    return hashlib.sha256(base64.b64decode(text)).hexdigest()


def state_folder() -> Path:
    """Where keys and certificates of this user are kept."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "rallytrace"
