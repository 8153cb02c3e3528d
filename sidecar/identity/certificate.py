"""Identity of client certificates that the listener has verified (RFC 5280, X.509-SVID of SPIFFE).

A SPIFFE ID is the only URI of its certificate.  A DNS name is taken from the subject alternative names, and the common
name of the subject only where `subject` asks for it, because it has no fixed meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from sidecar.core import metrics
from sidecar.core.env import Env
from sidecar.core.exchange import Caller, Exchange
from sidecar.identity.spec import CertificateSpec
from sidecar.identity.verdict import Rejection, Verdict

WITHIN: Final = {"spiffe": "[^/]*", "dns": "[^.]*", "subject": ".*"}
"""Regular expression of `*` in a pattern, by the kind of name."""


class CertificateIdentity:
    """Identity of the names in certificates."""

    scheme = b"TLS-Client-Certificate"
    field = b""

    def __init__(self, name: str, spec: CertificateSpec, env: Env) -> None:
        self.name = name
        self._kind = kind = next(each for each in WITHIN if getattr(spec, each) is not None)
        given: str | tuple[str, ...] = getattr(spec, kind)
        listed = (given,) if isinstance(given, str) else given
        patterns = [WITHIN[kind].join(map(re.escape, each.split("*"))) for each in listed]
        self._pattern = re.compile("|".join(patterns), re.IGNORECASE if kind == "dns" else 0)
        self._accepted = env.meter.counter(metrics.AUTHENTICATIONS, identity=name, result="accepted")
        self._rejected = env.meter.counter(metrics.AUTHENTICATIONS, identity=name, result="rejected")

    def start(self) -> None:
        """Do nothing: there is no background work."""

    def authenticate(self, x: Exchange, lines: bytes, lower: bytes, now: float) -> Verdict | None:
        certificate = x.client_certificate
        if certificate is None:
            return None
        names = names_of(certificate, self._kind)
        for each in names:
            if self._pattern.fullmatch(each):
                self._accepted.value += 1
                return Caller(each, self.name, claims_of(certificate))
        self._rejected.value += 1
        shown = ", ".join(names) or "none"
        return Rejection(f"the certificate's names of the kind {self._kind} do not match: {shown}", is_foreign=True)

    def describe(self) -> dict[str, Any]:
        """Return kind and pattern as JSON-ready values."""
        return {"kind": "certificate", "names": self._kind, "pattern": self._pattern.pattern}


def names_of(certificate: dict[str, Any], kind: str) -> list[str]:
    """Return the names of one kind in a certificate, as `SSLObject.getpeercert` returns it."""
    alternatives: Iterable[tuple[str, str]] = certificate.get("subjectAltName", ())
    if kind == "spiffe":
        uris = [value for name, value in alternatives if name == "URI"]
        return uris if len(uris) == 1 and uris[0].startswith("spiffe://") else []
    if kind == "dns":
        return [value for name, value in alternatives if name == "DNS"]
    return _common_names(certificate)


def claims_of(certificate: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a certificate as claims."""
    alternatives: Iterable[tuple[str, str]] = certificate.get("subjectAltName", ())
    return {
        "subject": ",".join(_common_names(certificate)),
        "dns": [value for name, value in alternatives if name == "DNS"],
        "uri": [value for name, value in alternatives if name == "URI"],
        "serial": certificate.get("serialNumber", ""),
    }


def _common_names(certificate: dict[str, Any]) -> list[str]:
    return [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
