"""Tests of propagation: trace fields of a request become those of its attempts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from sidecar.core.exchange import Attempt, Exchange
from sidecar.core.message import Headers, parse_fields
from sidecar.core.outcome import RESET, Outcome, failed
from sidecar.telemetry.settings import Sampler
from sidecar.telemetry.spec import KeepSpec
from sidecar.telemetry.tracing.propagation import Propagation
from sidecar.telemetry.tracing.tracer import Trace, Tracer
from tests.support.clock import FakeEnv, make_env

TRACE = b"0af7651916cd43dd8448eb211c80319c"
SPAN = b"b7ad6b7169203331"
PARENT = b"00-" + TRACE + b"-" + SPAN


class Sink:
    def __init__(self) -> None:
        self.kept: list[tuple[Exchange, str]] = []

    def put(self, x: Exchange, trace: Trace, outcome: Outcome, reason: str, seconds: float) -> None:
        self.kept.append((x, trace.kept))


class Bench:
    """Tracer, and requests through it."""

    def __init__(
        self,
        formats: Sequence[str] = ("w3c",),
        ratio: float = 0.0,
        *,
        parent_based: bool = True,
        keep: dict[str, Any] | None = None,
    ) -> None:
        self.env: FakeEnv = make_env(7)
        self.sink = Sink()
        self.tracer = Tracer(Propagation(formats), self.sink, self.env.now, random.Random(7), self.env.meter)
        self.tracer.retune(Sampler(ratio, parent_based), None if keep is None else KeepSpec(**keep))

    def begin(self, *fields: tuple[bytes, bytes], as_list: bool = False) -> Exchange:
        x = Exchange(b"GET", b"/", None, b"".join(b"%b: %b\r\n" % field for field in fields))
        if as_list:
            assert x.headers is not None
        self.tracer.begin(x)
        return x

    def sent(self, *fields: tuple[bytes, bytes], as_list: bool = False) -> Headers:
        """Return the trace fields that go upstream."""
        x = self.begin(*fields, as_list=as_list)
        x.trace.attempt(x, Attempt(1, 0.0))
        return [field for field in parse_fields(x.lines + x.trace_lines) if field[0] != b"accept"]

    def end(self, x: Exchange, outcome: Outcome | None = None, seconds: float = 0.01) -> str:
        outcome = outcome or Outcome(200)
        self.tracer.end(x, outcome, outcome.reason, seconds)
        return str(x.trace.kept)


ACCEPT = (b"accept", b"*/*")
CASES: dict[str, tuple[list[tuple[bytes, bytes]], bool, bytes | None]] = {
    # fields of the request, whether its trace is continued, tracestate of the attempt
    "alone": ([(b"traceparent", PARENT + b"-01")], True, None),
    "first of others": ([(b"traceparent", PARENT + b"-01"), ACCEPT], True, None),
    "in another case": ([ACCEPT, (b"TraceParent", PARENT + b"-01"), (b"TRACESTATE", b"foo=1")], True, b"foo=1"),
    "with a state": ([(b"traceparent", PARENT + b"-00"), (b"tracestate", b"foo=1,bar=2")], True, b"foo=1,bar=2"),
    "with a state before it": ([(b"tracestate", b"foo=1"), (b"traceparent", PARENT + b"-00")], True, b"foo=1"),
    "with two states": (
        [(b"traceparent", PARENT + b"-01"), (b"tracestate", b"foo=1"), (b"tracestate", b"bar=2")], True, b"foo=1,bar=2",
    ),
    "with an empty state": ([(b"traceparent", PARENT + b"-01"), (b"tracestate", b"")], True, None),
    "with a bad state": ([(b"traceparent", PARENT + b"-01"), (b"tracestate", b"foo=1,bar")], True, None),
    "with a key that comes twice": (
        [(b"traceparent", PARENT + b"-01"), (b"tracestate", b"foo=1,bar=2,foo=3")], True, b"foo=1,bar=2",
    ),
    "with white space in it": (
        [(b"traceparent", PARENT + b"-01"), (b"tracestate", b"foo=1 ,\tbar=2")], True, b"foo=1,bar=2",
    ),
    "of a future version": ([(b"traceparent", b"cc" + PARENT[2:] + b"-01-what")], True, None),
    "with unknown flags": ([(b"traceparent", PARENT + b"-09")], True, None),
    "state alone": ([(b"tracestate", b"foo=1")], False, None),
    "twice": ([(b"traceparent", PARENT + b"-01")] * 2 + [(b"tracestate", b"foo=1")], False, None),
    "malformed": ([(b"traceparent", PARENT + b"-1"), (b"tracestate", b"foo=1")], False, None),
    "version ff": ([(b"traceparent", b"ff" + PARENT[2:] + b"-01")], False, None),
    "of zeros": ([(b"traceparent", b"00-" + b"0" * 32 + b"-" + SPAN + b"-01")], False, None),
    "too long": ([(b"traceparent", PARENT + b"-01-extra")], False, None),
    "in a value": ([(b"x-note", b"traceparent: " + PARENT + b"-01")], False, None),
    "in a name": ([(b"x-traceparent", PARENT + b"-01"), (b"traceparent-x", PARENT + b"-01")], False, None),
}  # fmt: skip


@pytest.mark.parametrize("as_list", [False, True], ids=["lines", "list"])
@pytest.mark.parametrize(("fields", "goes_on", "state"), CASES.values(), ids=CASES)
def test_what_comes_in_and_what_goes_out(
    fields: list[tuple[bytes, bytes]], goes_on: bool, state: bytes | None, as_list: bool
) -> None:
    sent = Bench().sent(*fields, as_list=as_list)
    (parent,) = [value for name, value in sent if name == b"traceparent"]
    version, trace_id, span_id, flags = parent.split(b"-")
    assert version == b"00"
    assert (trace_id == TRACE) is goes_on
    assert span_id != SPAN
    assert (int(flags, 16) & 1) == (goes_on and PARENT + b"-00" not in [value for _, value in fields])
    assert [value for name, value in sent if name == b"tracestate"] == ([] if state is None else [state])


def test_other_fields_stay_as_they_were() -> None:
    x = Bench().begin((b"A", b" 1"), (b"traceparent", PARENT + b"-01"), (b"tracestate", b"foo=1"), (b"baggage", b"k=v"))
    assert x.is_raw
    assert x.lines == b"A:  1\r\ntracestate: foo=1\r\nbaggage: k=v\r\n"
    assert x.trace.state == b"foo=1"


def test_each_try_has_a_span_of_its_own_in_the_same_trace() -> None:
    bench = Bench()
    x = bench.begin((b"traceparent", PARENT + b"-01"))
    first, second = Attempt(1, 0.0), Attempt(2, 0.0)
    twin = x.fork(2, "retry:503")
    x.trace.attempt(x, first)
    twin.trace.attempt(twin, second)
    assert x.trace_lines == b"traceparent: 00-%b-%016x-01\r\n" % (TRACE, first.span_id)
    assert twin.trace_lines == b"traceparent: 00-%b-%016x-01\r\n" % (TRACE, second.span_id)
    assert len({first.span_id, second.span_id, x.trace.span_id}) == 3
    assert x.trace.parent_id == SPAN


# ----- B3


def test_b3_in_one_field() -> None:
    bench = Bench(["b3"])
    ((name, value),) = bench.sent((b"b3", TRACE + b"-" + SPAN + b"-1-" + SPAN))
    assert name == b"b3"
    assert value.startswith(TRACE + b"-")
    assert value.endswith(b"-1")
    assert bench.sent((b"b3", TRACE[16:] + b"-" + SPAN + b"-0"))[0][1].startswith(b"0" * 16 + TRACE[16:])
    assert bench.sent((b"b3", TRACE + b"-" + SPAN + b"-d"))[0][1].endswith(b"-d")
    assert bench.sent((b"b3", b"0"))[0][1].endswith(b"-0")
    assert Bench(["b3"], 1.0).sent((b"b3", b"0"))[0][1].endswith(b"-0")
    assert Bench(["b3"], 1.0).sent((b"b3", TRACE + b"-" + SPAN))[0][1].endswith(b"-1")
    assert not bench.sent((b"b3", b"nonsense"))[0][1].startswith(b"nonsense")
    assert not bench.sent((b"b3", b"0" * 32 + b"-" + SPAN + b"-1"))[0][1].startswith(b"0" * 32)


def test_b3_in_several_fields() -> None:
    bench = Bench(["b3multi"])
    ids = ((b"X-B3-TraceId", TRACE), (b"X-B3-SpanId", SPAN))
    sent = dict(bench.sent(*ids, (b"X-B3-ParentSpanId", SPAN), (b"X-B3-Sampled", b"1")))
    assert sent[b"x-b3-traceid"] == TRACE
    assert sent[b"x-b3-spanid"] != SPAN
    assert sent[b"x-b3-sampled"] == b"1"
    assert b"x-b3-parentspanid" not in sent
    assert dict(bench.sent(*ids, (b"x-b3-sampled", b"false")))[b"x-b3-sampled"] == b"0"
    assert dict(bench.sent(*ids, (b"x-b3-flags", b"1")))[b"x-b3-flags"] == b"1"
    assert dict(bench.sent((b"x-b3-sampled", b"1")))[b"x-b3-sampled"] == b"1"


def test_several_formats_the_first_that_speaks_wins_and_all_are_written() -> None:
    bench = Bench(["w3c", "b3"])
    sent = dict(bench.sent((b"b3", TRACE + b"-" + SPAN + b"-1")))
    assert sent[b"traceparent"].startswith(b"00-" + TRACE)
    assert sent[b"traceparent"].endswith(b"-01")
    assert sent[b"b3"].startswith(TRACE)
    other = b"1" * 32
    sent = dict(
        bench.sent((b"b3", other + b"-" + SPAN + b"-0"), (b"traceparent", PARENT + b"-01"), (b"tracestate", b"a=1"))
    )
    assert sent[b"b3"].startswith(TRACE)
    assert sent[b"tracestate"] == b"a=1"


def test_no_format_leaves_all_as_it_came() -> None:
    bench = Bench([], 1.0)
    assert bench.sent((b"traceparent", PARENT + b"-01")) == [(b"traceparent", PARENT + b"-01")]
    assert bench.begin((b"traceparent", PARENT + b"-01")).trace.trace_id != TRACE


# ----- sampling


def test_new_traces_are_sampled_by_ratio_and_others_follow_their_parent() -> None:
    bench = Bench(ratio=0.25)
    share = sum(bench.begin().trace.is_sampled for _ in range(4000)) / 4000
    assert 0.22 < share < 0.28
    assert bench.begin((b"traceparent", PARENT + b"-01")).trace.is_sampled
    assert not bench.begin((b"traceparent", PARENT + b"-00")).trace.is_sampled
    assert all(Bench(ratio=1.0).begin().trace.is_sampled for _ in range(100))
    assert not any(Bench(ratio=0.0).begin().trace.is_sampled for _ in range(100))


def test_all_who_see_an_id_agree() -> None:
    first, second = Bench(ratio=0.5), Bench(ratio=0.5, parent_based=False)
    for _ in range(100):
        trace = first.begin().trace
        again = second.begin((b"traceparent", b"00-" + trace.trace_id + b"-" + SPAN + b"-00")).trace
        assert again.is_sampled == trace.is_sampled


@pytest.mark.parametrize(("ratio", "flags"), [(0.0, b"-01"), (1.0, b"-00")])
def test_a_sampler_that_asks_no_parent(ratio: float, flags: bytes) -> None:
    x = Bench(ratio=ratio, parent_based=False).begin((b"traceparent", PARENT + flags))
    assert x.trace.is_sampled == bool(ratio)


# ----- tail rules


def test_what_is_sampled_is_kept_and_the_rest_forgotten() -> None:
    bench = Bench()
    assert bench.end(bench.begin((b"traceparent", PARENT + b"-01"))) == "sampled"
    assert bench.end(bench.begin()) == ""
    assert bench.end(bench.begin(), failed(RESET), 100.0) == "", "there are no tail rules"
    assert [why for _, why in bench.sink.kept] == ["sampled"]


def test_tail_rules_keep_errors_slow_ones_and_transitions_and_leave_the_flag_alone() -> None:
    bench = Bench(keep={"slower_than": "1s"})
    assert bench.end(bench.begin(), Outcome(500)) == "error"
    assert bench.end(bench.begin(), failed(RESET)) == "error"
    assert bench.end(bench.begin(), Outcome(404)) == ""
    assert bench.end(bench.begin(), seconds=0.99) == ""
    assert bench.end(bench.begin(), seconds=1.01) == "slow"
    x = bench.begin()
    x.fork(2, "retry:503").trace.note("breaker.changed", before="closed", after="open")
    assert bench.end(x) == "breaker"
    assert not x.trace.is_sampled
    assert bench.env.meter.value("sidecar.traces.kept") == 4


def test_tail_rules_have_a_limit() -> None:
    bench = Bench(keep={"at_most": "10/s"})
    assert sum(bench.end(bench.begin(), Outcome(500)) == "error" for _ in range(100)) == 10
    bench.env.advance(0.5)
    assert sum(bench.end(bench.begin(), Outcome(500)) == "error" for _ in range(100)) == 5
    assert bench.env.meter.value("sidecar.telemetry.dropped", reason="at_most") == 185
    assert bench.end(bench.begin((b"traceparent", PARENT + b"-01")), Outcome(500)) == "sampled"


class Zeros(random.Random):
    def getrandbits(self, k: int) -> int:
        return 0


def test_chance_never_makes_an_id_of_zeros() -> None:
    env = make_env()
    tracer = Tracer(Propagation(["w3c"]), Sink(), env.now, Zeros(), env.meter)
    x = Exchange(b"GET", b"/", None, b"")
    tracer.begin(x)
    attempt = Attempt(1, 0.0)
    x.trace.attempt(x, attempt)
    assert int(x.trace.trace_id, 16)
    assert attempt.span_id
    assert x.trace.span_id
