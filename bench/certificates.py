"""Certificate of all TLS servers in a run, made when it begins: ECDSA P-256, for `localhost` and 127.0.0.1."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


def make(directory: Path) -> Path:
    """Write `ca.pem`, `cert.pem` and `key.pem` into a directory and return it."""
    directory.mkdir()
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    leaf = authority.issue_cert("localhost", "127.0.0.1", key_type=trustme.KeyType.ECDSA)
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    leaf.private_key_pem.write_to_path(str(directory / "key.pem"))
    (directory / "cert.pem").write_bytes(b"".join(each.bytes() for each in leaf.cert_chain_pems))
    return directory


def server_context(directory: Path) -> ssl.SSLContext:
    """Return the context of a server that shows the certificate in a directory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


def client_context() -> ssl.SSLContext:
    """Return the context of a client that takes any certificate: load generators check none, and neither does wrk."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
