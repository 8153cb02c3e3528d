"""Tests of W3C Trace Context, with the cases and names of the recommendation's own suite."""

from __future__ import annotations

import string

import pytest

from sidecar.telemetry.tracing.w3c import SAMPLED, Parent, extract, parse_traceparent, parse_tracestate

TRACE = b"0af7651916cd43dd8448eb211c80319c"
SPAN = b"b7ad6b7169203331"
HEADER = b"00-" + TRACE + b"-" + SPAN + b"-01"

ALL_KEY = string.ascii_lowercase.encode() + b"0123456789_-*/"
ALL_VALUE = bytes(c for c in range(0x20, 0x7F) if c not in b",=")


def changed(start: int, end: int, piece: bytes) -> bytes:
    return HEADER[:start] + piece + HEADER[end:]


@pytest.mark.parametrize(
    ("flags", "known"), [(b"00", 0), (b"01", 1), (b"02", 2), (b"03", 3), (b"ff", 3), (b"08", 0), (b"09", 1)]
)
def test_a_valid_traceparent_is_read_and_unknown_flags_are_left_behind(flags: bytes, known: int) -> None:
    context = parse_traceparent(changed(53, 55, flags))
    assert context == Parent(TRACE, SPAN, known)
    assert context.is_sampled == bool(known & SAMPLED)


@pytest.mark.parametrize("ows", [(b" ", b""), (b"\t", b""), (b"", b" "), (b"", b"\t"), (b"\t ", b" \t")])
def test_white_space_around_it_is_allowed(ows: tuple[bytes, bytes]) -> None:
    assert parse_traceparent(ows[0] + HEADER + ows[1]) == Parent(TRACE, SPAN, 1)


@pytest.mark.parametrize("rest", [b"", b"-", b"-what-the-future-will-be-like", b"-\xff"])
def test_a_higher_version_is_read_as_far_as_it_is_known_and_answered_with_00(rest: bytes) -> None:
    context = parse_traceparent(changed(0, 2, b"cc") + rest)
    assert context is not None
    assert (context.trace_id, context.span_id, context.flags) == (TRACE, SPAN, 1)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00",
        HEADER + b".",
        HEADER + b"-",
        HEADER + b"-what-the-future-will-be-like",
        HEADER + b"\n",
        HEADER + b"," + HEADER,
        changed(0, 2, b"cc") + b".what-the-future-will-be-like",
        changed(0, 2, b"cc") + b"0",
        changed(0, 2, b"ff"),
        changed(0, 2, b"FF"),
        changed(0, 2, b".0"),
        changed(0, 2, b"0."),
        changed(0, 2, b"000"),
        changed(0, 2, b"0000"),
        changed(0, 2, b"0"),
        changed(3, 35, b"0" * 32),
        changed(3, 4, b"."),
        changed(34, 35, b"."),
        changed(3, 35, TRACE.upper()),
        changed(3, 35, TRACE + b"3"),
        changed(3, 35, TRACE[:-1]),
        changed(36, 52, b"0" * 16),
        changed(36, 37, b"."),
        changed(51, 52, b"."),
        changed(36, 52, SPAN.upper()),
        changed(36, 52, SPAN + b"3"),
        changed(36, 52, SPAN[:-1]),
        changed(53, 55, b".0"),
        changed(53, 55, b"0."),
        changed(53, 55, b"001"),
        changed(53, 55, b"1"),
        changed(53, 55, b"0A"),
        changed(2, 3, b"_"),
        changed(35, 36, b" "),
        changed(52, 53, b"+"),
    ],
)
def test_a_malformed_traceparent_restarts_the_trace_and_drops_the_tracestate(value: bytes) -> None:
    assert parse_traceparent(value) is None
    assert extract([(b"traceparent", value), (b"tracestate", b"foo=1")]) is None


