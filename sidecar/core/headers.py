"""Header lists: look-ups, and the fields that belong to one connection and go no further (RFC 9110 7.6.1)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import formatdate, parsedate_tz

from sidecar.core.message import Headers

HOP_BY_HOP = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te",
        b"trailer", b"transfer-encoding", b"upgrade",
    )
)  # fmt: skip
"""Never forwarded; what `Connection` names besides is dropped too."""
FOR_CACHES = frozenset(
    (
        b"authorization", b"cache-control", b"cookie", b"if-match", b"if-modified-since", b"if-none-match", b"if-range",
        b"if-unmodified-since", b"pragma", b"range",
    )
)  # fmt: skip
"""Fields of a request that have a say in how a cache answers it, or in what it stores (RFC 9111)."""
LONGEST_WAIT = 1e9
"""Seconds: what a longer `Retry-After` counts as."""
LONGEST_DATE = 64
"""Bytes: no form of a date comes near, and the standard library's parser is not made for long ones."""


def get(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a field."""
    for key, value in headers:
        if key == name:
            return value
    return None


def get_all(headers: Headers, name: bytes) -> list[bytes]:
    """All values of a field, in order."""
    return [value for key, value in headers if key == name]


def without(headers: Headers, *names: bytes) -> Headers:
    """A copy that lacks the named fields."""
    return [pair for pair in headers if pair[0] not in names]


def tokens(headers: Headers, name: bytes) -> list[bytes]:
    """The members of a comma-separated list field, all its lines joined, in lower case (RFC 9110 5.6.1)."""
    return [
        token
        for key, value in headers
        if key == name
        for part in value.split(b",")
        if (token := part.strip(b" \t").lower())
    ]


def http_date(value: bytes | None) -> float | None:
    """Seconds since 1970 of an HTTP-date in any of the three forms of RFC 9110 5.6.7; None where it is none."""
    if value is None or len(value) > LONGEST_DATE:
        return None
    date = parsedate_tz(value.decode("latin-1"))
    if date is None:
        return None
    try:
        return datetime(*date[:6], tzinfo=UTC).timestamp() - (date[9] or 0)
    except (ValueError, OverflowError):  # the parser lets through numbers that no calendar has
        return None


def write_http_date(wall: float) -> bytes:
    """An IMF-fixdate (RFC 9110 5.6.7) for seconds since 1970."""
    return formatdate(wall, usegmt=True).encode()


def retry_after(headers: Headers, wall: float) -> float | None:
    """Seconds of `Retry-After` (RFC 9110 10.2.3), zero where its date is past; None where it is absent or invalid.

    A date is read against the response's own `Date`, so that the two clocks need not agree; without one against `wall`.
    """
    value = get(headers, b"retry-after")
    if value is None:
        return None
    if value.isdigit():
        return min(float(value), LONGEST_WAIT)
    when = http_date(value)
    if when is None:
        return None
    sent = http_date(get(headers, b"date"))
    return min(max(0.0, when - (wall if sent is None else sent)), LONGEST_WAIT)
