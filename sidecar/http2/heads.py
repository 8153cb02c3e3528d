"""Requests, responses and trailers from header blocks (RFC 9113 8.1 to 8.3), as strict as the grammar of HTTP/1.1.

Rules:

1. What is malformed has an `error`, and its stream is reset (RFC 9113 8.1.1).  What is valid but more than is allowed
   has a `refusal`, and is answered with its status, as over HTTP/1.1.
2. A request has one authority.  `:authority` and Host must be the same, without user information (8.3.1).
3. A path begins with a slash, or is `*` for OPTIONS.  No octet passes that `http1.TARGET` has not.
4. Cookies that came in pieces are one line again (8.2.3).
5. Fields are HTTP/1.1 lines: their reader does not see by which version they came.

A head belongs to its block, which may stand for many messages: nothing in it may be changed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sidecar.core.http1 import HOST, TARGET, Invalid, check_fields, check_target
from sidecar.core.message import TOKEN
from sidecar.http2 import fields as kinds

if TYPE_CHECKING:
    from sidecar.http2.hpack import Block
    from sidecar.http2.limits import Limits

METHOD: Final = re.compile(TOKEN)
PATH: Final = re.compile(rb"(?=/)" + TARGET)
STATUS: Final = re.compile(rb"[1-5]\d\d")
LENGTH: Final = re.compile(rb"\d{1,18}")
SWITCHING: Final = 101
BITS: Final = {b":method": 1, b":scheme": 2, b":authority": 4, b":path": 8, b":protocol": 16, b":status": 32}
REQUEST: Final = BITS[b":method"] | BITS[b":scheme"] | BITS[b":path"]
"""Pseudo-header fields of every request except a plain CONNECT."""
AUTHORITY: Final = BITS[b":authority"]
PROTOCOL: Final = BITS[b":protocol"]


class Head:
    """Head of a message, or its trailers."""

    __slots__ = (
        "authority", "content_length", "derived", "error", "lines", "method", "path", "protocol", "refusal", "scheme",
        "sensitive", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self.error = ""
        """Words on why the message is malformed; empty for a valid one, and only then the rest counts."""
        self.refusal: Invalid | None = None
        """Reason and status of the answer to a request that is not served; None for one that is."""
        self.method = self.scheme = self.authority = self.path = b""
        self.protocol = b""
        """Protocol of an extended CONNECT (RFC 8441); empty for any other request."""
        self.status = 0
        self.lines = b""
        """Fields as HTTP/1.1 lines, each with its CRLF.  A request's begin with its Host, unless it is too large."""
        self.content_length = -1
        """Bytes that the content must have; -1 if it is not said."""
        self.sensitive: frozenset[bytes] = frozenset()
        """Names of fields that must be sent on as never indexed (`Block.sensitive`)."""
        self.derived: object = None
        """Result that the reader of this head has derived from it, kept for the next block with the same bytes."""


class Parts:
    """Pseudo-headers and fields of a block, before they are judged as a kind of message."""

    __slots__ = ("cookies", "error", "hosts", "length", "lines", "pseudo", "seen")

    def __init__(self, block: Block) -> None:
        self.error = ""
        self.seen = 0
        """`BITS` of the pseudo-headers."""
        self.pseudo: dict[bytes, bytes] = {}
        self.hosts: list[bytes] = []
        self.length = -1
        lines: list[bytes] = []
        cookies: list[bytes] = []
        has_fields = has_cookies = False
        for field in block.fields:
            kind = field.kind
            if kind == kinds.ORDINARY or kind == kinds.TE:
                lines.append(field.line)
                has_fields = True
                continue
            if kind == kinds.PSEUDO:
                bit = BITS[field.name]
                if has_fields:
                    self.error = "a pseudo-header follows a field"
                if self.seen & bit:
                    self.error = "a pseudo-header is repeated"
                self.seen |= bit
                self.pseudo[field.name] = field.value
                continue
            has_fields = True
            if kind == kinds.COOKIE:
                has_cookies = True
                if field.value:
                    cookies.append(field.value)
            elif kind == kinds.HOST:
                self.hosts.append(field.value)
            elif kind == kinds.CONTENT_LENGTH:
                if self.length >= 0 or LENGTH.fullmatch(field.value) is None:
                    self.error = "content-length is repeated, or not one number"
                else:
                    self.length = int(field.value)
                    lines.append(field.line)
            else:
                self.error = field.error
        if has_cookies:
            lines.append(b"cookie: %b\r\n" % b"; ".join(cookies))
        self.lines = b"".join(lines)


