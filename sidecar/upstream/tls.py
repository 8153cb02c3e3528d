"""TLS contexts for upstreams and listeners, from the files that policies name.

Contexts have TLS 1.2 or later (RFC 9325 3.1.1), ALPN `http/1.1` (RFC 7301) and no renegotiation, and never prompt for a
pass phrase.  Errors name the file and its setting.  `certificates.py` reloads changed files.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from pydantic import model_validator

from sidecar.core.spec import Model

FILE_SETTINGS: Final = ("ca", "client_ca", "crl", "cert", "key")
"""Settings that name files."""


class ClientTlsSpec(Model):
    """TLS settings for connections to an upstream."""

    ca: str | None = None
    """File with the trusted certificate authorities (PEM); without it, those of the system are trusted."""
    cert: str | None = None
    """File with the client certificate and its chain (PEM), for mutual TLS."""
    key: str | None = None
    """File with the private key of `cert` (PEM, not encrypted)."""
    server_name: str | None = None
    """Name for SNI and for the check of the certificate; without it, the endpoint's host or the discovered name."""
    verify: bool = True
    """`false` accepts any certificate, for test environments only."""

    @model_validator(mode="after")
    def _is_whole(self) -> ClientTlsSpec:
        if (self.cert is None) != (self.key is None):
            raise ValueError("needs cert and key together, or neither")
        if not self.verify and self.ca is not None:
            raise ValueError("has a ca, which verify: false ignores; remove one of the two")
        return self


class ServerTlsSpec(Model):
    """TLS settings of a listener."""

    cert: str
    """File with the certificate and its chain (PEM)."""
    key: str
    """File with the private key of `cert` (PEM, not encrypted)."""
    client_ca: str | None = None
    """File with certificate authorities (PEM).  If set, clients must present a certificate that one of them signed."""
    crl: str | None = None
    """File with the revocation lists of `client_ca` (PEM), one for each authority in the chains of clients, so that a
    revoked intermediate is refused too.  A certificate without a list, or with one that has expired, is refused.  A
    changed file is read again."""

    @model_validator(mode="after")
    def _has_authorities(self) -> ServerTlsSpec:
        if self.crl is not None and self.client_ca is None:
            raise ValueError("has a crl without client_ca, so no client has a certificate; add client_ca")
        return self


class CertificateError(ValueError):
    """Error of a file that cannot be used; the message has its path and the reason."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(message)
        self.setting = setting
        """Setting that names the file."""


def client_context(spec: ClientTlsSpec) -> ssl.SSLContext:
    """Return the context for connections to an upstream.  Raises `CertificateError`."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    if not spec.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif spec.ca is not None:
        _trust(context, "ca", spec.ca)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if spec.cert is not None and spec.key is not None:
        _identify(context, spec.cert, spec.key)
    return context


def server_context(spec: ServerTlsSpec) -> ssl.SSLContext:
    """Return the context for handshakes with clients.  Raises `CertificateError`."""
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    _identify(context, spec.cert, spec.key)
    if spec.client_ca is not None:
        _trust(context, "client_ca", spec.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    if spec.crl is not None:
        _trust(context, "crl", spec.crl, "X509 CRL", "revocation lists")
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_CHAIN
    return context


def build_context(spec: ClientTlsSpec | ServerTlsSpec) -> ssl.SSLContext:
    """Return the context for the settings of an upstream or a listener.  Raises `CertificateError`."""
    return client_context(spec) if isinstance(spec, ClientTlsSpec) else server_context(spec)


def check_files(spec: ClientTlsSpec | ServerTlsSpec) -> list[CertificateError]:
    """Return the errors of a spec's files: all files that cannot be read, or else the first one that is invalid."""
    problems = []
    for setting, path in files_of(spec):
        try:
            _read(setting, path)
        except CertificateError as error:
            problems.append(error)
    if not problems:
        try:
            build_context(spec)
        except CertificateError as error:
            problems.append(error)
    return problems


def files_of(spec: ClientTlsSpec | ServerTlsSpec) -> list[tuple[str, str]]:
    """Return the settings that name files, each with its path."""
    return [(setting, path) for setting in FILE_SETTINGS if (path := getattr(spec, setting, None)) is not None]


def is_cut_off(transport: asyncio.BaseTransport) -> bool:
    """True if a TLS connection ended without a close_notify (RFC 8446 6.1), which anyone on the path can cause.

    Event loops and Python's API do not distinguish the two ends.  Another read does: after a close_notify OpenSSL
    reports the end of the data, otherwise it waits for more.
    """
    connection = transport.get_extra_info("ssl_object")
    if connection is None:
        return False
    try:
        connection.read(1)
    except ssl.SSLZeroReturnError:
        return False
    except ssl.SSLError:
        return True
    return False


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _read(setting: str, path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise CertificateError(setting, f"{path} cannot be read: {error.strerror}") from None


def _trust(context: ssl.SSLContext, setting: str, path: str, mark: str = "", what: str = "valid certificates") -> None:
    """Load authorities or revocation lists; `mark` must occur in the file."""
    try:
        if mark not in _read(setting, path):
            raise CertificateError(setting, f"{path} has no {what} in PEM format")
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise CertificateError(setting, f"{path} has no {what} in PEM format") from None


def _identify(context: ssl.SSLContext, cert: str, key: str) -> None:
    def refuse() -> str:
        raise CertificateError("key", f"{key} is encrypted; give a key without a pass phrase")

    for setting, path, mark in (("cert", cert, "CERTIFICATE-----"), ("key", key, "PRIVATE KEY-----")):
        if mark not in _read(setting, path):
            raise CertificateError(setting, f"{path} has no {mark.rstrip('-').lower()} in PEM format")
    try:
        context.load_cert_chain(cert, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError("key", f"{key} is not the key of the certificate {cert}") from None
        raise CertificateError("cert", f"{cert} and {key} cannot be used: {error.reason or error}") from None
    except OSError as error:
        raise CertificateError("cert", f"{cert} and {key} cannot be read: {error.strerror}") from None
