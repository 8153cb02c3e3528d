"""Times for which certificates and revocation lists in PEM files are valid (RFC 5280 4.1.2.5 and 5.1.2.4).

Only their dates are read, from files that OpenSSL accepts.  Python's `ssl` does not tell them, and a library for X.509
would take more memory than the rest of TLS.  What cannot be read has no end here.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final, NamedTuple

BLOCK: Final = re.compile(
    rb"-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE|X509 CRL)-----([A-Za-z0-9+/=\s]*)-----END \1-----"
)
CRL: Final = b"X509 CRL"
SEQUENCE, UTC_TIME, GENERALIZED_TIME = 0x30, 0x17, 0x18
TIMES: Final = (UTC_TIME, GENERALIZED_TIME)
NEVER: Final = float("inf")
LAST_SHARE: Final = 0.1
"""Share of its lifetime before its end from which a file is near its end, but no more than `LONGEST_LAST`."""
LONGEST_LAST: Final = 14 * 86400.0
MOST_LEFT: Final = 10 * 365 * 86400.0
"""Most seconds to an end that the metric tells, for a file without an end too."""
CONSEQUENCES: Final = {
    "cert": "peers refuse this certificate; renew it",
    "ca": "no server is trusted; replace its authorities",
    "client_ca": "every client is refused; replace its authorities",
    "crl": "every client is refused; replace it with lists whose nextUpdate is later",
}
"""Effect of a file that is not valid, and the remedy, by its setting."""


class Period(NamedTuple):
    """Time for which a file is valid, in Unix time."""

    since: float
    until: float
    """End; infinite without one."""

    @property
    def has_end(self) -> bool:
        """True if the file expires at all."""
        return self.until < NEVER

    @property
    def near(self) -> float:
        """Instant from which the end is near."""
        return self.until - min(LONGEST_LAST, (self.until - self.since) * LAST_SHARE)

    def state(self, now: float) -> str:
        """Return `early` before the period, `ending` near its end, `ended` after it, and else `valid`."""
        if now < self.since:
            return "early"
        if now >= self.until:
            return "ended"
        return "ending" if now >= self.near else "valid"

    def describe(self, path: str, setting: str, now: float) -> str:
        """Return what to know about a file, and what to do; empty while it is valid."""
        effect = CONSEQUENCES[setting]
        state = self.state(now)
        if state == "early":
            return f"{path} is not valid before {date(self.since)}, and until then {effect}, or mend the clock"
        if state == "ended":
            return f"{path} expired at {date(self.until)}, so {effect}"
        return f"{path} expires at {date(self.until)}, and then {effect}" if state == "ending" else ""


def read_period(setting: str, path: str) -> Period | None:
    """Return the time for which the file of a setting is valid; None if that cannot be told, as of a key.

    A certificate is valid while its whole chain is, revocation lists while there is one of each authority, and
    authorities while one of them is.
    """
    if setting not in CONSEQUENCES:
        return None
    try:
        with open(path, "rb") as file:
            content = file.read()
        periods = [_period(kind, b64decode(text)) for kind, text in BLOCK.findall(content)]
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    found = [(issuer, period) for issuer, period in periods if (setting == "crl") is (issuer != b"")]
    if not found:
        return None
    if setting == "cert":
        return Period(max(each.since for _, each in found), min(each.until for _, each in found))
    longest: dict[bytes, Period] = {}  # by the issuer of a list; all authorities are one
    for issuer, period in found:
        other = longest.get(issuer, period)
        longest[issuer] = Period(min(period.since, other.since), max(period.until, other.until))
    return min(longest.values(), key=lambda each: each.until)


def _period(kind: bytes, der: bytes) -> tuple[bytes, Period]:
    """Return the issuer of a revocation list, which is empty for a certificate, and the time of either.

    Raises `ValueError`, `IndexError` and `StopIteration`.
    """
    signed = _elements(next(_elements(der))[1])
    fields = list(_elements(next(signed)[1]))
    if kind == CRL:  # version, algorithm, issuer, thisUpdate, nextUpdate
        times = [_time(*each) for each in fields if each[0] in TIMES]
        issuer = [content for tag, content in fields if tag == SEQUENCE][1]
        return issuer, Period(times[0], times[1] if len(times) > 1 else NEVER)
    validity = [content for tag, content in fields if tag == SEQUENCE][2]  # after algorithm and issuer
    since, until = (_time(*each) for each in _elements(validity))
    return b"", Period(since, until)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the tag and the content of each element (X.690 8.1)."""
    at = 0
    while at < len(data):
        tag, size = data[at], data[at + 1]
        at += 2
        if size > 0x7F:  # so many bytes of the size follow
            count = size & 0x7F
            size = int.from_bytes(data[at : at + count], "big")
            at += count
        yield tag, data[at : at + size]
        at += size


def _time(tag: int, text: bytes) -> float:
    """Return a time in seconds of Unix time.  Raises `ValueError`."""
    digits = text.decode("ascii").removesuffix("Z")
    if tag == UTC_TIME:
        digits = ("20" if digits < "5" else "19") + digits
    month, day, hour, minute, second = (int(digits[at : at + 2]) for at in range(4, 14, 2))
    return datetime(int(digits[:4]), month, day, hour, minute, second, tzinfo=UTC).timestamp()


def date(seconds: float) -> str:
    """Return a time for people."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
