"""Parts of a URL as spans may show them: without secrets, host and port apart."""

from __future__ import annotations

import re
from typing import Final

from sidecar.telemetry.plain import names_secret

REDACTED: Final = "REDACTED"
SIGNATURES: Final = frozenset(("awsaccesskeyid", "signature", "sig", "x-goog-signature"))
"""Query parameters that OpenTelemetry's conventions for URLs redact."""
_parameter: Final = re.compile(r"([^&=]+)=([^&]+)")


def scrub_query(query: str) -> str:
    """Return the query without the values of parameters whose names say that they are secret."""
    return _parameter.sub(_value, query)


def _value(match: re.Match[str]) -> str:
    name = match[1]
    return f"{name}={REDACTED}" if name.lower() in SIGNATURES or names_secret(name) else match[0]


def split_authority(authority: str, is_tls: bool) -> tuple[str, int]:
    """Return host (IPv6 without brackets) and port; that of the scheme where none is given."""
    host, colon, port = authority.rpartition(":")
    if not colon or not port.isdigit():
        return authority.rstrip(":").strip("[]"), 443 if is_tls else 80
    return host.strip("[]"), int(port)