def request_of(block: Block, limits: Limits) -> Head:
    """Return the block as a request."""
    head = block.request
    if head is None:
        head = block.request = _read_request(block, limits)
    return head


def _read_request(block: Block, limits: Limits) -> Head:
    head = Head()
    head.sensitive = block.sensitive
    parts = Parts(block)
    if parts.error:
        head.error = parts.error
        return head
    pseudo = parts.pseudo
    head.method = pseudo.get(b":method", b"")
    head.scheme = pseudo.get(b":scheme", b"").lower()
    head.path = pseudo.get(b":path", b"")
    head.protocol = pseudo.get(b":protocol", b"")
    head.content_length = parts.length
    if block.is_too_large:
        head.lines = parts.lines
        head.refusal = Invalid("the request head is too large", 431)
        return head
    head.error = _judge_request(head, parts, limits)
    if head.error:
        return head
    head.lines = b"host: %b\r\n%b" % (head.authority, parts.lines)
    if head.method == b"CONNECT" and not head.protocol:
        head.refusal = Invalid("CONNECT is not served here", 501)
        return head
    try:
        check_target(head.path, limits.max_query_parameters)
        check_fields(head.lines, 0, len(head.lines), limits.max_fields, limits.max_list_members)
    except Invalid as refusal:
        head.refusal = refusal
    return head


def _judge_request(head: Head, parts: Parts, limits: Limits) -> str:
    """Set the authority of a request, and return why it is malformed; empty if it is not."""
    seen = parts.seen
    if METHOD.fullmatch(head.method) is None:
        return ":method is missing, or no token"
    if len(parts.hosts) > 1:
        return "there is more than one Host"
    if seen & AUTHORITY:
        head.authority = parts.pseudo[b":authority"]
        if parts.hosts and parts.hosts[0] != head.authority:
            return "Host is not :authority"
    elif parts.hosts:
        head.authority = parts.hosts[0]
    if HOST.fullmatch(head.authority) is None:
        return "the authority is missing, or not a host name"
    if head.method == b"CONNECT" and not seen & PROTOCOL:
        return "" if seen == BITS[b":method"] | AUTHORITY else "CONNECT needs :authority, and nothing else"
    if seen & ~(AUTHORITY | PROTOCOL) != REQUEST:
        return "a request needs :method, :scheme and :path, and nothing else"
    if seen & PROTOCOL and not (
        limits.allows_connect and head.method == b"CONNECT" and seen & AUTHORITY and METHOD.fullmatch(head.protocol)
    ):
        return ":protocol is not allowed here"
    if head.scheme not in (b"http", b"https"):
        return ":scheme is neither http nor https"
    if PATH.fullmatch(head.path) is None and not (head.path == b"*" and head.method == b"OPTIONS"):
        return ":path does not begin with a slash, or has an octet that is not allowed"
    return ""


def response_of(block: Block, limits: Limits) -> Head:
    """Return the block as a response, interim ones included."""
    head = block.response
    if head is None:
        head = block.response = _read_response(block, limits)
    return head


def _read_response(block: Block, limits: Limits) -> Head:
    head = Head()
    head.sensitive = block.sensitive
    parts = Parts(block)
    head.content_length = parts.length
    head.lines = parts.lines
    status = parts.pseudo.get(b":status", b"")
    if parts.error or block.is_too_large:
        head.error = parts.error or "the response head is too large"
    elif parts.seen != BITS[b":status"] or STATUS.fullmatch(status) is None:
        head.error = "a response needs :status from 100 to 599, and nothing else"
    else:
        head.status = int(status)
        if head.status == SWITCHING:
            head.error = "HTTP/2 has no 101"
        else:
            head.error = _too_many(head.lines, limits)
    return head


def trailers_of(block: Block, limits: Limits) -> Head:
    """Return the block as trailers."""
    head = block.trailers
    if head is None:
        head = block.trailers = Head()
        head.sensitive = block.sensitive
        parts = Parts(block)
        head.lines = parts.lines
        if parts.error or block.is_too_large:
            head.error = parts.error or "the trailers are too large"
        elif parts.seen:
            head.error = "trailers have a pseudo-header"
        else:
            head.error = _too_many(head.lines, limits)
    return head


def _too_many(lines: bytes, limits: Limits) -> str:
    """Return why fields are too many; empty if they are not."""
    try:
        check_fields(lines, 0, len(lines), limits.max_fields, limits.max_list_members)
    except Invalid as error:
        return str(error)
    return ""
