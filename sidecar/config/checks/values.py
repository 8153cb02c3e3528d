"""Check of single values: warnings for valid values that are zero, absurd, or contradict a value beside them.

These are warnings, not errors: a test may need a timeout of a microsecond.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

from pydantic import WithJsonSchema

from sidecar.config.node import Node
from sidecar.config.process_spec import ListenerSpec
from sidecar.config.report import Report
from sidecar.config.spec import CANDIDATE, PolicySpec, RouteSpec, UpstreamSpec
from sidecar.core.spec import Model
from sidecar.rollout.spec import ReturnSpec, SplitSpec

DAY: Final = 86_400.0
LONGEST: Final = 7 * DAY
"""Longest plausible time in seconds; a longer one is probably a wrong unit."""
LONGEST_KEPT: Final = 366 * DAY
"""Longest plausible time in seconds for the keys of `KEPT`."""
KEPT: Final = frozenset(("ttl", "keep", "keep_for", "stale_while_revalidate", "stale_if_error", "retry_after"))
"""Keys that say how long something is stored."""
SHORTEST: Final = 0.001
"""Shortest plausible time in seconds; timers and networks are no more precise."""
DECISIVE: Final = ("blocks", "criticality", "by_caller")
"""Attributes of a route in which a candidate of its policies can differ."""
SMALLEST: Final = 1e-9
"""Share that is nothing but an error of rounding."""
HUGE: Final = 2**40
"""Largest plausible size in bytes."""
_ZERO_SHARES: Final = {
    "failure_rate": "opens the circuit at the first failure; write such as 50%, or off",
    "slow_calls.rate": "opens the circuit at the first slow call; write such as 50%",
    "latency.share": "delays nothing; write such as 10%, or take it out",
    "abort.share": "aborts nothing; write such as 10%, or take it out",
    "reset.share": "resets nothing; write such as 10%, or take it out",
    "share": "copies nothing; write such as 10%, or off",
}
"""Warnings for a share of zero, by the path of its key in the block."""
_MOST: Final = {
    "untrusted.min_deadline": (
        60.0, "is so long that it replaces almost every client's deadline; write such as 100ms, or leave it out"
    ),
    "slow_clients.grace": (600.0, "is so long that slow clients are almost never cut off; write such as 5s"),
    "slow_clients.min_rate": (
        2.0**20, "cuts off clients on ordinary networks, which are slower; write such as 1KiB/s"
    ),
    "slow_clients.buffer": (2.0**28, "is the memory that each slow client may take; write such as 256KiB"),
    "header_timeout": (600.0, "lets clients hold connections with an incomplete request; write such as 10s"),
    "max_refused": (
        0.999, "leaves about one attempt in a window to find out that the upstream is well; write such as 90%"
    ),
    "max_wait": (2.0, "is so long that attempts go on at a rate that is no longer wanted; write such as 200ms"),
    "connect_timeout": (60.0, "lets requests wait that long for an endpoint that is down; write such as 1s"),
}  # fmt: skip
"""Largest usual values with the warning for a larger one, by the path of the key in its section."""


class Values:
    """Check of values; a block that many routes inherit is checked once."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._seen: dict[int, object] = {}

    def check(self, spec: PolicySpec) -> None:
        """Warn of values in the sections; blocks of routes go to `check_block`."""
        self._check_quantities(spec.limits, spec.node.nearest("limits"))
        for section in ("listeners", "upstreams", "caches"):
            for name, each in getattr(spec, section).items():
                node = spec.node.find((section, name))
                if node is not None:
                    self._check_quantities(each, node)
                    if isinstance(each, UpstreamSpec):
                        self._check_upstream(each, node)
                    elif isinstance(each, ListenerSpec):
                        self._check_listener(each, node)

    def check_block(self, key: str, block: Any, node: Node | None) -> None:
        """Warn of values in one block of a route."""
        if node is None or id(node) in self._seen:
            return
        self._seen[id(node)] = node
        self._check_quantities(block, node)
        self._check_contradictions(key, block, node)

    # ----- each value by itself

    def _check_quantities(self, model: Model, node: Node) -> None:
        """Warn of implausible durations, sizes and shares, at any depth of a model."""
        for path, value, given in _values(model, node):
            kind = kind_of(type(value[0]), value[1])
            number = value[2]
            if kind == "duration" and isinstance(number, float):
                is_kept = KEPT.intersection(path.split(".")) and not path.startswith("resolve.")
                longest = LONGEST_KEPT if is_kept else LONGEST
                if 0 < number < SHORTEST:
                    self._report.warn(given, "is shorter than a millisecond; is the unit right?")
                elif longest < number < float("inf"):
                    words = given.origin.written if given.origin is not None else f"{number / DAY:,.0f} days"
                    self._report.warn(given, f"is {words} long; is the unit right?")
            elif kind == "size" and isinstance(number, int) and number > HUGE:
                self._report.warn(given, "is more than 1 TiB; is the unit right?")
            if isinstance(number, float | int) and number > _MOST.get(path, (LONGEST,))[0] and path in _MOST:
                self._report.warn(given, _MOST[path][1])
            elif kind == "share" and number == 0 and path in _ZERO_SHARES:
                self._report.warn(given, _ZERO_SHARES[path])

    # ----- values beside each other

    def _check_contradictions(self, key: str, block: Any, node: Node) -> None:
        """Warn of values in a block that contradict each other."""
        warn = self._report.warn
        if key == "retry":
            backoff = block.backoff
            if backoff.base > backoff.max:
                base, most = (
                    node.printable(f"{backoff.base:g}s", "backoff", "base"),
                    node.printable(f"{backoff.max:g}s", "backoff", "max"),
                )
                message = f"is longer than backoff.max ({most}), so every wait is that; make max at least {base}"
                warn(node.nearest("backoff", "base"), message)
            if block.max_attempts == 1 and node.find(("max_attempts",)) is not None:
                warn(node.nearest("max_attempts"), "never retries, since the first try counts; write 2 or more")
        elif key == "pacing" and block.max_wait == 0 and node.find(("waiting",)) is not None:
            warn(
                node.nearest("waiting"),
                "has no effect without max_wait; write such as max_wait: 100ms",
            )
        elif key == "concurrency" and block.queue == 0 and node.find(("queue_timeout",)) is not None:
            warn(node.nearest("queue_timeout"), "has no effect without a queue; write such as queue: 100")

    def _check_listener(self, listener: ListenerSpec, node: Node) -> None:
        """Warn of buffers for slow clients that contradict each other."""
        slow = listener.slow_clients
        if slow.buffer > slow.buffer_total:
            buffer = node.printable(f"{slow.buffer} bytes", "slow_clients", "buffer")
            message = f"is less than buffer ({buffer}), which one client may take; make it many times as large"
            self._report.warn(node.nearest("slow_clients", "buffer_total"), message)

    def _check_upstream(self, upstream: UpstreamSpec, node: Node) -> None:
        """Warn of probes and retry budgets that cannot work, and check the blocks of the upstream."""
        check = upstream.health_check
        if check is not None and check.timeout > check.interval:
            interval = node.printable(f"{check.interval:g}s", "health_check", "interval")
            message = f"is longer than the interval ({interval}), so probes come later than that; make it shorter"
            self._report.warn(node.nearest("health_check", "timeout"), message)
        budget = upstream.retry_budget
        if budget.ratio == 0 and budget.min_per_second == 0:
            self._report.warn(node.nearest("retry_budget"), "allows no retry at all; give a ratio or min_per_second")
        for key in ("circuit_breaker", "concurrency", "rate_limit", "quota", "pacing"):
            block = getattr(upstream, key)
            if block is not None:
                self.check_block(key, block, node.child(key))


