"""Tests of every input in the corpus on every Python, without a fuzzer, and of work in proportion to the input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.http2 import frames as f
from tests.fuzz import conditions, fields, heads, hpack, messages, policies, request, response, session, templates
from tests.fuzz.harness import CORPUS
from tests.support.cases import each
from tests.support.work import grows_with

CHECKS: dict[str, Callable[[bytes], None]] = {
    "conditions": conditions.check,
    "fields": fields.check,
    "heads": heads.check,
    "hpack": hpack.check,
    "messages": messages.check,
    "policies": policies.check,
    "request": request.check,
    "response": response.check,
    "session": session.check,
    "templates": templates.check,
}
KEPT = [path for name in CHECKS for path in sorted((CORPUS / name).iterdir())]

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
POST = f.frame(f.HEADERS, f.END_HEADERS, 1, b"\x83\x86\x84\x41\x01a")
OK = b"HTTP/1.1 200 OK\r\n"
FLOODS: dict[str, tuple[str, bytes, bytes]] = {
    "empty lines": ("request", b"", b"\r\n"),
    "one long header": ("request", HEAD + b"X: ", b"x"),
    "many headers": ("request", HEAD, b"X: x\r\n"),
    "header without colon": ("request", HEAD, b"x"),
    "long target": ("request", b"GET /", b"x"),
    "dot segments": ("request", b"GET /", b"../"),
    "tiny requests": ("request", b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "tiny chunks": ("request", CHUNKED, b"1\r\nx\r\n"),
    "chunk extensions": ("request", CHUNKED + b"1", b";x"),
    "chunk extension, quoted": ("request", CHUNKED + b'1;x="', b"x"),
    "trailers": ("request", CHUNKED + b"0\r\n", b"X: x\r\n"),
    "connection names": ("request", HEAD + b"Connection: ", b"x-a, "),
    "spaces": ("request", HEAD + b"X:", b" "),
    "answer: one long header": ("response", OK + b"X: ", b"x"),
    "answer: many headers": ("response", OK, b"X: x\r\n"),
    "answer: interims": ("response", b"", b"HTTP/1.1 102 P\r\n\r\n"),
    "answer: tiny chunks": ("response", OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "heads: many lines": ("heads", b"GET / HTTP/1.1\r\n", b"a: b\r\n"),
    "heads: one long line": ("heads", b"HTTP/1.1 200 OK\r\nX:", b" "),
    "hpack: fields": ("hpack", b"", b"\x06\x40\x01a\x02bc"),
    "hpack: one block again": ("hpack", b"\x02\x40\x01a\x00", b"\x02\xbe\xbe"),
    "session: pings": ("session", b"\x02", f.ping(bytes(8))),
    "session: a long head": ("session", b"\x02" + f.frame_head(f.HEADERS, 5, 1, 16384), b"\x82"),
    "session: content": ("session", b"\x02" + POST, f.frame(f.DATA, 0, 1, b"hello")),
    "json: list of numbers": ("messages", b'j\x02{"int32s":[1', b",1"),
    "json: members": ("messages", b"j\x02{", b'"a":1,'),
    "json: nested": ("messages", b"j\x07", b"["),
    "json: digits": ("messages", b'j\x00{"anInt64":', b"9"),
    "message: packed": ("messages", b"w\x02\x1a\xff\x7f", b"\x01"),
    "message: one field again": ("messages", b"w\x04", b"\x1a\x02\x10\x01"),
    "message: unknown groups": ("messages", b"w\x04", b"\xfb\x07"),
    "message: entries": ("messages", b"w\x01", b"\x0a\x00"),
    "path: segments": ("templates", b"/**\n/v1", b"/x"),
    "path: template": ("templates", b"/v1", b"/*"),
    "query: parameters": ("templates", b"/a\n/v1/shops/1/orders\n", b"pageToken=a&"),
    "query: nested name": ("templates", b"/a\n/v1/shops/1/orders\n", b"a."),
    "directives": ("fields", b"", b"max-age=1, "),
    "directives, quoted": ("fields", b'private="', b"a,\\"),
    "commas": ("fields", b"", b","),
    "tags": ("fields", b"", b'W/"a", '),
    "parameters": ("fields", b"a", b";b=1"),
    "ranges": ("fields", b"bytes=", b"1-2, "),
    "operators": ("conditions", b"true", b" && true"),
    "parentheses": ("conditions", b"", b"("),
    "names": ("conditions", b"request.body", b".a"),
    "list": ("conditions", b"1 in [", b"1,"),
    "json, nested": ("conditions", b"true\0", b"["),
    "json, keys": ("conditions", b"true\0{", b'"a":1,'),
    "nested": ("policies", b"a: ", b"["),
    "long list": ("policies", b"routes: [", b"x, "),
    "long text": ("policies", b'service: "', b"x"),
    "aliases": ("policies", b"a: &a [x]\nb: [", b"*a, "),
    "dollars": ("policies", b'service: "', b"${A"),
}


@each(KEPT)
def test_what_was_found_before(path: Path) -> None:
    CHECKS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", FLOODS)
def test_eight_times_the_input_takes_some_eight_times_the_work(name: str) -> None:
    target, head, piece = FLOODS[name]

    def work(size: int) -> Callable[[], object]:
        data = head + piece * (size // len(piece))
        if target == "request":
            return lambda: request.converse(request.cuts(2, data))
        if target == "response":
            return lambda: response.converse(response.cuts(2, data), 0, ends=True)
        return lambda: CHECKS[target](data)

    assert not grows_with(work)
