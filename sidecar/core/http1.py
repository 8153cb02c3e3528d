"""HTTP/1.1 message syntax (RFC 9112): one strict grammar for both sides of the proxy, without I/O.

Rules:

1. A message that does not match the ABNF is not forwarded.  Optional leniency of the RFC is not implemented: bare LF,
   line folding, white space before a colon, repeated Content-Length, Transfer-Encoding beside Content-Length, and
   transfer codings other than `chunked` are errors.
2. Matching takes linear time: quantifiers are possessive, or the next part begins with other characters.
3. Groups have no possessive quantifiers: CPython before 3.11.5 matches those wrongly (gh-106052).
4. A pattern is never applied to bytes beyond their limit, because backtracking in a repeated group takes memory.

`docs/design/grammar.md` says why it is strict and why it is not llhttp.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.core.message import CLAIM_PREFIXES, CLAIMS, FIELD_LINE, TOKEN, Headers, fold, parse_fields

FIELDS: Final = rb"(?:" + FIELD_LINE + rb"\r\n)*"
TARGET: Final = rb"[\x21-\x22\x24-\x7e]++"
"""Characters of a request target (RFC 9112 3.2), and some more that are not allowed in a URI."""
REQUEST: Final = re.compile(rb"(" + TOKEN + rb") (" + TARGET + rb") HTTP/(\d)\.(\d)(\r\n)" + FIELDS + rb"\r\n")
RESPONSE: Final = re.compile(rb"HTTP/1\.(\d) ([1-5]\d\d)(?: [\t\x20-\x7e\x80-\xff]*+)?(\r\n)" + FIELDS + rb"\r\n")
TRAILERS: Final = re.compile(rb"(" + FIELDS + rb")\r\n")
QUOTED: Final = rb'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e])*"'
EXTENSION: Final = rb"[ \t]*+;[ \t]*+" + TOKEN + rb"(?:[ \t]*+=[ \t]*+(?:" + TOKEN + rb"|" + QUOTED + rb"))?"
CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15}+)(?:" + EXTENSION + rb")*\r\n")
"""Size line of a chunk.  Its extensions (RFC 9112 7.1.1) are checked and dropped."""
HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~!$&'()*+,;=%-]{1,255})(?::\d{0,5})?")
"""Host and port (RFC 3986 3.2.2, 3.2.3) without user information; an empty host is invalid (RFC 9110 4.2.1)."""
LAYERED: Final = re.compile(rb"(?:(?!chunked[ \t]*,)" + TOKEN + rb"[ \t]*+,[ \t]*+)+chunked")
"""List of transfer codings with `chunked` as the last member only (RFC 9112 6.1)."""
NO_METHOD: Final = re.compile(rb"(?!" + TOKEN + rb")[^\r]")
"""First byte of a message that begins with neither a method nor an empty line."""
REQUEST_LINE: Final = re.compile(TOKEN + rb" " + TARGET + rb" HTTP/\d\.\d")
BARE: Final = re.compile(rb"\r(?!\n)(?!\Z)|(?<!\r)\n")
"""CR or LF that is not part of a CRLF."""

MAX_CHUNK_LINE: Final = 1024
"""Longest size line of a chunk, in bytes, extensions included."""
CHUNKS_A_TURN: Final = 4096
"""Most chunks that one call decodes.  One read may hold tens of thousands, and other connections wait meanwhile."""
MAX_TRAILERS: Final = 8192
"""Longest trailer section, in bytes."""
LONG_HEAD: Final = 1024
"""Bytes up to which a head needs no check of the limits below: it cannot contain enough parts to exceed one."""
MAX_FIELDS: Final = 256
"""Most fields of one head or trailer section; a head of `LONG_HEAD` bytes cannot have more."""
MAX_SEGMENTS: Final = 1024
"""Most segments of a path."""
FEW_PARAMETERS: Final = 512
"""Number of query parameters that is allowed whatever the configured limit."""
FEW_MEMBERS: Final = 1024
"""Number of list members and parameters in all fields that is allowed whatever the configured limit."""
MAX_MEMBERS: Final = 2048
"""Most list members and parameters in all fields of a response."""


FORBIDDEN_TRAILERS: Final = frozenset(
    (
        b"transfer-encoding", b"content-length", b"host", b"connection", b"keep-alive", b"proxy-connection", b"te",
        b"trailer", b"upgrade", b"max-forwards", b"expect", b"range", b"cache-control", b"pragma", b"age", b"date",
        b"expires", b"vary", b"location", b"retry-after", b"authorization", b"proxy-authorization", b"www-authenticate",
        b"proxy-authenticate", b"set-cookie", b"cookie", b"content-encoding", b"content-type", b"content-range", b"via",
        b"x-request-id", b"x-criticality", b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms", b"grpc-timeout",
        b"x-sidecar-attempt", b"x-sidecar-hops", b"x-sidecar-reason", b"x-sidecar-fallback", b"if-match",
        b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"x-api-key",
    )
).union(CLAIMS)  # fmt: skip
"""Folded names of fields that are not allowed in trailers, because framing, routing, authentication or the content
depend on them (RFC 9110 6.5.1)."""


class Invalid(Exception):  # noqa: N818 - names the state of a message, not an error of the sidecar
    """Error of a message that is not valid HTTP/1.1.  The connection that reads the message catches it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
        """Status of the response to an invalid request."""


