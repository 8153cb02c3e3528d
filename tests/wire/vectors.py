"""Messages on which lenient parsers disagree, each with its required result.

A vector has a client's bytes and the required answer: `GOOD`, or a status.  A refused message is never forwarded, and
no byte after it is read: each refused vector is also tested with a request behind it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

GOOD: Final = 200


class Vector(NamedTuple):
    """Bytes of a client, and their required result."""

    data: bytes
    status: int
    body: bytes = b""
    """Body that the service gets, if the message is good."""


GET: Final = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST: Final = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED: Final = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END: Final = b"0\r\n\r\n"


def get(line: bytes, status: int = 400) -> Vector:
    """Return a GET with one more field line."""
    return Vector(GET + line + b"\r\n\r\n", status)


def post(lines: bytes, status: int = 400, body: bytes = b"hello") -> Vector:
    """Return a POST with more field lines and five bytes of body."""
    return Vector(POST + lines + b"\r\n\r\n" + (body if status == GOOD else b"hello"), status, body)


def coded(lines: bytes, status: int = 400) -> Vector:
    """Return a POST with more field lines and a chunked body."""
    return Vector(POST + lines + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n", status, b"hello")


def chunks(body: bytes, status: int = 400, content: bytes = b"hello") -> Vector:
    """Return a chunked POST."""
    return Vector(CHUNKED + body, status, content)


def line(start: bytes, status: int = 400) -> Vector:
    """Return a request with this request line, and a Host."""
    return Vector(start + b"\r\nHost: a\r\n\r\n", status)


LENGTHS: Final = {
    "content-length": post(b"Content-Length: 5", GOOD),
    "content-length in capitals": post(b"CONTENT-LENGTH: 5", GOOD),
    "content-length without a space": post(b"Content-Length:5", GOOD),
    "content-length after a tab": post(b"Content-Length:\t5", GOOD),
    "content-length before white space": post(b"Content-Length: 5 \t ", GOOD),
    "content-length with leading zeros": post(b"Content-Length: 00005", GOOD),
    "content-length 0": post(b"Content-Length: 0", GOOD, b""),
    "no content-length": post(b"X: y", GOOD, b""),
    "content-length +5": post(b"Content-Length: +5"),
    "content-length -5": post(b"Content-Length: -5"),
    "content-length -0": post(b"Content-Length: -0"),
    "content-length 5,5": post(b"Content-Length: 5,5"),
    "content-length 5, 6": post(b"Content-Length: 5, 6"),
    "content-length 5,": post(b"Content-Length: 5,"),
    "content-length ,5": post(b"Content-Length: ,5"),
    "content-length 0x5": post(b"Content-Length: 0x5"),
    "content-length 5.0": post(b"Content-Length: 5.0"),
    "content-length 5e0": post(b"Content-Length: 5e0"),
    "content-length 1_0": post(b"Content-Length: 1_0"),
    "content-length 5 0": post(b"Content-Length: 5 0"),
    "content-length 5;": post(b"Content-Length: 5;"),
    "content-length 5a": post(b"Content-Length: 5a"),
    'content-length "5"': post(b'Content-Length: "5"'),
    "content-length empty": post(b"Content-Length:"),
    "content-length blank": post(b"Content-Length:  "),
    "content-length of superscripts": post(b"Content-Length: \xb2"),
    "content-length of fullwidth digits": post("Content-Length: ５".encode()),
    "content-length of 20 digits": post(b"Content-Length: 18446744073709551621"),
    "content-length of 2**64 + 5, padded": post(b"Content-Length: 018446744073709551621"),
    "content-length of 2**63": post(b"Content-Length: 9223372036854775808"),
    "content-length twice the same": post(b"Content-Length: 5\r\nContent-Length: 5"),
    "content-length twice": post(b"Content-Length: 5\r\nContent-Length: 6"),
    "content-length twice, one empty": post(b"Content-Length: 5\r\nContent-Length:"),
    "content-length and one in the trailer": Vector(
        CHUNKED + b"5\r\nhello\r\n0\r\nContent-Length: 99\r\n\r\n", GOOD, b"hello"
    ),
    "content-length after vertical tab": post(b"Content-Length:\x0b5"),
    "content-length before form feed": post(b"Content-Length: 5\x0c"),
    "content-length before NUL": post(b"Content-Length: 5\x00"),
    "content-length before NBSP": post(b"Content-Length: 5\xa0"),
    "content_length is another field": post(b"Content_Length: 5", GOOD, b""),
}

CODINGS: Final = {
    "chunked": coded(b"Transfer-Encoding: chunked", GOOD),
    "chunked in capitals": coded(b"TRANSFER-ENCODING: CHUNKED", GOOD),
    "chunked without a space": coded(b"Transfer-Encoding:chunked", GOOD),
    "chunked after a tab": coded(b"Transfer-Encoding:\tchunked", GOOD),
    "chunked before white space": coded(b"Transfer-Encoding: chunked \t", GOOD),
    "xchunked": coded(b"Transfer-Encoding: xchunked"),
    "chunkedx": coded(b"Transfer-Encoding: chunkedx"),
    "x chunked": coded(b"Transfer-Encoding: x chunked"),
    "chunked after vertical tab": coded(b"Transfer-Encoding:\x0bchunked"),
    "chunked before NUL": coded(b"Transfer-Encoding: chunked\x00"),
    "chunked after NBSP": coded(b"Transfer-Encoding: \xa0chunked"),
    "chunked in quotes": coded(b'Transfer-Encoding: "chunked"'),
    "chunked,": coded(b"Transfer-Encoding: chunked,"),
    ",chunked": coded(b"Transfer-Encoding: ,chunked"),
    "chunked;q=1": coded(b"Transfer-Encoding: chunked;q=1"),
    "chunked, chunked": coded(b"Transfer-Encoding: chunked, chunked"),
    "chunked twice": coded(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    "chunked, identity": coded(b"Transfer-Encoding: chunked, identity"),
    "identity, chunked": coded(b"Transfer-Encoding: identity, chunked", 501),
    "gzip, chunked": coded(b"Transfer-Encoding: gzip, chunked", 501),
    "gzip , x , chunked": coded(b"Transfer-Encoding: gzip , x ,chunked", 501),
    "gzip, chunked, chunked": coded(b"Transfer-Encoding: gzip, chunked, chunked"),
    "gzip, chunked and a length": coded(b"Transfer-Encoding: gzip, chunked\r\nContent-Length: 5"),
    "gzip, chunked in HTTP/1.0": Vector(b"POST / HTTP/1.0\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
    "gzip,, chunked": coded(b"Transfer-Encoding: gzip,, chunked"),
    "chunked, gzip": coded(b"Transfer-Encoding: chunked, gzip"),
    "identity": coded(b"Transfer-Encoding: identity"),
    "identity, then chunked": coded(b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
    "empty": coded(b"Transfer-Encoding:"),
    "empty, then chunked": coded(b"Transfer-Encoding:\r\nTransfer-Encoding: chunked"),
    "chunked and a length": coded(b"Transfer-Encoding: chunked\r\nContent-Length: 5"),
    "a length and chunked": coded(b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
    "a length of 0 and chunked": coded(b"Content-Length: 0\r\nTransfer-Encoding: chunked"),
    "an unknown coding and a length": coded(b"Transfer-Encoding: x\r\nContent-Length: 5"),
    "coding with a space in its name": coded(b"Transfer Encoding: chunked"),
    "coding with a space after its name": coded(b"Transfer-Encoding : chunked"),
    "coding with a tab after its name": coded(b"Transfer-Encoding\t: chunked"),
    "coding with a control character in its name": coded(b"Transfer-Encoding\x01: chunked"),
    "coding with a CR after its name": coded(b"Transfer-Encoding\r: chunked"),
    "coding folded": coded(b"Transfer-Encoding:\r\n chunked"),
    "coding folded with a tab": coded(b"Transfer-Encoding: x\r\n\tchunked"),
    "coding after a bare LF": coded(b"X: y\nTransfer-Encoding: chunked"),
    "coding after a bare CR": coded(b"X: y\rTransfer-Encoding: chunked"),
    "coding behind NUL": coded(b"X: y\x00Transfer-Encoding: chunked"),
    "transfer_encoding is another field": Vector(POST + b"Transfer_Encoding: chunked\r\n\r\n", GOOD),
    "transfer-encoding behind a quote": Vector(
        POST + b'X: "\r\nTransfer-Encoding: chunked\r\nY: "\r\n\r\n' + END, GOOD
    ),
    "chunked in HTTP/1.0": Vector(b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + END, 400),
    "chunked and a length in HTTP/1.0": Vector(
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + END, 400
    ),
    "chunked in a GET": Vector(GET + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" + END, GOOD, b"hello"),
}

FIELDS: Final = {
    "empty value": get(b"X:", GOOD),
    "value of obs-text": get(b"X: \xe4\xff", GOOD),
    "value of 0x80": get(b"X: \x80", GOOD),
    "every character of a token": get(b"!#$%&'*+-.^_`|~09azAZ: y", GOOD),
    "tab in a value": get(b"X: a\tb", GOOD),
    "colons in a value": get(b"X: a:b::", GOOD),
    "folded": get(b"X: a\r\n b"),
    "folded with a tab": get(b"X: a\r\n\tb"),
    "folded, an empty line": get(b"X: a\r\n \r\nY: b"),
    "folded at once": Vector(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "white space before the colon": get(b"X : y"),
    "tab before the colon": get(b"X\t: y"),
    "no colon": get(b"X"),
    "only a colon": get(b":"),
    "no name": get(b": y"),
    "only white space": get(b" "),
    "space in a name": get(b"X Y: z"),
    "leading space": get(b"X: y\r\n Z: z"),
    "NUL in a name": get(b"X\x00: y"),
    "DEL in a name": get(b"X\x7f: y"),
    "obs-text in a name": get("Ä: y".encode()),
    **{f"{chr(c)} in a name": get(b"X%cY: z" % c) for c in b'()<>@,;\\"/[]?={}'},
    **{f"control character {c} in a value": get(b"X: a%cb" % c) for c in (0, 1, 8, 11, 12, 14, 27, 31, 127)},
    "bare CR in a value": get(b"X: a\rb"),
    "bare LF in a value": get(b"X: a\nb"),
    "CR CR LF": get(b"X: a\r\r\nY: b"),
    "LF CR": get(b"X: a\n\rY: b"),
    "bare LF at the end of the head": Vector(b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare LF throughout": Vector(b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare CR throughout": Vector(b"GET / HTTP/1.1\rHost: a\r\r", 400),
    "no empty line but LF LF": Vector(b"GET / HTTP/1.1\r\nHost: a\n\n", 400),
}

HOSTS: Final = {
    **{
        f"host {host.decode()}": Vector(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", GOOD)
        for host in (b"a", b"a:80", b"a:", b"127.0.0.1:8080", b"[::1]", b"[::1]:80", b"A.Example", b"a_b", b"x%20y")
    },
    **{
        f"host {host.decode('latin-1')!r}": Vector(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", 400)
        for host in (
            b"",
            b" ",
            b"a b",
            b"a/b",
            b"a?b",
            b"a#b",
            b"a@b",
            b"user:pass@a",
            b"http://a",
            b"a:80:80",
            b"a:x",
            b"a:-1",
            b"a:+80",
            b"a:123456",
            b":80",
            b"[::1",
            b"::1",
            b"[::1]x",
            b"[]",
            b"a\\b",
            b"\xe4",
            b"a\x00",
            b"a\tb",
            b'"a"',
            b"<a>",
        )
    },
    "no host": Vector(b"GET / HTTP/1.1\r\n\r\n", 400),
    "no host in HTTP/1.0": Vector(b"GET / HTTP/1.0\r\n\r\n", GOOD),
    "empty host in HTTP/1.0": Vector(b"GET / HTTP/1.0\r\nHost:\r\n\r\n", GOOD),
    "two hosts": get(b"Host: b"),
    "the same host twice": get(b"Host: a"),
    "the same host in capitals twice": get(b"HOST: a"),
    "two hosts in HTTP/1.0": Vector(b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "host named by connection": get(b"Connection: host", GOOD),
    "two hosts, an absolute target": Vector(b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "bad host, an absolute target": Vector(b"GET http://a/ HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "no host, an absolute target": Vector(b"GET http://a/ HTTP/1.1\r\n\r\n", 400),
}

LINES: Final = {
    "an unknown method": line(b"PURGE / HTTP/1.1", GOOD),
    "a method in lower case is another one": line(b"get / HTTP/1.1", GOOD),
    "a method of specials": line(b"!#$%&'*+-.^_`|~ / HTTP/1.1", GOOD),
    "a long method": line(b"M" * 200 + b" / HTTP/1.1", GOOD),
    "a query": line(b"GET /?a=b&c HTTP/1.1", GOOD),
    "a target of specials": line(b"GET /!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~ HTTP/1.1", GOOD),
    "two slashes": line(b"GET //a//b HTTP/1.1", GOOD),
    "CONNECT": line(b"CONNECT a:443 HTTP/1.1", 501),
    "CONNECT of a path": line(b"CONNECT / HTTP/1.1", 501),
    "CONNECT of *": line(b"CONNECT * HTTP/1.1", 501),
    "OPTIONS *": line(b"OPTIONS * HTTP/1.1", GOOD),
    "GET *": line(b"GET * HTTP/1.1"),
    "OPTIONS **": line(b"OPTIONS ** HTTP/1.1"),
    "no method": line(b" / HTTP/1.1"),
    "a method with a colon": line(b"GE:T / HTTP/1.1"),
    "a method with NUL": line(b"GE\x00T / HTTP/1.1"),
    "a method in brackets": line(b"(GET) / HTTP/1.1"),
    "no target": line(b"GET HTTP/1.1"),
    "an empty target": line(b"GET  HTTP/1.1"),
    "no version": line(b"GET /"),
    "two spaces before the target": line(b"GET  / HTTP/1.1"),
    "two spaces before the version": line(b"GET /  HTTP/1.1"),
    "a tab before the target": line(b"GET\t/ HTTP/1.1"),
    "a tab before the version": line(b"GET /\tHTTP/1.1"),
    "a space before the method": line(b" GET / HTTP/1.1"),
    "a space at the end": line(b"GET / HTTP/1.1 "),
    "a space in the target": line(b"GET /a b HTTP/1.1"),
    "a fragment": line(b"GET /a#b HTTP/1.1"),
    "a relative target": line(b"GET a HTTP/1.1"),
    "a backslash for a slash": line(b"GET \\ HTTP/1.1"),
    "an authority for a target": line(b"GET a:80 HTTP/1.1"),
    "another scheme": line(b"GET ftp://a/ HTTP/1.1"),
    "no authority": line(b"GET http:/// HTTP/1.1"),
    "one slash": line(b"GET http:/a HTTP/1.1"),
    "user information": line(b"GET http://user@a/ HTTP/1.1"),
    "an absolute target": line(b"GET http://a/b HTTP/1.1", GOOD),
    "an absolute target in capitals": line(b"GET HTTP://A/b HTTP/1.1", GOOD),
    "an absolute target of https": line(b"GET https://a/b HTTP/1.1", GOOD),
    **{f"byte {c} in the target": line(b"GET /%c HTTP/1.1" % c) for c in (0, 1, 9, 11, 12, 13, 27, 127, 128, 228, 255)},
    "HTTP/0.9": Vector(b"GET /\r\n\r\n", 400),
    "HTTP/0.9 by name": line(b"GET / HTTP/0.9", 505),
    "HTTP/1.2 is taken for 1.1": line(b"GET / HTTP/1.2", GOOD),
    "HTTP/1.9 is taken for 1.1": line(b"GET / HTTP/1.9", GOOD),
    "HTTP/2.0": line(b"GET / HTTP/2.0", 505),
    "HTTP/3.0": line(b"GET / HTTP/3.0", 505),
    "the preface of HTTP/2": Vector(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/1": line(b"GET / HTTP/1"),
    "HTTP/1.": line(b"GET / HTTP/1."),
    "HTTP/.1": line(b"GET / HTTP/.1"),
    "HTTP/1.10": line(b"GET / HTTP/1.10"),
    "HTTP/01.1": line(b"GET / HTTP/01.1"),
    "HTTP/1,1": line(b"GET / HTTP/1,1"),
    "HTTP/1 .1": line(b"GET / HTTP/1 .1"),
    "HTTP/-1.1": line(b"GET / HTTP/-1.1"),
    "HTTP 1.1": line(b"GET / HTTP 1.1"),
    "http/1.1": line(b"GET / http/1.1"),
    "HTTPS/1.1": line(b"GET / HTTPS/1.1"),
    "ICY/1.1": line(b"GET / ICY/1.1"),
    "an empty line first": Vector(b"\r\n" + GET + b"\r\n", GOOD),
    "empty lines first": Vector(b"\r\n" * 20 + GET + b"\r\n", GOOD),
    "a bare LF first": Vector(b"\n" + GET + b"\r\n", 400),
    "a bare CR first": Vector(b"\r" + GET + b"\r\n", 400),
    "LF after an empty line": Vector(b"\r\n\n" + GET + b"\r\n", 400),
    "CR after an empty line": Vector(b"\r\n\r" + GET + b"\r\n", 400),
    "a space first": Vector(b" \r\n" + GET + b"\r\n", 400),
    "a NUL first": Vector(b"\x00" + GET + b"\r\n", 400),
    "the handshake of TLS": Vector(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), 400),
    "binary rubbish": Vector(bytes(range(256)), 400),
    "a response": Vector(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 400),
}

CHUNKS: Final = {
    "no chunk": chunks(END, GOOD, b""),
    "one chunk": chunks(b"5\r\nhello\r\n" + END, GOOD),
    "two chunks": chunks(b"2\r\nhe\r\n3\r\nllo\r\n" + END, GOOD),
    "leading zeros": chunks(b"0005\r\nhello\r\n000\r\n\r\n", GOOD),
    "hexadecimal, lower case": chunks(b"a\r\n0123456789\r\n" + END, GOOD, b"0123456789"),
    "hexadecimal, upper case": chunks(b"A\r\n0123456789\r\n" + END, GOOD, b"0123456789"),
    "an extension": chunks(b"5;a\r\nhello\r\n" + END, GOOD),
    "an extension with a value": chunks(b"5;a=b\r\nhello\r\n" + END, GOOD),
    "an extension in quotes": chunks(b'5;a="b;\\"c"\r\nhello\r\n' + END, GOOD),
    "extensions with white space": chunks(b"5 ; a = b\t;c\r\nhello\r\n0;d\r\n\r\n", GOOD),
    "a trailer": chunks(b"5\r\nhello\r\n0\r\nX: y\r\n\r\n", GOOD),
    "a size with 0x": chunks(b"0x5\r\nhello\r\n" + END),
    "a size with a sign": chunks(b"+5\r\nhello\r\n" + END),
    "a negative size": chunks(b"-5\r\nhello\r\n" + END),
    "an empty size": chunks(b"\r\nhello\r\n" + END),
    "an empty size with an extension": chunks(b";a\r\nhello\r\n" + END),
    "a size with a space before": chunks(b" 5\r\nhello\r\n" + END),
    "a size with a space behind": chunks(b"5 \r\nhello\r\n" + END),
    "a size with a tab behind": chunks(b"5\t\r\nhello\r\n" + END),
    "a size with an underscore": chunks(b"0_5\r\nhello\r\n" + END),
    "a size with a comma": chunks(b"5,5\r\nhello\r\n" + END),
    "a size that is no number": chunks(b"g\r\nhello\r\n" + END),
    "a size in decimals": chunks(b"5.0\r\nhello\r\n" + END),
    "a size of 16 digits": chunks(b"0000000000000005\r\nhello\r\n" + END),
    "a size of 17 digits": chunks(b"10000000000000005\r\nhello\r\n" + END),
    "a size beyond 2**60": chunks(b"ffffffffffffffff\r\nhello\r\n" + END),
    "a size ended by LF": chunks(b"5\nhello\r\n" + END),
    "a size ended by CR": chunks(b"5\rhello\r\n" + END),
    "a size ended by CR CR LF": chunks(b"5\r\r\nhello\r\n" + END),
    "a size ended by NUL": chunks(b"5\x00\r\nhello\r\n" + END),
    "data ended by LF": chunks(b"5\r\nhello\n" + END),
    "data ended by CR": chunks(b"5\r\nhello\r" + END),
    "data not ended": chunks(b"5\r\nhello" + END),
    "data that is too long": chunks(b"3\r\nhello\r\n" + END),
    "data that is too short": chunks(b"7\r\nhello\r\n" + END),
    "the last chunk ended by LF": chunks(b"5\r\nhello\r\n0\n\n"),
    "the end ended by LF": chunks(b"5\r\nhello\r\n0\r\n\n"),
    "the end ended by CR": chunks(b"5\r\nhello\r\n0\r\n\rX"),
    "LF in an extension": chunks(b"5;a\nb\r\nhello\r\n" + END),
    "CR in an extension": chunks(b"5;a\rb\r\nhello\r\n" + END),
    "NUL in an extension": chunks(b"5;\x00\r\nhello\r\n" + END),
    "LF in a quoted extension": chunks(b'5;a="\n"\r\nhello\r\n' + END),
    "CR LF in a quoted extension": chunks(b'5;a="\r\n"\r\nhello\r\n' + END),
    "a quote that is not closed": chunks(b'5;a="b\r\nhello\r\n' + END),
    "an extension without a name": chunks(b"5;\r\nhello\r\n" + END),
    "an extension without a value": chunks(b"5;a=\r\nhello\r\n" + END),
    "an extension without an end": chunks(b"5;" + b"a" * 2000 + b"\r\nhello\r\n" + END),
    "a trailer that is folded": chunks(b"0\r\nX: y\r\n z\r\n\r\n"),
    "a trailer with a space before its colon": chunks(b"0\r\nX : y\r\n\r\n"),
    "a trailer without a colon": chunks(b"0\r\nX\r\n\r\n"),
    "a trailer with NUL": chunks(b"0\r\nX: \x00\r\n\r\n"),
    "a trailer ended by LF": chunks(b"0\r\nX: y\n\r\n"),
    "trailers without an end": chunks(b"0\r\n" + b"X: y\r\n" * 2000),
}

EXPECTATIONS: Final = {
    "100-continue": post(b"Content-Length: 5\r\nExpect: 100-continue", GOOD),
    "100-Continue": post(b"Content-Length: 5\r\nExpect: 100-Continue", GOOD),
    "another expectation": post(b"Content-Length: 5\r\nExpect: 200-ok", 417),
    "100-continue in HTTP/1.0": Vector(
        b"POST / HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello", GOOD, b"hello"
    ),
}

TABLES: Final = {
    "length": LENGTHS,
    "coding": CODINGS,
    "field": FIELDS,
    "host": HOSTS,
    "line": LINES,
    "chunk": CHUNKS,
    "expect": EXPECTATIONS,
}
VECTORS: Final = {f"{table}: {name}": vector for table, vectors in TABLES.items() for name, vector in vectors.items()}
