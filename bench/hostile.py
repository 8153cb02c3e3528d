"""Growth of CPU time with the size of hostile input: `python -m bench.hostile [--times 9]`.

Each case runs in turn at two sizes, one eight times the other.  The shortest time of each counts, and the ratio is
printed: 8 where work is linear, 64 where it is quadratic.  Tests such as `tests/wire/test_linear.py` bound the number
of calls and of a pattern's steps on every machine; only a clock sees the cost inside one call.  The exit code is 1 if a
case grows more than `MOST` times.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.core.exchange import Exchange
from sidecar.core.http1 import ChunkedDecoder, Invalid, parse_request, parse_response
from sidecar.expression.condition import Condition
from sidecar.expression.facts import REQUEST
from sidecar.inspect.dry import compile_dry
from sidecar.transform.jsonbody import InvalidBody, parse

FACTOR: Final = 8
MOST: Final = 24.0
LIMIT: Final = 2**20
"""Bytes of a head."""
HEAD: Final = b"GET / HTTP/1.1\r\nHost: a\r\n"
Work = Callable[[], object]


class Case(NamedTuple):
    """Function under test and its hostile input."""

    name: str
    size: int
    """Bytes, or routes, of the smaller input."""
    prepare: Callable[[int], Work]


class Growth(NamedTuple):
    """CPU seconds at the two sizes."""

    small: float
    large: float

    @property
    def ratio(self) -> float:
        return self.large / self.small


def request(unit: bytes, head: bytes = HEAD) -> Callable[[int], Work]:
    """Prepare the parsing of a request's head, filled with a repeated unit."""
    return lambda size: lambda: parse_request(head + unit * (size // len(unit)) + b"\r\n", LIMIT)


def response(unit: bytes) -> Callable[[int], Work]:
    return lambda size: lambda: parse_response(b"HTTP/1.1 200 OK\r\n" + unit * (size // len(unit)) + b"\r\n", LIMIT)


def chunks(unit: bytes) -> Callable[[int], Work]:
    return lambda size: lambda: ChunkedDecoder().feed(unit * (size // len(unit)))


def body(begin: bytes, unit: bytes, end: bytes = b"") -> Callable[[int], Work]:
    """Prepare the reading and writing of a JSON body."""
    return lambda size: lambda: parse(begin + unit * (size // len(unit)) + end).encoded()


def condition(text: str, unit: bytes) -> Callable[[int], Work]:
    """Prepare the evaluation of a condition on a field and a path made of units."""
    compiled = Condition(text, REQUEST)

    def prepare(size: int) -> Work:
        junk = unit * (size // len(unit))
        x = Exchange(b"GET", b"/" + junk, None, b"x: %b\r\n" % junk)
        return lambda: compiled.holds(x)

    return prepare


def check(routes: int) -> Work:
    """Prepare `sidecar check` of a file with so many routes."""
    block = {"retry": {"max_attempts": 3}, "circuit_breaker": {"min_calls": 20}, "timeout": {"request": "3s"}}
    policies = {
        "version": 1,
        "listeners": {"inbound": {"address": "127.0.0.1:8080"}},
        "upstreams": {"app": {"endpoints": ["http://127.0.0.1:80"]}},
        "routes": [
            {"name": f"r{n}", "match": {"path": f"/r{n}/{{id}}"}, "upstream": "app"} | block for n in range(routes)
        ],
    }
    source = Source("policies.yaml", json.dumps(policies, indent=2).encode())

    def run() -> None:
        spec = load([source], {}).spec
        assert spec is not None
        compile_dry(spec)

    return run


CASES: Final = (
    Case("request: many fields", 8192, request(b"X: y\r\n")),
    Case("request: a long value", 8192, request(b"y", HEAD + b"X: ")),
    Case("request: white space", 8192, request(b" ", HEAD + b"X:")),
    Case("request: a long method", 8192, request(b"G", b"")),
    Case("response: many fields", 8192, response(b"X: y\r\n")),
    Case("chunks: one byte each", 8192, chunks(b"1\r\nx\r\n")),
    Case("chunks: extensions", 8192, chunks(b'1;a="b"\r\nx\r\n')),
    Case("body: many keys twice", 8192, body(b'{"a":1', b',"k":1', b"}")),
    Case("body: escapes", 8192, body(b'{"a":"', b"\\u0061", b'"}')),
    Case("body: a long number", 8192, body(b"", b"1")),
    Case("body: white space", 8192, body(b"", b" \n", b"1")),
    Case("condition: contains", 8192, condition("request.headers['x'].contains('aab')", b"aa")),
    Case("condition: matches", 8192, condition("request.path.matches('^[a-z]+$')", b"a")),
    Case("check of 25 and 200 routes", 25, check),
)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hide all existing objects from the garbage collector."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def seconds(work: Work) -> float:
    """Return the CPU seconds of one call."""
    began = time.thread_time()
    with suppress(Invalid, InvalidBody):
        work()
    return max(time.thread_time() - began, 1e-6)


def measure(case: Case, times: int) -> Growth:
    """Return the least CPU time at each of the two sizes."""
    small, large = case.prepare(case.size), case.prepare(case.size * FACTOR)
    with undisturbed():
        pairs = [(seconds(small), seconds(large)) for _ in range(times)]
    return Growth(min(first for first, _ in pairs), min(second for _, second in pairs))


def main(argv: list[str] | None = None, cases: tuple[Case, ...] = CASES) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.hostile", description="Measure the growth of CPU time with hostile input."
    )
    parser.add_argument("--times", type=int, default=9, help="number of runs of each case (9)")
    options: Any = parser.parse_args(argv)
    grown = []
    for case in cases:
        growth = measure(case, options.times)
        print(f"{case.name:<28} {growth.small * 1e3:8.3f} ms {growth.large * 1e3:8.3f} ms  {growth.ratio:5.1f}x")
        if growth.ratio > MOST:
            grown.append(case.name)
    if grown:
        raise SystemExit(f"more than {MOST:g} times as long for {FACTOR} times the input: {', '.join(grown)}")


if __name__ == "__main__":
    main()