def parse_request(data: bytes, limit: int, seen: int = 0) -> tuple[bytes, bytes, int, int, int] | None:
    """Return method, target, version, start of the fields and end of the head in `data`; None while it is incomplete.

    `limit` is the longest head in bytes.  An earlier call has found no end of the head in the first `seen` bytes, so
    that a head that arrives byte by byte takes linear time.  Raises `Invalid` with the status to answer.
    """
    match = None
    if not seen or data.find(b"\r\n\r\n", max(0, seen - 3)) >= 0:
        match = REQUEST.match(data, 0, limit)
    if match is None:
        if data.find(b"\r\n\r\n", max(0, seen - 3), limit) < 0:
            if len(data) > limit:
                raise Invalid("the request head is too large", 431)
            if BARE.search(data, max(0, seen - 1)):
                raise Invalid("a line ends in a bare CR or LF")
            line_end = data.find(b"\r\n")
            if NO_METHOD.match(data) or (
                line_end >= max(0, seen - 1) and not REQUEST_LINE.fullmatch(data, 0, line_end)
            ):
                raise _diagnose_request(data)  # such as a TLS handshake, in which no end of a head would ever come
            return None
        raise _diagnose_request(data)
    method, target, major, minor, _ = match.groups()
    if major != b"1":
        raise Invalid("the version is neither HTTP/1.1 nor HTTP/1.0", 505)
    return method, target, 10 if minor == b"0" else 11, match.end(5), match.end()


def has_few_parts(data: bytes, start: int, end: int, fields: int) -> bool:
    """True if a long head has so few fields, parameters and list members that it exceeds no limit.

    The head has `fields` field lines, which are `data[start:end]`.
    """
    return (
        fields <= MAX_FIELDS
        and (start <= FEW_PARAMETERS or data.count(b"/", 0, start) + data.count(b"&", 0, start) < FEW_PARAMETERS)
        and data.count(b",", start, end) + data.count(b";", start, end) <= FEW_MEMBERS
    )


def check_target(target: bytes, max_parameters: int) -> None:
    """Raise `Invalid` for a target with too many segments or parameters: policies that parse it take time for each."""
    path, _, query = target.partition(b"?")
    if path.count(b"/") > MAX_SEGMENTS:
        raise Invalid(f"the path has more than {MAX_SEGMENTS} segments", 414)
    if query.count(b"&") >= max_parameters:
        raise Invalid(f"the query has more than {max_parameters} parameters", 414)