def check_rollout(route: RouteSpec, node: Node, report: Report) -> None:
    """Warn of a rollout in which an arm gets no requests, or in which both arms do the same.

    `node` is that of the route as its file has it.
    """
    rule = route.rollout
    if rule is None:
        return
    is_split = isinstance(rule, SplitSpec)
    settings = node.nearest("upstream" if is_split else CANDIDATE)
    for arm, share in zip(route.arms, route.shares, strict=True):
        if not is_split and [getattr(arm, name) for name in DECISIVE] == [getattr(route, name) for name in DECISIVE]:
            report.warn(settings, "has the same policies as the route itself, so both arms do the same; write others")
        if not share and rule.ramp is None and not rule.is_observed:
            at = settings.nearest("split", arm.upstream) if is_split else settings.nearest("share")
            report.warn(at, "gets no requests; write such as 5%, or a ramp")
    if rule.return_when is not None:
        if 1 - sum(route.shares) < SMALLEST:
            message = "compares with the stable arm, which gets no requests; leave it a share"
            report.warn(settings.nearest("return_when"), message)
        if rule.return_when == ReturnSpec.built_in(breaker=False):
            report.warn(
                settings.nearest("return_when"), "takes nothing back; write such as errors: {worse_by_points: 1}"
            )
    if rule.ramp is not None and rule.ramp.to == route.shares[0]:
        message = "is the share at the start, so the ramp changes nothing; write a larger one"
        report.warn(settings.nearest("ramp", "to"), message)


def check_stored(spec: PolicySpec, report: Report) -> None:
    """Warn of each `cache` block whose largest allowed response is larger than its whole store."""
    for route in spec.all_routes:
        block: Any = route.blocks.get("cache")
        store = spec.caches.get(block.store) if block is not None else None
        if store is not None and block.max_body > store.memory.max_size:
            size = f"{store.memory.max_size} bytes"
            message = f"is more than the whole cache `{block.store}` holds ({size}); such responses are never stored"
            report.warn(route.node.nearest("cache", "max_body"), message)


def _values(model: Model, node: Node, path: str = "") -> Iterator[tuple[str, tuple[Model, str, Any], Node]]:
    """Yield each value that the files give: its path, then model, field name and value, then its node."""
    for name, field in type(model).model_fields.items():
        key = field.alias or name
        given = node.child(key)
        if given is None:
            continue
        value = getattr(model, name)
        if isinstance(value, Model):
            yield from _values(value, given, f"{path}{key}.")
        else:
            yield path + key, (model, name, value), given


@cache
def kind_of(model: type[Model], name: str) -> str:
    """Return the kind of a field by its schema: `duration`, `size`, `share`, `rate`, or empty for any other."""
    text = repr(_schemas(model.model_fields[name]))
    kinds = {"(us|ms|s|m|h)": "duration", "KiB": "size", "?%": "share", "/(s|m|h)": "rate"}
    return next((kind for part, kind in kinds.items() if part in text), "")


def _schemas(field: Any) -> list[Any]:
    """Return the JSON Schemas in the annotations of a field, at any depth."""
    found: list[Any] = []
    pending: list[Any] = [*field.metadata, field.annotation]
    while pending:
        each = pending.pop()
        if isinstance(each, WithJsonSchema):
            found.append(each.json_schema)
        pending += [*getattr(each, "__metadata__", ()), *getattr(each, "__args__", ())]
        if (origin := getattr(each, "__origin__", None)) is not None and hasattr(origin, "__args__"):
            pending.append(origin)
    return found
