"""Limits that the project has set itself, and the table of a run's figures beside them.

A ratio is taken of two samples of the same round, measured one after the other; its median over the rounds is reported.
The machine's speed changes within seconds, so a ratio of medians would compare different seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

from bench import startup
from bench.costs import Cost
from bench.scenarios import Sample
from bench.startup import Starts

Samples = Mapping[tuple[str, str], Sequence[Sample]]
"""Samples by the names of scenario and peer, in the order of the rounds; as many of each peer."""

OURS: Final = "sidecar"
PURE: Final = "pure"
REFERENCE: Final = "envoy"


def ratio(one: Sequence[Sample], other: Sequence[Sample], field: str) -> float | None:
    """Return the median over the rounds of one figure divided by the other; None if one was not measured."""
    pairs = ((getattr(a, field), getattr(b, field)) for a, b in zip(one, other, strict=True))
    found = [a / b for a, b in pairs if b]
    return median(found) if found else None


class Unit(NamedTuple):
    """Unit and format of a figure."""

    form: str
    rest: str = ""
    """Text after a bound."""
    size: float = 1


UNITS: Final = {
    "idle": Unit("{:.1f} KiB", size=1024),
    "times": Unit("{:.2f}x", " that without a cache"),
    "errors": Unit("{:.4%}"),
}


class Limit(NamedTuple):
    """Limit of one figure of the sidecar."""

    what: str
    scenario: str
    field: str
    """Field of `Sample`."""
    bound: float
    of: tuple[str, str] | None = None
    """Scenario and peer whose figure the bound multiplies; None: the bound is absolute, in the unit of `UNITS`."""
    is_least: bool = False
    """True if the bound is a minimum."""
    build: str = OURS
    """Peer that is judged: the sidecar's best build, or `PURE`."""

    def measured(self, samples: Samples) -> float | None:
        """Return the measured figure; None if the run did not measure it."""
        ours = samples.get((self.scenario, self.build))
        if not ours:
            return None
        if self.of is None and self.field == "errors":
            return max(sample.errors for sample in ours)  # a median would hide a failure in a few rounds
        if self.of is None:
            return float(median(getattr(sample, self.field) for sample in ours)) / UNITS[self.field].size
        theirs = samples.get(self.of)
        return ratio(ours, theirs, self.field) if theirs else None

    def row(self, samples: Samples) -> str | None:
        """Return the row of the table as Markdown; None if the figure was not measured."""
        found = self.measured(samples)
        if found is None:
            return None
        holds = found >= self.bound if self.is_least else found <= self.bound
        unit = UNITS[self.field] if self.of is None else Unit("{:.2f}x", f" {self.of[1]}'s")
        bound = f"{'at least' if self.is_least else 'at most'} {unit.form.format(self.bound)}{unit.rest}"
        return line(self.what, bound, unit.form.format(found), holds)


def against(
    scenario: str,
    field: str,
    what: str,
    bound: float,
    peer: str = REFERENCE,
    *,
    is_least: bool = False,
    build: str = OURS,
) -> Limit:
    """Return a limit that is a ratio to a peer in the same scenario."""
    return Limit(what, scenario, field, bound, (scenario, peer), is_least, build)


NGINX: Final = "nginx"
RELAY: Final = "relay"
AIOHTTP: Final = "aiohttp"
LIMITS: Final = (
    against("small", "cpu", "small answers, 32 connections: CPU a request", 0.32),
    against("small", "cpu", "small answers, 32 connections: CPU a request", 1.4, NGINX),
    against("small", "cpu", "small answers, 32 connections: CPU a request", 1.25, RELAY),
    against("small", "cpu", "the same, pure Python: CPU a request", 0.6, build=PURE),
    against("small", "per_second", "small answers, 32 connections: requests/s", 2.5, is_least=True),
    against("small", "p99", "small answers, 32 connections: p99", 0.7),
    against("single", "p50", "small answers, 1 connection: p50", 0.65),
    against("single", "p50", "small answers, 1 connection: p50", 1.1, NGINX),
    against("large", "cpu", "64 KiB answers: CPU a request", 0.55),
    against("large", "cpu", "64 KiB answers: CPU a request", 0.8, NGINX),
    against("large", "per_second", "64 KiB answers: requests/s", 1.0, is_least=True),
    against("limited", "cpu", "a request under a rate limit: CPU a request", 0.4),
    against("parts", "cpu", "an answer made of three: CPU a request", 0.5, AIOHTTP),
    against("idle", "resident", "memory after all that fills no cache", 1.0),
    Limit("an idle keep-alive connection", "idle", "idle", 9.0),
    against("cache", "cpu", "a hit of the cache: CPU a request", 0.35),
    against("cache", "cpu", "a hit of the cache: CPU a request", 0.9, NGINX),
    Limit("a miss that is stored: CPU a request", "stored", "times", 1.1),
    against("tls_downstream", "cpu", "TLS towards clients: CPU a request", 0.7),
    against("traced", "cpu", "1 % traced: CPU a request", 0.4),
    against("traced", "per_second", "1 % traced: requests/s", 1.3, is_least=True),
    against("traced", "p99", "1 % traced: p99", 1.0),
    against("unary", "cpu", "gRPC, 4 connections with 8 streams: CPU a call", 0.65),
    against("unary", "cpu", "the same, pure Python", 1.0, build=PURE),
    against("unary_single", "cpu", "gRPC, 32 connections with one stream: CPU a call", 0.75),
    against("http2_to_http1", "cpu", "HTTP/2 to HTTP/1.1: CPU a request", 0.7),
    against("http1_to_http2", "cpu", "HTTP/1.1 to HTTP/2: CPU a request", 0.8),
    against("transcoded", "cpu", "REST to gRPC, 1.2 KB: CPU a request", 0.65),
    against("list", "cpu", "messages of 1 KiB, 100 in each answer: CPU a message", 0.8),
    against("watch", "cpu", "messages of 1 KiB, 200 a second on each stream: CPU a message", 0.8),
    Limit("an idle HTTP/2 connection", "http2_idle", "idle", 9.0),
    Limit("a GOAWAY a second at full load: failed calls, the worst round", "goaway", "errors", 0.0),
)


def line(what: str, bound: str, found: str, holds: bool) -> str:
    return f"| {what} | {bound} | {found} | {'yes' if holds else '**no**'} |"


def table(samples: Samples, costs: Sequence[Cost], starts: Starts) -> list[str]:
    """Return the limits and the figures of a run as Markdown.  CPU until ready has no limit."""
    rows = [row for limit in LIMITS if (row := limit.row(samples)) is not None]
    rows += [
        line(
            f"{cost.name}: CPU that it adds",
            f"at most {cost.limit:.2f}x the request without it",
            f"{cost.share:.2f}x",
            cost.holds,
        )
        for cost in costs
        if cost.limit is not None
    ]
    if (times := startup.ratio(starts, OURS, REFERENCE)) is not None:
        rows.append(f"| CPU until ready | no limit | {times:.2f}x {REFERENCE}'s | |")
    return ["| | must be | measured | holds |", "|---|---:|---:|---|", *rows] if rows else []
