"""Requests and responses for property tests: mostly valid ones, and small hostile changes to them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

METHODS = st.sampled_from((b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"PURGE"))
TARGETS = st.sampled_from((b"/", b"/a/b?c=d", b"/a%20b", b"/*", b"/?", b"/;x=y", b"/a//b"))
NAMES = st.sampled_from(
    (b"X", b"x-y", b"Accept", b"COOKIE", b"!#$%&'*+-.^_`|~1", b"Content_Length", b"Transfer-Encodin")
)
VALUES = st.sampled_from(
    (b"", b" ", b" y", b"y", b"\ty\t", b" a:b,c;d", b" \xe4\xff", b' "q"', b" " * 9, b" chunked", b" 5")
)
SPACES = st.sampled_from((b"", b" ", b"\t", b"  ", b" \t"))
CASES = st.sampled_from((bytes.upper, bytes.lower, bytes.title))
CONTENTS = st.sampled_from((b"", b"x", b"hello", b"\r\n", b"0\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"y" * 300))
SIZES = st.sampled_from((b"%x", b"%X", b"0%x", b"00%X"))
EXTENSIONS = st.sampled_from((b"", b";a", b";a=b", b';a="b;c"', b";a;b=c"))
TRAILERS = st.sampled_from((b"", b"X: y\r\n", b"A:\r\nB: c\r\n"))

HOSTILE = (
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b" ",
    b"\t",
    b"\x00",
    b"\x0b",
    b"\x0c",
    b"\x7f",
    b"\x80",
    b"\xff",
    b":",
    b",",
    b";",
    b"0",
    b"5",
    b"-",
    b"+",
    b"0x",
    b"x",
    b"F",
    b"#",
    b'"',
    b"\\",
    b"/",
    b"?",
    b"@",
    b"[",
    b"HTTP/1.1",
    b"Content-Length: 5\r\n",
    b"Host: b\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"chunked",
    b"0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
)
"""Bytes that mutations insert."""


@st.composite
def fields(draw: st.DrawFn) -> bytes:
    pairs = draw(st.lists(st.tuples(NAMES, VALUES), max_size=4))
    return b"".join(b"%b:%b\r\n" % pair for pair in pairs)


@st.composite
def field(draw: st.DrawFn, name: bytes, value: bytes) -> bytes:
    """Draw a field that matters for framing, in some valid spelling."""
    return b"%b:%b%b%b\r\n" % (draw(CASES)(name), draw(SPACES), value, draw(SPACES))


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draw a chunked body, and its content."""
    contents = [piece for piece in draw(st.lists(CONTENTS, max_size=4)) if piece]
    data = b"".join(b"%b%b\r\n%b\r\n" % (draw(SIZES) % len(piece), draw(EXTENSIONS), piece) for piece in contents)
    return data + b"0" + draw(EXTENSIONS) + b"\r\n" + draw(TRAILERS) + b"\r\n", b"".join(contents)


@st.composite
def framed(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """Draw field lines that frame a body, the body, and its content."""
    kind = draw(st.sampled_from(("none", "length", "chunked")))
    if kind == "none":
        return b"", b"", b""
    if kind == "length":
        content = draw(CONTENTS)
        return draw(field(b"content-length", b"%d" % len(content))), content, content
    data, content = draw(chunked())
    return draw(field(b"transfer-encoding", draw(st.sampled_from((b"chunked", b"Chunked"))))), data, content


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, tuple[bytes, bytes, bytes]]:
    """Draw a valid request, and its method, target and content."""
    method, target = draw(METHODS), draw(TARGETS)
    framing, body, content = draw(framed())
    lines = [draw(field(b"host", b"a")), framing, draw(fields())]
    head = b"".join(draw(st.permutations(lines)))
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, target, head, body), (method, target, content)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, list[tuple[bytes, bytes, bytes]]]:
    """Draw some pipelined requests, and the method, target and content of each."""
    messages = draw(st.lists(requests(), min_size=1, max_size=3))
    return b"".join(data for data, _ in messages), [says for _, says in messages]


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, tuple[int, bytes]]:
    """Draw a valid response to GET, and its status and content."""
    status = draw(st.sampled_from((200, 201, 404, 503, 599)))
    framing, body, content = draw(framed())
    if not framing:
        framing, body, content = b"Content-Length: 0\r\n", b"", b""
    reason = draw(st.sampled_from((b"", b" ", b" OK", b" \xe4 \t")))
    head = b"".join(draw(st.permutations([framing, draw(fields())])))
    return b"HTTP/1.1 %d%b\r\n%b\r\n%b" % (status, reason, head, body), (status, content)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw the data with one to three small changes."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        drop = draw(st.sampled_from((0, 0, 1, 2)))
        data = data[:at] + draw(st.sampled_from((b"", *HOSTILE))) + data[at + drop :]
    return data


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Draw the data in pieces."""
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    edges = [0, *places, len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]
