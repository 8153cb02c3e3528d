"""Header fields of HTTP/2: each is checked once, when it is first decoded, and kept as an HTTP/1.1 field line too.

Rules (RFC 9113 8.2 and 8.3): names are lower-case tokens; values have no control characters, and no white space around
them; fields of one connection are none; pseudo-headers are a closed list.  The octets are those of the HTTP/1.1 grammar
(`core/message.py`).
"""

from __future__ import annotations

from typing import Final

from sidecar.core.message import TOKEN_OCTETS, VALUE_OCTETS

ORDINARY: Final = 0
PSEUDO: Final = 1
HOST: Final = 2
CONTENT_LENGTH: Final = 3
COOKIE: Final = 4
TE: Final = 5
INVALID: Final = 6
OVERHEAD: Final = 32
"""Bytes that count for each field beside its text (RFC 7541 4.1, RFC 9113 6.5.2)."""
NAME_OCTETS: Final = TOKEN_OCTETS.translate(None, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
"""Fields that make a message malformed (RFC 9113 8.2.2)."""
KINDS: Final = {b"host": HOST, b"content-length": CONTENT_LENGTH, b"cookie": COOKIE, b"te": TE}
PSEUDO_NAMES: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol", b":status"))
"""Pseudo-headers of RFC 9113 8.3 and RFC 8441 4."""


class Field:
    """Name and value of a field."""

    __slots__ = ("error", "kind", "line", "name", "size", "value")

    def __init__(self, name: bytes, value: bytes) -> None:
        self.name = name
        self.value = value
        self.size = len(name) + len(value) + OVERHEAD
        """Bytes that it counts for."""
        self.line = b""
        """HTTP/1.1 field line with its CRLF; empty for what is none."""
        self.error = ""
        """Words on why it makes a message malformed; empty for a valid field."""
        self.kind = self._judge()

    def _judge(self) -> int:
        """Check the field, and return its kind."""
        name, value = self.name, self.value
        if value and (value.translate(None, VALUE_OCTETS) or value[0] in b" \t" or value[-1] in b" \t"):
            self.error = "a value has a control character, or white space around it"
            return INVALID
        if name[:1] == b":":
            if name not in PSEUDO_NAMES:
                self.error = "a pseudo-header is not known"
                return INVALID
            return PSEUDO
        if not name or name.translate(None, NAME_OCTETS):
            self.error = "a name is no lower-case token"
            return INVALID
        if name in CONNECTION_FIELDS:
            self.error = f"{name.decode()} is a field of HTTP/1.1 connections"
            return INVALID
        kind = KINDS.get(name, ORDINARY)
        if kind == TE and value.lower() != b"trailers":
            self.error = "te says more than trailers"
            return INVALID
        self.line = b"%b: %b\r\n" % (name, value)
        return kind
