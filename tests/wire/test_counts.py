"""Tests of limits on fields, list members, parameters and segments, which bound the work of their readers.

Even a short head may have thousands of them.  The work of each reader is counted in calls, at the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest

from sidecar.cache.rfc import directives, etag, structured, vary
from sidecar.cache.rfc.key import KeyRule
from sidecar.config.process_spec import LimitsSpec
from sidecar.core import http1, uri
from sidecar.core.exchange import Exchange
from sidecar.core.http1 import LONG_HEAD, MAX_FIELDS, MAX_MEMBERS, MAX_SEGMENTS
from sidecar.core.message import tokens
from sidecar.core.outcome import Outcome
from sidecar.core.template import Template
from sidecar.downstream.listener import Limits
from sidecar.downstream.request_head import Peer, read_ordinary, read_request, remove_dot_segments, split_request
from sidecar.stages.pacing.fields import read_allowances
from sidecar.telemetry.tracing.w3c import parse_tracestate
from sidecar.transform import coding, cookies
from sidecar.transform.query import QueryEdit
from tests.support.work import calls
from tests.wire.answers import answer
from tests.wire.reader import dribble, read

LIMITS = LimitsSpec.built_in()
START = b"GET / HTTP/1.1\r\nHost: a\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"
MEMBERS = LIMITS.max_list_members
FIELDS = LIMITS.max_fields
PARAMETERS = LIMITS.max_query_parameters


def target(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path


@pytest.mark.parametrize(
    ("most", "more", "status"),
    [
        (START + b"a:\r\n" * (FIELDS - 1) + b"\r\n", START + b"a:\r\n" * FIELDS + b"\r\n", 431),
        (START + b"a: b" + b"," * MEMBERS + b"\r\n\r\n", START + b"a: b" + b"," * (MEMBERS + 1) + b"\r\n\r\n", 431),
        (
            START + b"cookie: a=b" + b";" * MEMBERS + b"\r\n\r\n",
            START + b"cookie: a=b" + b";" * (MEMBERS - 3) + b"\r\nx: a,b,c,d,e\r\n\r\n",
            431,
        ),
        (target(b"/?" + b"a&" * (PARAMETERS - 1)), target(b"/?" + b"a&" * PARAMETERS), 414),
        (target(b"/a" * MAX_SEGMENTS), target(b"/a" * (MAX_SEGMENTS + 1)), 414),
        (target(b"/a?" + b"/" * 9999), target(b"/" * (MAX_SEGMENTS + 1) + b"?"), 414),
    ],
)
def test_a_request_with_too_many_of_anything_is_refused(most: bytes, more: bytes, status: int) -> None:
    for pieces in (most, dribble(most)):
        assert len(read(pieces).requests) == 1
    for pieces in (more, dribble(more)):
        refused = read(pieces)
        assert (refused.status, refused.requests) == (status, [])


def test_what_is_short_needs_no_count() -> None:
    for unit, limit in ((b"a:\r\n", 256), (b",", 1024)):
        assert LONG_HEAD // len(unit) <= limit, "a limit below that would not hold for short heads"
    for name, value in (("max_fields", 255), ("max_list_members", 1023), ("max_query_parameters", 511)):
        with pytest.raises(ValueError, match="greater than or equal"):
            LimitsSpec.model_validate({name: value})
    counted = calls(lambda: read(START + b"a: b, c\r\n" * 9 + b"\r\n"))
    assert not any(name.startswith("check_") for name in counted)


def test_the_limits_can_be_raised() -> None:
    data = b"GET /?" + b"a&" * 3000 + b" HTTP/1.1\r\nHost: a\r\n" + b"a: b, c; d\r\n" * 1500 + b"\r\n"
    more = LimitsSpec.model_validate({"max_fields": 2000, "max_list_members": 3000, "max_query_parameters": 3001})
    assert read(data).status == 414
    assert len(read(data, more).requests) == 1


@pytest.mark.parametrize(
    ("most", "more"),
    [
        (b"a:\r\n" * (MAX_FIELDS - 1), b"a:\r\n" * MAX_FIELDS),
        (b"a: " + b"," * MAX_MEMBERS + b"\r\n", b"a: " + b"," * (MAX_MEMBERS - 1) + b"\r\nb: ;;\r\n"),
    ],
)
def test_an_answer_with_too_many_of_anything_is_malformed(most: bytes, more: bytes) -> None:
    for pieces in ([OK + most + b"\r\n"], dribble(OK + most + b"\r\n")):
        assert answer(pieces).status == 200
    for head in (OK + more, b"HTTP/1.1 103 Early Hints\r\n" + more + b"a: b,;\r\n"):
        assert answer(head + b"\r\n" + OK + b"\r\n").reason == "protocol_error"


@pytest.mark.parametrize("unit", [b"a:\r\n", b"a: " + b"," * 1000 + b"\r\n"])
def test_trailers_are_counted_too(unit: bytes) -> None:
    end = b"0\r\n" + unit * (7000 // len(unit)) + b"\r\n"
    post = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    assert read(post + end).status == 431
    told = answer([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", end])
    assert told.broken is not None


def request(lines: bytes = b"", path: bytes = b"/") -> Callable[[], object]:
    data = b"GET %b HTTP/1.1\r\nHost: a\r\n%b\r\n" % (path, lines)
    peer = Peer("10.0.0.1", b"http", (ip_network("10.0.0.0/8"),))

    def run() -> None:
        head = read_ordinary(data) or split_request(data, Limits(LIMITS))
        assert head is not None
        method, seen, version, _, kept, special, speaks_to_caches = head
        x, *_ = read_request(method, seen, version, kept, special, speaks_to_caches, peer, 0.0)
        assert x.headers is not None
        tokens(x.headers, b"a")

    return run


def query(text: bytes) -> Exchange:
    x = Exchange(b"GET", b"/", [])
    x.query, x.authority = text, b"a"
    return x


RULE = KeyRule("a", (), ("utm_*", "x"))
EDIT = QueryEdit({"a": Template("b", {})}, {"c": Template("d", {})}, ["e"], {"f": "g"})

READERS: dict[str, Callable[[], Any]] = {
    "fields": request(b"te:\r\n" * (FIELDS - 1)),
    "forwarded fields": request(b"x-forwarded-for: 10.0.0.1\r\n" * (FIELDS - 1)),
    "names in Connection": request(b"connection: " + b"a," * MEMBERS + b"\r\n"),
    "hops": request(b"x-forwarded-for: " + b"10.0.0.1," * MEMBERS + b"\r\n"),
    "elements of Forwarded": request(b"forwarded: " + b"for=10.0.0.1," * MEMBERS + b"\r\n"),
    "quotes in Forwarded": request(b"forwarded: for=" + b'""' * 15_000 + b"\r\n"),
    "a list": request(b"a: " + b"b," * MEMBERS + b"\r\n"),
    "dot segments": lambda: remove_dot_segments(b"/a/.." * (MAX_SEGMENTS // 2)),
    "disputed segments": lambda: uri.readings(b"//%2F;%25" * 341),
    "a key without parameters": lambda: RULE.key(query(b"%61&" * PARAMETERS)),
    "a parameter": lambda: uri.parameter(b"%61&" * PARAMETERS, b"bbb"),
    "parameters rewritten": lambda: EDIT.apply(b"%61&" * PARAMETERS, query(b"")),
    "Cache-Control": lambda: directives.parse([b"private," * MEMBERS]),
    "fields named in Cache-Control": lambda: directives.parse([b'no-cache="' + b"a," * MEMBERS + b'a"']),
    "CDN-Cache-Control": lambda: structured.parse_dictionary(b"a," * MAX_MEMBERS + b"a"),
    "parameters of a member": lambda: structured.parse_dictionary(b"a" + b";a" * MAX_MEMBERS),
    "RateLimit": lambda: read_allowances(Outcome(200, [(b"ratelimit", b'"a";r=0;t=1' + b";a" * MAX_MEMBERS)])),
    "members of a list": lambda: structured.parse_list(b"a," * MAX_MEMBERS + b"a"),
    "entity tags": lambda: etag.tags_of(b'"",' * MEMBERS),
    "Vary": lambda: vary.field_names([b"a," * MAX_MEMBERS]),
    "Accept-Encoding": lambda: coding.acceptable(b"a," * MEMBERS),
    "tracestate": lambda: parse_tracestate([b"a=b," * MEMBERS]),
    "attributes of a cookie": lambda: cookies.parse_cookie(b"a=b" + b";c" * MAX_MEMBERS),
    "trailers": lambda: http1.ChunkedDecoder().feed(b"0\r\n" + b"a:\r\n" * MAX_FIELDS + b"\r\n"),
}
MOST = 40_000
"""Calls that one reader may make for one head; without the limits a head of 32 KiB takes many times as many."""


@pytest.mark.parametrize("name", READERS)
def test_work_at_the_limit_is_bounded(name: str) -> None:
    assert 0 < calls(READERS[name]).total() <= MOST
