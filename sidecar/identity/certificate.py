"""Identity of client certificates that the listener has verified (RFC 5280, X.509-SVID of SPIFFE).

A SPIFFE ID is the only URI of its certificate.  A DNS name is taken from the subject alternative names, and the common
name of the subject only where `subject` asks for it, because it has no fixed meaning.  A name of another form, or with
control characters, or longer than such names may be, is no name.
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


FORMS: Final = {
    "spiffe": re.compile(r"spiffe://[a-z0-9._-]+(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)*"),
    "dns": re.compile(r"(?:\*\.)?[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"),
    "subject": re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+"),
}
"""Regular expression of a whole name, by its kind (SPIFFE-ID 2, RFC 5280 4.2.1.6)."""
LONGEST: Final = {"spiffe": 2048, "dns": 253, "subject": 256}
"""Most characters of a name, by its kind (SPIFFE-ID 2.3, RFC 1035 2.3.4)."""


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
        shown = ", ".join(map(repr, names)) or "none"
        return Rejection(f"the certificate's names of the kind {self._kind} do not match: {shown}", is_foreign=True)

    def describe(self) -> dict[str, Any]:
        """Return kind and pattern as JSON-ready values."""
        return {"kind": "certificate", "names": self._kind, "pattern": self._pattern.pattern}


def names_of(certificate: dict[str, Any], kind: str) -> list[str]:
    """Return the names of one kind in a certificate, as `SSLObject.getpeercert` returns it."""
    alternatives: Iterable[tuple[str, str]] = certificate.get("subjectAltName", ())
    if kind == "spiffe":
        found = [value for name, value in alternatives if name == "URI"]
        found = found if len(found) == 1 else []
    elif kind == "dns":
        found = [value for name, value in alternatives if name == "DNS"]
    else:
        found = _common_names(certificate)
    form, longest = FORMS[kind], LONGEST[kind]
    return [name for name in found if len(name) <= longest and form.fullmatch(name) is not None]


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