def test_no_traceparent_or_two_of_them_restart_the_trace() -> None:
    assert extract([(b"tracestate", b"foo=1")]) is None
    assert extract([(b"trace-parent", HEADER), (b"trace.parent", HEADER)]) is None
    assert extract([(b"traceparent", HEADER), (b"traceparent", HEADER)]) is None


@pytest.mark.parametrize(
    ("values", "joined"),
    [
        ([], b""),
        ([b""], b""),
        ([b"foo=1", b""], b"foo=1"),
        ([b"", b"foo=1"], b"foo=1"),
        ([b"foo=1,bar=2"], b"foo=1,bar=2"),
        ([b"foo=1,bar=2", b"rojo=1,congo=2", b"baz=3"], b"foo=1,bar=2,rojo=1,congo=2,baz=3"),
        ([b"foo=1 \t , \t bar=2, \t baz=3"], b"foo=1,bar=2,baz=3"),
        ([b"foo=1,,, ,bar=2"], b"foo=1,bar=2"),
        ([b"\t foo=1 \t"], b"foo=1"),
        ([b"foo=a b"], b"foo=a b"),
        ([b"1a-2b@foo=1"], b"1a-2b@foo=1"),
        ([ALL_KEY + b"=" + ALL_VALUE], ALL_KEY + b"=" + ALL_VALUE),
        ([ALL_KEY + b"@a-z0-9_-*/=" + ALL_VALUE], ALL_KEY + b"@a-z0-9_-*/=" + ALL_VALUE),
        ([b"z" * 256 + b"=1"], b"z" * 256 + b"=1"),
        ([b"t" * 241 + b"@" + b"v" * 14 + b"=1"], b"t" * 241 + b"@" + b"v" * 14 + b"=1"),
        ([b"t" * 242 + b"@v=1"], b"t" * 242 + b"@v=1"),
        ([b"t@" + b"v" * 15 + b"=1"], b"t@" + b"v" * 15 + b"=1"),
        ([b"foo@=1,bar=2"], b"foo@=1,bar=2"),
        ([b"foo@@bar=1,bar=2"], b"foo@@bar=1,bar=2"),
        ([b"foo@bar@baz=1,bar=2"], b"foo@bar@baz=1,bar=2"),
        ([b"foo=" + b"v" * 256], b"foo=" + b"v" * 256),
        ([b"foo=1,foo=1"], b"foo=1"),
        ([b"foo=1,bar=2", b"foo=3"], b"foo=1,bar=2"),
        ([b"foo=1," * 33], b"foo=1"),
    ],
)
def test_a_valid_tracestate_is_joined_in_order(values: list[bytes], joined: bytes) -> None:
    assert parse_tracestate(values) == joined


@pytest.mark.parametrize(
    "values",
    [
        [b"foo"],
        [b"=1"],
        [b"foo =1"],
        [b"foo= 1\x01"],
        [b"FOO=1"],
        [b"foo.bar=1"],
        [b"@foo=1,bar=2"],
        [b"foo=bar=baz"],
        [b"foo=,bar=3"],
        [b"foo=\xc3\xa4"],
        [b"foo=" + b"v" * 257],
        [b"foo=1", b"z" * 257 + b"=1"],
        [b"foo=1", b"t" * 255 + b"@v=1"],
    ],
)
def test_a_malformed_tracestate_is_dropped_whole_and_the_trace_goes_on(values: list[bytes]) -> None:
    assert parse_tracestate(values) == b""
    fields = [(b"traceparent", HEADER), *((b"tracestate", value) for value in values)]
    assert extract(fields) == Parent(TRACE, SPAN, 1)


def test_32_members_are_kept_and_33_are_not() -> None:
    members = [b"bar%02d=%02d" % (i, i) for i in range(33)]
    assert parse_tracestate([b",".join(members[:20]), b",".join(members[20:32])]) == b",".join(members[:32])
    assert parse_tracestate([b",".join(members[:20]), b",".join(members[20:])]) == b""