def check_fields(data: bytes, start: int, end: int, max_fields: int, max_members: int) -> None:
    """Raise `Invalid` if the fields `data[start:end]` are too many, or have too many list members and parameters.

    Commas and semicolons count in every field: telling which fields are lists would cost more than counting does.
    """
    if data.count(b"\r\n", start, end) > max_fields:
        raise Invalid(f"there are more than {max_fields} fields", 431)
    if data.count(b",", start, end) + data.count(b";", start, end) > max_members:
        raise Invalid(f"the fields have more than {max_members} list members and parameters", 431)


def _diagnose_request(data: bytes) -> Invalid:
    line, _, rest = data.partition(b"\r\n")
    match = re.fullmatch(rb"(\S+) (\S+) HTTP/(\d)\.(\d)", line)
    if match is None or not re.fullmatch(TOKEN, match[1]) or not re.fullmatch(TARGET, match[2]):
        return Invalid("the request line is not `method target HTTP/1.1`")
    return _diagnose_fields(rest)


def _diagnose_fields(block: bytes) -> Invalid:
    for line in block.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            return Invalid("a header line is folded")
        name, colon, value = line.partition(b":")
        if not colon:
            return Invalid("a header line has no colon")
        if not re.fullmatch(TOKEN, name):
            return Invalid("a header name has a character that is not allowed")
        if not re.fullmatch(rb"[\t\x20-\x7e\x80-\xff]*", value):
            return Invalid("a header value has a control character")
    return Invalid("the head is not valid HTTP")


def parse_response(data: bytes, limit: int, seen: int = 0) -> tuple[int, int, int, int] | None:
    """Return status, version, start of the fields and end of the head in `data`; None while it is incomplete.

    Arguments are those of `parse_request`.  Raises `Invalid`.
    """
    match = None
    if not seen or data.find(b"\r\n\r\n", max(0, seen - 3)) >= 0:
        match = RESPONSE.match(data, 0, limit)
    if match is None:
        if data.find(b"\r\n\r\n", max(0, seen - 3), limit) < 0:
            if len(data) > limit:
                raise Invalid("the response head is too large")
            if BARE.search(data, max(0, seen - 1)) or not b"HTTP/1."[: len(data)] == data[:7]:
                raise Invalid("the response does not begin with an HTTP/1.1 status line")
            return None
        line, _, rest = data.partition(b"\r\n")
        if re.fullmatch(rb"HTTP/1\.\d [06-9]\d\d(?: .*)?", line):  # RFC 9110 15: to be treated as a 5xx
            raise Invalid(f"the status {int(line[9:12])} is not valid: it must be from 100 to 599")
        if not re.fullmatch(rb"HTTP/1\.\d [1-5]\d\d(?: [\t\x20-\x7e\x80-\xff]*)?", line):
            raise Invalid("the status line is not `HTTP/1.1 status reason`")
        raise _diagnose_fields(rest)
    minor, status, _ = match.groups()
    return int(status), 10 if minor == b"0" else 11, match.end(3), match.end()


CHUNKED: Final = -1
"""Length of a body with `Transfer-Encoding: chunked`."""


def body_length(fields: Headers, version: int) -> int | None:
    """Return the length of the body by the fields of its message (RFC 9112 6.3): bytes, `CHUNKED`, or None if they
    state neither.

    `version` is 10 or 11.  Raises `Invalid`.
    """
    length: int | None = None
    chunked = False
    coding = b""
    for name, value in fields:
        if name == b"content-length":
            if length is not None:
                raise Invalid("Content-Length is repeated")
            if not value.isdigit() or len(value) > 18:
                raise Invalid("Content-Length is not one number")
            length = int(value)
        elif name == b"transfer-encoding":
            if chunked:
                raise Invalid("Transfer-Encoding is repeated")
            coding = value.lower()
            chunked = True
    if chunked:
        if length is not None:
            raise Invalid("Transfer-Encoding stands beside Content-Length")
        if version < 11:
            raise Invalid("Transfer-Encoding in an HTTP/1.0 message")
        if coding != b"chunked":  # 501 only if the end of the message is known (RFC 9112 6.1, 6.3)
            raise Invalid("the only transfer coding understood is chunked", 501 if LAYERED.fullmatch(coding) else 400)
        return CHUNKED
    return length


