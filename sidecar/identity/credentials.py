"""Credentials in a request: bearer tokens (RFC 6750 2.1), and keys in a header field, a parameter or a cookie.

A request with two credentials in one place is ambiguous, because the service might read the other one.
"""

from __future__ import annotations

from typing import Any, Final

from sidecar.core.exchange import Exchange
from sidecar.core.uri import parameter
from sidecar.identity.verdict import Rejection

AUTHORIZATION: Final = b"authorization"
MARK: Final = b"\nauthorization:"
SCHEME: Final = b" bearer "
SPACE: Final = 0x20
USUAL: Final = b"uthorization: Bearer "
"""Usual spelling of the field's name and the scheme, without the first letter, which is written in either case."""
NAMES: Final = (b"Authorization", b"authorization")
LINE_FEED: Final = 0x0A
TAIL: Final = 40
"""Last bytes of a token by which it is found; most of a signature, so that tokens seldom have them in common."""
MOST_LINES: Final = 256
"""Most field lines that are kept for one route."""
LONGEST_LINES: Final = 4096
"""Longest field lines in bytes that are kept."""
REQUEST_ID: Final = b"x-request-id: "
STRIDE: Final = 16
"""Distance in bytes of the octets by which field lines are looked up."""
NOTHING: Final[tuple[bytes | None, bytes, object]] = (None, b"", None)
"""Lines that none are equal to."""
AMBIGUOUS: Final = Rejection("the request has more than one credential of a kind", is_ambiguous=True)


def field_value(name: bytes, lines: bytes, lower: bytes) -> bytes | Rejection | None:
    """Return the value of a field, `AMBIGUOUS` if it has several lines, or None if it is absent."""
    mark = b"\n%b:" % name
    at = lower.find(mark)
    if at < 0:
        return None
    if lower.find(mark, at + 1) >= 0:
        return AMBIGUOUS
    start = at + len(mark) - 1  # `lower` has one byte more at its start
    return lines[start : lines.index(b"\r\n", start)].strip(b" \t")


def bearer_token(lines: bytes, lower: bytes) -> bytes | Rejection | None:
    """Return the token of `Authorization: Bearer`; None if there is no such field, or it has another scheme."""
    at = lower.find(MARK)
    if at < 0:
        return None
    start = at + len(MARK) - 1 + len(SCHEME)
    if lower.startswith(SCHEME, at + len(MARK)) and lines[start] != SPACE:
        end = lines.find(b"\n", start) - 1
        if lower.find(MARK, end) < 0:
            return lines[start:end].rstrip(b" \t")  # the usual spelling, in fewer steps
    value = field_value(AUTHORIZATION, lines, lower)
    if not isinstance(value, bytes):
        return value
    if value[:7].lower() != b"bearer ":
        return b"" if value.lower() == b"bearer" else None
    return value[7:].strip(b" ")


def token_tail(lines: bytes) -> bytes | None:
    """Return the last `TAIL` bytes of the token in an Authorization line of the usual spelling; None if there is none.

    The caller compares the whole token, and checks that there is no second line.
    """
    at = lines.find(USUAL) - 1
    if at < 0 or not lines.startswith(NAMES, at) or (at and lines[at - 1] != LINE_FEED):
        return None
    end = lines.find(b"\n", at) - 1
    return lines[end - TAIL : end] if end - TAIL > at + len(USUAL) else None


class KnownLines:
    """Table of field lines with an accepted token, and of those that go on in their place.

    At most `MOST_LINES` are kept, and one for each token.  They are looked up by few of their octets, since a hash of
    all costs more than the comparison.  There is the same table in C, which forgets one for another at the same place.
    """

    __slots__ = ("_found", "_kept", "_last", "_latest")

    def __init__(self, found: list[Any]) -> None:
        """`found` is a list of one, which `find` sets."""
        self._found = found
        self._kept: dict[bytes, tuple[bytes | None, bytes, object]] = {}
        """Lines up to the value of X-Request-Id, with those in their place and their entry, by octets of theirs."""
        self._last = NOTHING
        """Lines that were found last: callers often ask again before another one does."""
        self._latest: dict[bytes, bytes] = {}
        """Octets of lines that are kept, by the `token_tail` of their token."""

    def find(self, lines: bytes, request_id: bytes) -> bytes | None:
        """Return the lines that go on in place of `lines`, and set `found` to their entry; None if they are not known.

        The last of them is X-Request-Id with this value, which goes on as it is.
        """
        rest = -2 - len(request_id)
        known = lines[:rest]
        kept = self._last
        if kept[0] != known:
            kept = self._kept.get(known[::STRIDE], NOTHING)
            if kept[0] != known:
                return None
            self._last = kept
        self._found[0] = kept[2]
        return kept[1] + lines[rest:]

    def keep(self, known: bytes, others: bytes, entry: object) -> None:
        """Keep the lines that go on in place of `known`."""
        tail, latest = token_tail(known), self._latest
        if tail is None:
            return
        self._last = NOTHING
        if tail not in latest and len(latest) >= MOST_LINES:
            self._kept.pop(latest.pop(next(iter(latest))), None)
        if (before := latest.pop(tail, None)) is not None:
            self._kept.pop(before, None)
        known += REQUEST_ID
        latest[tail] = octets = known[::STRIDE]
        self._kept[octets] = (known, others + REQUEST_ID, entry)


def known_lines(found: list[Any]) -> Any:
    """Return the fastest table of field lines: the one in C if it is built."""
    try:
        from sidecar.engine import head
    except ImportError:
        return KnownLines(found)
    return head.KnownLines(found)


def parameter_value(x: Exchange, name: bytes) -> bytes | Rejection | None:
    """Return the value of a query parameter, `AMBIGUOUS` if it occurs more than once, or None if it is absent."""
    if x.query is None:
        return None
    found = parameter(x.query, name)
    return AMBIGUOUS if len(found) > 1 else found[0] if found else None


def cookie_value(name: bytes, lines: bytes, lower: bytes) -> bytes | Rejection | None:
    """Return the value of a cookie (RFC 6265 4.2.1), `AMBIGUOUS` if it occurs more than once, or None if absent."""
    found: list[bytes] = []
    at = lower.find(b"\ncookie:")
    while at >= 0:
        start = at + 7
        for pair in lines[start : lines.index(b"\r\n", start)].split(b";"):
            key, equals, value = pair.strip(b" \t").partition(b"=")
            if equals and key == name:
                found.append(value.strip(b'"'))
        at = lower.find(b"\ncookie:", at + 1)
    return AMBIGUOUS if len(found) > 1 else found[0] if found else None
