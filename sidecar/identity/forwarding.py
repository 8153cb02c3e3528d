"""Header fields about the caller for the upstream, in place of those that a client sends under the same names.

Rules:

1. A client's field is dropped if its name is one of these or a twin of one (`sidecar.core.message.fold`), also in the
   trailers, on every route to an upstream that gets such fields from any route.
2. A value is visible ASCII.  Other characters, `%` included, are percent-encoded (RFC 3986 2.1), so that no value can
   end its field or begin another one.  So are spaces at its ends, which fields lose: two callers have different values.
3. A list is joined with commas, and any other value that is no text is written as JSON.  A missing claim sends no
   field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import quote

from sidecar.core.exchange import Caller, Exchange
from sidecar.core.message import SEPARATORS, fold
from sidecar.identity.credentials import AUTHORIZATION

VISIBLE: Final = "".join(chr(octet) for octet in range(0x20, 0x7F) if chr(octet) not in "%,")
"""Characters of a value that are not encoded."""
SEPARATOR: Final = b"[%b]" % re.escape(SEPARATORS)
LONGEST: Final = 4096
"""Longest value in bytes; a longer claim is left out."""


class TokenLines(Protocol):
    """Source of the field line with a signed token about a caller (`stages.authenticate.caller_token`)."""

    def line(self, caller: Caller) -> tuple[bytes, float]:
        """Return the line, and the instant from which a new one is due."""


class Forwarding:
    """Fields about the caller that one route sends to its upstream."""

    __slots__ = ("_answered", "_caller", "_claims", "_names", "_pattern", "_token", "_words", "drops_authorization")

    def __init__(
        self,
        owned: Iterable[bytes],
        caller: bytes = b"",
        claims: Mapping[str, bytes] | None = None,
        dropped: Iterable[bytes] = (),
        answered: Mapping[str, Iterable[bytes]] | None = None,
        token: TokenLines | None = None,
    ) -> None:
        """`owned` are names that clients must not send, `dropped` those of credentials that do not go on; `caller` and
        `claims` are the names of the fields for the caller's ID and for claims, and `answered` has the names of fields
        that go on as an external server has sent them, by the name of its identity; `token` makes signed tokens."""
        self._token = token
        self._answered = dict(answered or {})
        self._caller = caller
        self._claims = dict(claims or {})
        names = {fold(name) for name in owned} | {fold(name) for name in dropped}
        self._names = frozenset(names)
        self.drops_authorization = AUTHORIZATION in names
        """True if the field Authorization does not go on."""
        self._words = tuple({max(name.split(b"-"), key=len) for name in names})
        """A part of each name; lines without any of them need no search."""
        any_ = b"|".join(SEPARATOR.join(map(re.escape, name.split(b"-"))) for name in sorted(names))
        self._pattern = re.compile(b"\n(?:%b):[^\n]*" % any_, re.IGNORECASE) if any_ else None

    def is_clean(self, lower: bytes) -> bool:
        """True if field lines in lower case have none of the names to drop; False if they may have one."""
        for word in self._words:  # noqa: SIM110 - a generator costs more than the search
            if lower.find(word) >= 0:
                return False
        return True

    def bar_trailers(self, x: Exchange) -> None:
        """Drop the same names from the trailers of a request."""
        if x.stream is not None and self._names:
            x.stream.bar_trailers(self._names)

    def apply(self, x: Exchange, caller: Caller | None, lines: bytes, lower: bytes) -> None:
        """Replace the fields of a request whose lines are `lines`, in lower case `lower`; None: only drop them."""
        own = b"" if caller is None else self.lines_of(caller)
        if self._pattern is not None:
            for word in self._words:
                if lower.find(word) >= 0:
                    x.lines = self._pattern.sub(b"", b"\n" + lines)[1:] + own
                    break
            else:
                if own:
                    x.add_lines(own)
            self.bar_trailers(x)
        elif own:
            x.add_lines(own)

    def lines_of(self, caller: Caller) -> bytes:
        """Return the field lines about a caller."""
        known = caller.forwarded
        if known is None or known[0] is not self:
            known = (self, self._write(caller))
            caller.forwarded = known
        return known[1] if self._token is None else known[1] + self._token.line(caller)[0]

    @property
    def is_renewed(self) -> bool:
        """True if `lines_of` returns other lines for the same caller after a while."""
        return self._token is not None

    def _write(self, caller: Caller) -> bytes:
        found: list[tuple[bytes, Any]] = [(self._caller, caller.id)] if self._caller else []
        found += [(name, caller.claims[claim]) for claim, name in self._claims.items() if claim in caller.claims]
        found += [(name, caller.claims.get(name.decode())) for name in self._answered.get(caller.identity, ())]
        return b"".join([b"%b: %b\r\n" % (name, text) for name, value in found if (text := encoded(value))])


def encoded(value: Any) -> bytes:
    """Return a value as the value of a header field; empty if it is None, empty or too long."""
    if value is None:
        return b""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        text = ",".join([quote(each, safe=VISIBLE, errors="surrogatepass") for each in value])
    elif isinstance(value, str):
        text = quote(value, safe=VISIBLE + ",", errors="surrogatepass")
    else:
        text = json.dumps(value, separators=(",", ":"))
    core = text.strip(" ")
    if len(core) < len(text):
        before = len(text) - len(text.lstrip(" "))
        text = "%20" * before + core + "%20" * (len(text) - before - len(core))
    return text.encode() if len(text) <= LONGEST else b""
