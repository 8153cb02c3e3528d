"""Parts of a URL for spans: queries without secrets, hosts and ports separated."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_plus

from sidecar.telemetry.plain import names_secret

REDACTED: Final = "REDACTED"
SIGNATURES: Final = frozenset(("awsaccesskeyid", "signature", "sig", "x-goog-signature"))
"""Query parameters that OpenTelemetry's conventions for URLs redact."""
_parameter: Final = re.compile(r"([^&=]+)=([^&]+)")


def scrub_query(query: str) -> str:
    """Return a query with the values of secret parameters, recognised by name, replaced."""
    return _parameter.sub(_redact, query)


def _redact(match: re.Match[str]) -> str:
    """Return a query parameter, with its value replaced if its name is that of a secret."""
    name = match[1]
    if "%" in name or "+" in name:  # percent-encoded, and still the name that a service reads
        name = unquote_plus(name)
    return f"{match[1]}={REDACTED}" if name.lower() in SIGNATURES or names_secret(name) else match[0]


def split_authority(authority: str, is_tls: bool) -> tuple[str, int]:
    """Return host (IPv6 without brackets) and port; without a port, that of the scheme."""
    host, colon, port = authority.rpartition(":")
    if not colon or not port.isdigit():
        return authority.rstrip(":").strip("[]"), 443 if is_tls else 80
    return host.strip("[]"), int(port)