SIZE, DATA, DATA_END, TRAILER = range(4)


class ChunkedDecoder:
    """Incremental decoder of a chunked body (RFC 9112 7.1)."""

    __slots__ = ("_buffer", "_left", "_seen", "_state", "done", "is_behind", "rest", "trailers")

    def __init__(self) -> None:
        self._buffer = b""
        self._seen = 0
        """Bytes of the trailer section in which an earlier call has found no end."""
        self._left = 0
        """Bytes of the current chunk that have yet to arrive."""
        self._state = SIZE
        self.done = False
        """True once the body is complete."""
        self.is_behind = False
        """True if the last call decoded only a part of its bytes (`CHUNKS_A_TURN`).  The next call continues with it,
        and may bring no new bytes."""
        self.rest = b""
        """Bytes that followed the body; empty until it is complete."""
        self.trailers: Headers = []

    def feed(self, data: bytes) -> list[bytes]:
        """Decode the next bytes of the message and return pieces of the content.  Raises `Invalid`."""
        pieces: list[bytes] = []
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        self.is_behind = False
        position, size, turn = 0, len(data), CHUNKS_A_TURN
        while True:
            if self._state == DATA:
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                if piece:
                    pieces.append(piece)
                if self._left:
                    return pieces
                self._state = DATA_END
            if self._state == DATA_END:
                if size - position < 2:
                    if data[position:size] not in (b"", b"\r"):
                        raise Invalid("a chunk is longer than its size")
                    break
                if data[position : position + 2] != b"\r\n":
                    raise Invalid("a chunk is longer than its size")
                position += 2
                self._state = SIZE
            if self._state == SIZE:
                if turn == 0:
                    self.is_behind = position < size
                    break
                turn -= 1
                match = CHUNK.match(data, position, position + MAX_CHUNK_LINE)
                if match is None:
                    line = data[position : position + MAX_CHUNK_LINE]
                    if len(line) == MAX_CHUNK_LINE or b"\n" in line or re.match(rb"[^0-9A-Fa-f]|[0-9A-Fa-f]{16}", line):
                        raise Invalid("a chunk size line is not valid, or too long")
                    if BARE.search(line):
                        raise Invalid("a chunk size line has a bare CR")
                    break
                position = match.end()
                self._left = int(match[1], 16)
                self._state = DATA if self._left else TRAILER
            if self._state == TRAILER:
                if data.startswith(b"\r\n", position):  # no trailers, as nearly always
                    return self._finish(data, position + 2, b"", pieces)
                if data.find(b"\r\n\r\n", position) >= 0:
                    match = TRAILERS.match(data, position, position + MAX_TRAILERS)
                    if match is None:
                        raise Invalid("the trailers are too large or not valid")
                    check_fields(data, position, match.end(1), MAX_FIELDS, MAX_MEMBERS)
                    return self._finish(data, match.end(), match[1], pieces)
                if size - position > MAX_TRAILERS:
                    raise Invalid("the trailers are too large")
                if BARE.search(data, position + max(0, self._seen - 1)):
                    raise Invalid("a trailer line ends in a bare CR or LF")
                self._seen = size - position
                break
        self._buffer = data[position:]
        return pieces

    def _finish(self, data: bytes, position: int, block: bytes, pieces: list[bytes]) -> list[bytes]:
        self.done = True
        self.rest = data[position:]
        self.trailers = parse_fields(block)
        return pieces


def trailer_block(trailers: Headers) -> bytes:
    """Return the end of a chunked body: the last chunk, the trailers that are allowed, and the empty line."""
    if not trailers:
        return b"0\r\n\r\n"
    lines = [b"%b: %b\r\n" % field for field in trailers if can_be_trailer(field[0])]
    return b"0\r\n%b\r\n" % b"".join(lines)


def can_be_trailer(name: bytes) -> bool:
    """True if a field is allowed in trailers, even from a trusted peer.  `name` is in lower case."""
    folded = fold(name)
    return folded not in FORBIDDEN_TRAILERS and not folded.startswith(CLAIM_PREFIXES)
