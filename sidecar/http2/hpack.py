"""HPACK (RFC 7541): header blocks to fields and back, without I/O.

Rules:

1. Errors are strict and end the connection (RFC 7541 2.3.3, 3.1, 5.2 and 6.3): the two tables would differ.
2. A block that changes no table decodes to the same fields until the next change, so it is remembered whole.  So are
   lines whose encoding changes no table.  What is remembered is bounded in number and bytes, encoded and decoded.
3. Fields of a block that are beyond the limits are walked, for the table's sake, but not kept: an index of one byte can
   stand for a field of thousands.
4. What is secret, or came as never indexed, goes out as never indexed (RFC 7541 7.1).
5. Fields that differ from message to message are not inserted: they would only push others out.
6. Lines that come together in many messages are remembered together (`Encoder.encode_request`).  Their number is small,
   because each connection has such a memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from sidecar.core.message import SECRETS
from sidecar.http2 import huffman
from sidecar.http2.errors import COMPRESSION_ERROR, ConnectionFault
from sidecar.http2.fields import CONNECTION_FIELDS, OVERHEAD, Field

if TYPE_CHECKING:
    from sidecar.http2.heads import Head

TABLE_SIZE: Final = 4096
"""Bytes of a dynamic table at most, ours and the peer's: the default of SETTINGS_HEADER_TABLE_SIZE."""
REMEMBERED: Final = 64
"""Blocks, lines and strings that are remembered, each."""
PARTS: Final = 8
"""Groups of lines and of pseudo-headers that are remembered, each."""
LONGEST_PART: Final = 1024
"""Bytes of the longest of them."""
LONGEST: Final = 2048
"""Bytes of the longest of them."""
LONGEST_LIST: Final = 4096
"""Bytes of the longest list of fields that is remembered.  An index of one byte can stand for thousands."""
LARGEST: Final = 512
"""Bytes of the largest field that is inserted."""
MAX_UPDATES: Final = 2
"""Changes of the table's size at the beginning of a block: its least and its last value (RFC 7541 4.2)."""
MAX_SHIFT: Final = 21
"""Bits before the last group of seven in the longest integer: no length or index here needs more."""
STATIC_TABLE: Final = (
    (b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"), (b":path", b"/index.html"),
    (b":scheme", b"http"), (b":scheme", b"https"), (b":status", b"200"), (b":status", b"204"), (b":status", b"206"),
    (b":status", b"304"), (b":status", b"400"), (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"), (b"accept-language", b""), (b"accept-ranges", b""), (b"accept", b""),
    (b"access-control-allow-origin", b""), (b"age", b""), (b"allow", b""), (b"authorization", b""),
    (b"cache-control", b""), (b"content-disposition", b""), (b"content-encoding", b""), (b"content-language", b""),
    (b"content-length", b""), (b"content-location", b""), (b"content-range", b""), (b"content-type", b""),
    (b"cookie", b""), (b"date", b""), (b"etag", b""), (b"expect", b""), (b"expires", b""), (b"from", b""),
    (b"host", b""), (b"if-match", b""), (b"if-modified-since", b""), (b"if-none-match", b""), (b"if-range", b""),
    (b"if-unmodified-since", b""), (b"last-modified", b""), (b"link", b""), (b"location", b""), (b"max-forwards", b""),
    (b"proxy-authenticate", b""), (b"proxy-authorization", b""), (b"range", b""), (b"referer", b""), (b"refresh", b""),
    (b"retry-after", b""), (b"server", b""), (b"set-cookie", b""), (b"strict-transport-security", b""),
    (b"transfer-encoding", b""), (b"user-agent", b""), (b"vary", b""), (b"via", b""), (b"www-authenticate", b""),
)  # fmt: skip
"""Appendix A."""
STATIC: Final = [Field(b"", b""), *(Field(name, value) for name, value in STATIC_TABLE)]
FIRST_DYNAMIC: Final = len(STATIC)
PAIRS: Final = {pair: index for index, pair in reversed(list(enumerate(STATIC_TABLE, 1)))}
NAMES: Final = {pair[0]: index for index, pair in reversed(list(enumerate(STATIC_TABLE, 1)))}
"""Lowest index of each name."""
VOLATILE: Final = frozenset(
    (
        b":path", b"age", b"b3", b"content-length", b"content-range", b"date", b"etag", b"expires", b"grpc-timeout",
        b"if-match", b"if-modified-since", b"if-none-match", b"last-modified", b"location", b"traceparent",
        b"tracestate", b"x-b3-spanid", b"x-b3-traceid", b"x-forwarded-for", b"x-request-id", b"x-request-timeout-ms",
        b"x-sidecar-attempt",
    )
)  # fmt: skip
"""Fields that differ from message to message."""
UNIQUE: Final = frozenset(
    (b"b3", b"traceparent", b"tracestate", b"x-b3-spanid", b"x-b3-traceid", b"x-request-id", b":path")
)
"""Fields among them that hardly ever come twice."""
HOP: Final = CONNECTION_FIELDS | {b"host"}
"""Fields that are never encoded: HTTP/2 has none of them, and the host is a pseudo-header."""
NOTHING: Final[frozenset[bytes]] = frozenset()
UNINDEXED: Final[set[bytes]] = set(SECRETS)
"""Names of fields that go out as never indexed whatever their sender has marked."""
INDEXED, INCREMENTAL, SIZE_UPDATE, NEVER_INDEXED, PLAIN = 0x80, 0x40, 0x20, 0x10, 0x00


def never_index(names: Iterable[bytes]) -> None:
    """Add names in lower case to `UNINDEXED`, such as those of fields with credentials in a policy file.

    Encoders that are in use see it by the number of names, which only grows.
    """
    UNINDEXED.update(names)


def fault(text: str) -> ConnectionFault:
    return ConnectionFault(COMPRESSION_ERROR, text)


class Block:
    """A header block, decoded.  One object may stand for many blocks that were the same."""

    __slots__ = ("excess", "fields", "is_too_large", "request", "response", "sensitive", "trailers")

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.is_too_large = False
        """True if it has more fields or bytes than are allowed; `fields` then lacks what is beyond."""
        self.excess = 0
        """Number of the fields that are beyond."""
        self.sensitive: frozenset[bytes] = frozenset()
        """Names of fields that came as never indexed, without those of `UNINDEXED`."""
        self.request: Head | None = None
        self.response: Head | None = None
        self.trailers: Head | None = None
        """The block as each of the three, once it was asked for (`heads`): what is valid as one is not as another."""


class Decoder:
    """Decoder of one connection's header blocks."""

    __slots__ = (
        "_blocks", "_max_fields", "_max_size", "_position", "_size", "_start", "_strings", "_table", "_table_limit",
    )  # fmt: skip

    def __init__(self, max_size: int, max_fields: int) -> None:
        """`max_size` bounds a list of fields in bytes, as SETTINGS_MAX_HEADER_LIST_SIZE counts them."""
        self._max_size = max_size
        self._max_fields = max_fields
        self._table: list[Field] = []
        """Dynamic table, the newest entry last; those before `_start` are evicted."""
        self._start = 0
        self._size = 0
        self._table_limit = TABLE_SIZE
        """Bytes that the peer has chosen for the table."""
        self._blocks: dict[bytes, Block] = {}
        self._strings: dict[bytes, bytes] = {}
        self._position = 0

    @property
    def table_size(self) -> int:
        """Bytes of the dynamic table."""
        return self._size

    def decode(self, data: bytes) -> Block:
        """Return the block.  Raises `ConnectionFault`."""
        known = self._blocks.get(data)
        if known is not None:
            return known
        block = Block()
        fields = block.fields
        table = self._table
        sensitive: set[bytes] | None = None
        changes = has_fields = False
        total = updates = 0
        end = len(data)
        self._position = 0
        while self._position < end:
            byte = data[self._position]
            if byte >= INDEXED:
                field = self._entry(self._integer(data, 0x7F))
            elif byte < INCREMENTAL and byte >= SIZE_UPDATE:
                if has_fields:
                    raise fault("the table's size changes within a block")
                updates += 1
                if updates > MAX_UPDATES:
                    raise fault("the table's size changes more often than its two extremes need")
                self._resize(self._integer(data, 0x1F))
                changes = True
                continue
            else:
                is_inserted = byte >= INCREMENTAL
                index = self._integer(data, 0x3F if is_inserted else 0x0F)
                name = self._entry(index).name if index else self._string(data)
                field = Field(name, self._string(data))
                if is_inserted:
                    changes = True
                    self._insert(field)
                elif byte >= NEVER_INDEXED and name not in UNINDEXED:
                    if sensitive is None:
                        sensitive = set()
                    if len(sensitive) < self._max_fields:
                        sensitive.add(name)
            has_fields = True
            total += field.size
            if total > self._max_size or len(fields) >= self._max_fields:
                block.is_too_large = True
                block.excess += 1
            else:
                fields.append(field)
        if sensitive is not None:
            block.sensitive = frozenset(sensitive)
        if changes:
            self._blocks.clear()
            if self._start > REMEMBERED:
                del table[: self._start]
                self._start = 0
        elif len(data) <= LONGEST and total <= LONGEST_LIST:
            if len(self._blocks) >= REMEMBERED:
                self._blocks.clear()
            self._blocks[data] = block
        return block

    def _entry(self, index: int) -> Field:
        """Return an entry of the tables."""
        if index < FIRST_DYNAMIC:
            if index == 0:
                raise fault("index 0 is none")
            return STATIC[index]
        at = len(self._table) - 1 - (index - FIRST_DYNAMIC)
        if at < self._start:
            raise fault("an index is beyond the table")
        return self._table[at]

    def _insert(self, field: Field) -> None:
        self._table.append(field)
        self._size += field.size
        if self._size > self._table_limit:
            self._evict()

    def _resize(self, size: int) -> None:
        if size > TABLE_SIZE:
            raise fault("the table's size is more than was allowed")
        self._table_limit = size
        self._evict()

    def _evict(self) -> None:
        table, start = self._table, self._start
        while self._size > self._table_limit:
            self._size -= table[start].size
            start += 1
        self._start = start

    def _integer(self, data: bytes, mask: int) -> int:
        """Read an integer (RFC 7541 5.1), whose prefix `mask` selects."""
        at = self._position
        value = data[at] & mask
        at += 1
        if value == mask:
            shift = 0
            while True:
                if at >= len(data):
                    raise fault("the block ends within an integer")
                if shift > MAX_SHIFT:
                    raise fault("an integer is too long")
                byte = data[at]
                at += 1
                value += (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
        self._position = at
        return value

    def _string(self, data: bytes) -> bytes:
        """Read a string (RFC 7541 5.2)."""
        at = self._position
        if at >= len(data):
            raise fault("the block ends before a string")
        is_huffman = data[at] >= 0x80
        size = self._integer(data, 0x7F)
        at = self._position
        end = at + size
        if end > len(data):
            raise fault("the block ends within a string")
        self._position = end
        text = data[at:end]
        if not is_huffman:
            return text
        known = self._strings.get(text)
        if known is None:
            known = huffman.decode(text)
            if known is None:
                raise fault("a string is no Huffman code")
            if size <= OVERHEAD:
                if len(self._strings) >= REMEMBERED:
                    self._strings.clear()
                self._strings[text] = known
        return known


def encode_integer(prefix: int, mask: int, value: int) -> bytes:
    """Return an integer after the bits of `prefix` (RFC 7541 5.1)."""
    if value < mask:
        return bytes((prefix | value,))
    out = bytearray((prefix | mask,))
    value -= mask
    while value >= 0x80:
        out.append(0x80 | (value & 0x7F))
        value >>= 7
    out.append(value)
    return bytes(out)


SHORT: Final = [bytes((size,)) for size in range(0x7F)]
"""Lengths of short strings."""


def encode_string(text: bytes) -> bytes:
    """Return a string as it is."""
    size = len(text)
    return (SHORT[size] if size < 0x7F else encode_integer(0, 0x7F, size)) + text


def encode_huffman(text: bytes) -> bytes:
    """Return a string in the shorter of the two forms."""
    coded = huffman.encode(text)
    return encode_integer(0x80, 0x7F, len(coded)) + coded if len(coded) < len(text) else encode_string(text)


def _name(name: bytes) -> bytes:
    """Return the beginning of a field that is not inserted, up to its value."""
    index = NAMES.get(name, 0)
    head = encode_integer(PLAIN, 0x0F, index)
    return head if index else head + encode_string(name)


VOLATILE_NAMES: Final = {name: _name(name) for name in VOLATILE}
"""Beginnings of fields that are not inserted, by their names."""
REQUEST_ID: Final = VOLATILE_NAMES[b"x-request-id"]
STATUSES: Final = {
    int(value): encode_integer(INDEXED, 0x7F, index) for (name, value), index in PAIRS.items() if name == b":status"
}
"""Encoded statuses that have an index."""


class Encoder:
    """Encoder of one connection's header blocks.

    A field is encoded by Huffman's code only when it is inserted: once, and its index is used from then on.  Blocks
    must be sent in the order in which they are made.
    """

    __slots__ = (
        "_answers", "_inserted", "_is_lasting", "_latest", "_least", "_limit", "_lines", "_names", "_numbers", "_parts",
        "_pseudo", "_requests", "_size",
    )  # fmt: skip

    def __init__(self) -> None:
        self._numbers: dict[tuple[bytes, bytes], int] = {}
        """Number of the insertion of each pair in the table, the oldest first."""
        self._inserted = 0
        self._size = 0
        self._limit = TABLE_SIZE
        self._least = -1
        """Smallest size of the table since the last block; -1 if it has not changed."""
        self._lines: dict[bytes, bytes] = {}
        """Encoding of lines, each of which changes nothing."""
        self._parts: dict[bytes, bytes] = {}
        """Encoding of groups of such lines."""
        self._pseudo: dict[tuple[bytes, bytes, bytes, bytes], bytes] = {}
        """Encoding of the pseudo-headers of requests that change nothing."""
        self._answers: dict[tuple[int, bytes, bytes], tuple[bytes, bytes]] = {}
        """Encoding of responses and their trailers that change nothing."""
        self._requests: dict[tuple[bytes, ...], tuple[bytes, bytes]] = {}
        """Encoding of what requests have in common, before and after the id and the lines of one."""
        self._latest = (b"", b"")
        """Lines of a request that were encoded last, and their encoding."""
        self._is_lasting = True
        """False once the group of lines at hand has one that is not to be remembered."""
        self._names = len(UNINDEXED)
        """Number of the names in `UNINDEXED` for which what is remembered is right."""

    @property
    def table_size(self) -> int:
        """Bytes of the dynamic table."""
        return self._size

    def resize(self, size: int) -> None:
        """Take the peer's SETTINGS_HEADER_TABLE_SIZE; the next block tells it the size that is used (RFC 7541 4.2)."""
        size = min(size, TABLE_SIZE)
        if size == self._limit:
            return
        self._limit = size
        self._least = size if self._least < 0 else min(self._least, size)
        self._evict()

    def encode(
        self, pseudo: list[tuple[bytes, bytes]], lines: bytes, sensitive: frozenset[bytes] = frozenset()
    ) -> bytes:
        """Return the block of pseudo-headers and HTTP/1.1 field lines.

        Names may have capitals.  Fields of a connection are dropped.  Those whose lower-case names are `sensitive` go
        out as never indexed.
        """
        out: list[bytes] = []
        if self._names != len(UNINDEXED):
            self._renew()
        if self._least >= 0:
            out.append(self._sizes())
        has_marks = bool(sensitive)
        for name, value in pseudo:
            out.append(self._field(name, value, has_marks and name in sensitive))
        if lines:
            self._write_lines(out, lines, sensitive)
        return b"".join(out)

    def encode_request(
        self,
        method: bytes,
        scheme: bytes,
        authority: bytes,
        path: bytes,
        lines: bytes,
        request_id: bytes = b"",
        steady: tuple[bytes, bytes] = (b"", b""),
        sensitive: frozenset[bytes] = NOTHING,
        protocol: bytes = b"",
    ) -> bytes:
        """Return the block of a request.

        Many requests have the `steady` lines in common, which stand before and after the id and the `lines` of this
        one.
        """
        if self._names != len(UNINDEXED):
            self._renew()
        key = (method, scheme, authority, path, *steady)
        known = self._requests.get(key)
        is_plain = bool(request_id) and lines == self._latest[0] and not protocol and not sensitive and self._least < 0
        if known is not None and is_plain:
            start, end = known
            return b"".join((start, encode_string(request_id), self._latest[1], end))
        out: list[bytes] = []
        if self._least >= 0:
            out.append(self._sizes())
        if protocol or sensitive:
            pairs = [(b":method", method), (b":scheme", scheme), (b":authority", authority), (b":path", path)]
            if protocol:
                pairs.insert(1, (b":protocol", protocol))
            out.append(self._fields(pairs, sensitive))
        else:
            pseudo = self._pseudo.get((method, scheme, authority, path))
            out.append(self._write_pseudo(method, scheme, authority, path) if pseudo is None else pseudo)
        before, after = steady
        if sensitive:
            own = b"x-request-id: %b\r\n" % request_id if request_id else b""
            self._write_lines(out, b"%b%b%b%b" % (before, own, lines, after), sensitive)
            return b"".join(out)
        if before:
            out.append(self._part(before))
        if request_id:
            if b"x-request-id" in UNINDEXED:
                out.append(self._field(b"x-request-id", request_id, False))
            else:
                out.append(REQUEST_ID)
                out.append(encode_string(request_id))
        if lines:
            out.append(self._latest[1] if lines == self._latest[0] else self._write_latest(lines))
        if after:
            out.append(self._part(after))
        if is_plain and self._is_known(before) and self._is_known(after) and b"x-request-id" not in UNINDEXED:
            pseudo = self._pseudo.get((method, scheme, authority, path))
            if pseudo is not None:
                if len(self._requests) >= PARTS:
                    self._requests.clear()
                start = b"%b%b%b" % (pseudo, self._parts.get(before, b""), REQUEST_ID)
                self._requests[key] = start, self._parts.get(after, b"")
        return b"".join(out)

    def _is_known(self, lines: bytes) -> bool:
        """True if the encoding of a group of lines is remembered, or empty."""
        return not lines or lines in self._parts

    def _write_latest(self, lines: bytes) -> bytes:
        """Encode lines of one request, and remember them until others come."""
        out: list[bytes] = []
        before = self._inserted
        self._is_lasting = True
        self._write_lines(out, lines, NOTHING)
        coded = b"".join(out)
        if self._is_lasting and before == self._inserted and len(lines) <= LONGEST_PART:
            self._latest = lines, coded
        return coded

    def encode_response(self, status: int, lines: bytes, sensitive: frozenset[bytes] = NOTHING) -> bytes:
        """Return the block of a response."""
        if self._least >= 0 or sensitive:
            return self.encode([(b":status", b"%d" % status)], lines, sensitive)
        if self._names != len(UNINDEXED):
            self._renew()
        head = STATUSES.get(status)
        if head is None:
            head = self._field(b":status", b"%d" % status, False)
        return head + self._part(lines) if lines else head

    def encode_answer(self, status: int, lines: bytes, trailers: bytes) -> tuple[bytes, bytes]:
        """Return the blocks of a response and of its trailers, which are sent one after the other."""
        known = self._answers.get((status, lines, trailers))
        if known is not None and self._least < 0 and self._names == len(UNINDEXED):
            return known
        before = self._inserted
        block = self.encode_response(status, lines)
        known = block, self.encode_trailers(trailers)
        if before == self._inserted and lines in self._parts and trailers in self._parts:
            if len(self._answers) >= PARTS:
                self._answers.clear()
            self._answers[status, lines, trailers] = known
        return known

    def encode_trailers(self, lines: bytes, sensitive: frozenset[bytes] = NOTHING) -> bytes:
        """Return the block of trailers."""
        if self._least >= 0 or sensitive:
            return self.encode([], lines, sensitive)
        if self._names != len(UNINDEXED):
            self._renew()
        return self._part(lines)

    def _renew(self) -> None:
        """Forget what is remembered: names have been added that go out as never indexed from now on."""
        self._names = len(UNINDEXED)
        self._forget()

    def _sizes(self) -> bytes:
        """Return the change of the table's size that the next block begins with."""
        out = encode_integer(SIZE_UPDATE, 0x1F, self._limit)
        if self._least < self._limit:
            out = encode_integer(SIZE_UPDATE, 0x1F, self._least) + out
        self._least = -1
        return out

    def _fields(self, pairs: list[tuple[bytes, bytes]], sensitive: frozenset[bytes]) -> bytes:
        return b"".join([self._field(name, value, name in sensitive) for name, value in pairs])

    def _write_pseudo(self, method: bytes, scheme: bytes, authority: bytes, path: bytes) -> bytes:
        """Encode the pseudo-headers of a request, and remember them if that changes no table."""
        before = self._inserted
        pairs = [(b":method", method), (b":scheme", scheme), (b":authority", authority), (b":path", path)]
        coded = self._fields(pairs, NOTHING)
        if before == self._inserted and len(authority) + len(path) <= LONGEST_PART:
            if len(self._pseudo) >= PARTS:
                self._pseudo.clear()
            self._pseudo[method, scheme, authority, path] = coded
        return coded

    def _write_lines(self, out: list[bytes], lines: bytes, sensitive: frozenset[bytes]) -> None:
        """Encode lines one by one."""
        has_marks = bool(sensitive)
        for text in lines.split(b"\r\n"):
            known = self._lines.get(text)
            if known is None or (has_marks and text[: text.find(b":")].lower() in sensitive):
                known = self._line(text, sensitive)
            out.append(known)

    def _part(self, lines: bytes) -> bytes:
        """Encode lines that often come together, and remember them if that changes no table."""
        known = self._parts.get(lines)
        if known is not None:
            return known
        out: list[bytes] = []
        before = self._inserted
        self._is_lasting = True
        self._write_lines(out, lines, NOTHING)
        known = b"".join(out)
        if self._is_lasting and before == self._inserted and len(lines) <= LONGEST_PART:
            if len(self._parts) >= PARTS:
                self._parts.clear()
            self._parts[lines] = known
        return known

    def _line(self, text: bytes, sensitive: frozenset[bytes]) -> bytes:
        """Encode a line, and remember it if that changes no table."""
        colon = text.find(b":")
        if colon <= 0:
            return b""
        name = text[:colon].lower()
        if name in HOP:
            return b""
        before = self._inserted
        coded = self._field(name, text[colon + 1 :].strip(b" \t"), name in sensitive)
        if before != self._inserted or name in sensitive or name in UNIQUE or name in UNINDEXED or len(text) > LARGEST:
            self._is_lasting = False
            return coded
        if len(self._lines) >= REMEMBERED:
            self._lines.clear()
        self._lines[text] = coded
        return coded

    def _field(self, name: bytes, value: bytes, is_sensitive: bool) -> bytes:
        """Encode a field, and insert it if it is likely to come again."""
        start = VOLATILE_NAMES.get(name)
        if start is not None and not is_sensitive and name not in UNINDEXED:
            static = PAIRS.get((name, value), 0)
            return encode_integer(INDEXED, 0x7F, static) if static else start + encode_string(value)
        index = NAMES.get(name, 0)
        if is_sensitive or name in UNINDEXED:
            return self._literal(NEVER_INDEXED, 0x0F, index, name, value)
        pair = (name, value)
        number = self._numbers.get(pair, -1)
        if number >= 0:
            return encode_integer(INDEXED, 0x7F, FIRST_DYNAMIC + self._inserted - 1 - number)
        static = PAIRS.get(pair, 0)
        if static:
            return encode_integer(INDEXED, 0x7F, static)
        size = len(name) + len(value) + OVERHEAD
        if size > LARGEST or size > self._limit:
            return self._literal(PLAIN, 0x0F, index, name, value)
        self._insert(pair, size)
        head = encode_integer(INCREMENTAL, 0x3F, index)
        return (head if index else head + encode_huffman(name)) + encode_huffman(value)

    def _literal(self, prefix: int, mask: int, index: int, name: bytes, value: bytes) -> bytes:
        head = encode_integer(prefix, mask, index)
        return (head if index else head + encode_string(name)) + encode_string(value)

    def _insert(self, pair: tuple[bytes, bytes], size: int) -> None:
        self._forget()  # indices count from the newest entry
        self._numbers[pair] = self._inserted
        self._inserted += 1
        self._size += size
        self._evict()

    def _evict(self) -> None:
        while self._size > self._limit:
            name, value = next(iter(self._numbers))
            del self._numbers[name, value]
            self._size -= len(name) + len(value) + OVERHEAD
            self._forget()

    def _forget(self) -> None:
        """Forget all that was remembered, which is encoded with indices of the table as it was."""
        if self._lines:
            self._lines.clear()
        if self._parts:
            self._parts.clear()
        if self._pseudo:
            self._pseudo.clear()
        if self._answers:
            self._answers.clear()
        if self._requests:
            self._requests.clear()
        self._latest = (b"", b"")
