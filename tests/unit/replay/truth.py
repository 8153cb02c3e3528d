"""Made ground truth: upstreams whose behaviour is known, and the log that the sidecar writes in front of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from sidecar.config.files import Source
from sidecar.config.load import load
from sidecar.config.spec import PolicySpec
from sidecar.core.exchange import NEVER, Exchange
from sidecar.core.outcome import Outcome
from sidecar.replay.fit import Answer
from sidecar.replay.formats import read_sidecar
from sidecar.replay.record import Record, Request, read
from sidecar.replay.tally import Numbers
from sidecar.replay.world import run_world
from sidecar.simulation.loop import EPOCH
from sidecar.telemetry.logs.access import as_json, word

A, B = "http://app-1:80", "http://app-2:80"
POLICIES = """
version: 1
listeners: {inbound: {address: "127.0.0.1:0"}}
upstreams: {app: {endpoints: ["http://app-1:80", "http://app-2:80"]%s}}
routes:
  - {name: orders, upstream: app%s}
"""


def policies(route: str = "", upstream: str = "") -> PolicySpec:
    """Return policies with more keys of the route and of the upstream."""
    loaded = load([Source("policies.yaml", (POLICIES % (_more(upstream), _more(route))).encode())], {})
    assert loaded.spec is not None, list(map(str, loaded.problems))
    return loaded.spec


def _more(keys: str) -> str:
    return f", {keys}" if keys else ""


class Truth:
    """Upstreams with lognormal latency and failures that depend on the time and on the endpoint.

    - `errors`: share of answers with 503 at any time.
    - `slow`: share of answers that take `slow_seconds` more.
    - `down`: endpoints and times at which every answer is a 503 after a quarter of a second.
    - `hangs`: share of requests that are never answered.
    - `load`: how much slower an answer is for each other call in flight beyond `free` ones, as a share.
    - `sheds`: share of calls that fail at once for each other call in flight beyond `free` ones.
    - `refusing`: endpoints and times at which connections are refused.
    """

    def __init__(
        self,
        *,
        errors: float = 0.0,
        slow: float = 0.0,
        slow_seconds: float = 0.8,
        down: Sequence[tuple[str, float, float]] = (),
        refusing: Sequence[tuple[str, float, float]] = (),
        hangs: float = 0.0,
        load: float = 0.0,
        sheds: float = 0.0,
        free: int = 2,
    ) -> None:
        self.errors = errors
        self.slow = slow
        self.slow_seconds = slow_seconds
        self.down = down
        self.refusing = refusing
        self.hangs = hangs
        self.load = load
        self.sheds = sheds
        self.free = free

    def refuses(self, endpoint: str, at: float, rng: random.Random) -> str:
        return "connect_failure" if _is_within(self.refusing, endpoint, at) else ""

    def draw(
        self, route: str, endpoint: str, at: float, rng: random.Random, *, is_again: bool, is_new: bool, in_flight: int
    ) -> Answer:
        if _is_within(self.refusing, endpoint, at):
            return Answer(0.0, 0, "connect_failure")
        if _is_within(self.down, endpoint, at):
            return Answer(0.25, 503)
        if self.sheds and rng.random() < self.sheds * max(0, in_flight - self.free):
            return Answer(0.005, 503)
        if rng.random() < self.hangs:
            return Answer(NEVER, 0)
        seconds = rng.lognormvariate(-3.2, 0.5)
        if rng.random() < self.slow:
            seconds += self.slow_seconds * (0.5 + rng.random())
        seconds *= 1 + self.load * max(0, in_flight - self.free)
        return Answer(seconds, 503 if rng.random() < self.errors else 200)


def _is_within(spans: Sequence[tuple[str, float, float]], endpoint: str, at: float) -> bool:
    return any(name in ("", endpoint) and first <= at < last for name, first, last in spans)


def traffic(count: int, rate: float, seed: int = 0, paths: int = 40) -> list[Request]:
    """Return requests that arrive at random with a rate a second."""
    rng = random.Random(f"traffic:{seed}")
    at, found = 0.0, []
    for _ in range(count):
        at += rng.expovariate(rate)
        path = f"/orders/{min(rng.randrange(paths), rng.randrange(paths))}"
        found.append(Request(at, "GET", "shop.test", path, f"10.0.0.{rng.randrange(20)}", "", "orders", 0, "", 0.0))
    return found


def logged(spec: PolicySpec, truth: Truth, requests: Sequence[Request], seed: int) -> tuple[Numbers, list[bytes]]:
    """Return the true numbers of policies, and the lines of the access log."""
    lines: list[bytes] = []
    shown: Callable[[str], bytes] = word

    def observe(x: Exchange, outcome: Outcome, seconds: float) -> None:
        stamp = datetime.fromtimestamp(EPOCH + x.arrived + seconds, UTC).isoformat(timespec="milliseconds")
        lines.append(as_json(stamp.replace("+00:00", "Z").encode(), x, outcome, outcome.reason, seconds, shown))

    return run_world(spec, requests, truth, seed, observe=observe), lines


def recorded(spec: PolicySpec, truth: Truth, requests: Sequence[Request], seed: int = 11) -> Record:
    """Return the record of the log that the sidecar writes."""
    return read(logged(spec, truth, requests, seed)[1], read_sidecar)
