"""Rules along a chain of services: what is right beside each service and wrong together."""

from __future__ import annotations

from collections.abc import Iterator
from math import isinf
from typing import Final

from sidecar.config.node import Node
from sidecar.config.spec import AGGREGATE
from sidecar.lint.arithmetic import number, seconds
from sidecar.lint.chain import Chain, Hop, Path, load_in_outage
from sidecar.lint.facts import UpstreamFacts
from sidecar.lint.rule import Hit, Rule, RuleText, chain_rule

MANY: Final = 10
"""Calls of the last service for one request, above which a chain multiplies load."""
OUTAGE: Final = 2.0
"""Factor of the load in an outage above which retry budgets do not bound it."""

_HEAD: Final = """\
service: {0}
listeners: {{inbound: {{address: "127.0.0.1:1{1}"}}, outbound: {{address: "127.0.0.1:2{1}"}}}}
upstreams: {{app: {{endpoints: ["http://127.0.0.1:9000"]}}, {2}: {{endpoints: ["http://{2}:8080"]{4}}}}}
routes:
  - {{name: in, listener: inbound, upstream: app, timeout: {{request: 3s}}}}
  - {{name: call, listener: outbound, upstream: {2}, {3}}}
"""
_LAST: Final = """\
service: stock
listeners: {inbound: {address: "127.0.0.1:1003"}}
upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}}
routes: [{name: in, listener: inbound, upstream: app, timeout: {request: 1s}}]
"""
_CIRCLE: Final = """\
service: web
listeners: {inbound: {address: "127.0.0.1:1001"}, outbound: {address: "127.0.0.1:2001"}}
upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}, stock: {endpoints: ["http://stock:8080"]}}
routes:
  - {name: in, listener: inbound, upstream: app, timeout: {request: 3s}}
  - {name: call, listener: outbound, upstream: stock, timeout: {request: 2s}}
---
service: stock
listeners: {inbound: {address: "127.0.0.1:1002"}, outbound: {address: "127.0.0.1:2002"}}
upstreams: {app: {endpoints: ["http://127.0.0.1:9000"]}, web: {endpoints: ["http://web:8080"]}}
routes:
  - {name: in, listener: inbound, upstream: app, timeout: {request: 2s}}
  - {name: back, listener: outbound, upstream: web, timeout: {request: 1s}}
"""


def _two(web: str, orders: str, budget: str = "") -> str:
    """Return three services: web calls orders, and orders calls stock."""
    first = _HEAD.format("web", "001", "orders", web, budget)
    return f"{first}---\n{_HEAD.format('orders', '002', 'stock', orders, budget)}---\n{_LAST}"


def _one(policy: str) -> str:
    """Return two services: web calls stock."""
    return f"{_HEAD.format('web', '001', 'stock', policy, '')}---\n{_LAST}"


_RETRY: Final = "timeout: {request: 3s}, retry: {max_attempts: 4}"
_PLAIN: Final = "timeout: {request: 2500ms}"


@chain_rule(
    RuleText(
        "R101",
        "Inverted timeouts along a chain",
        "warning",
        "Work goes on for a caller that has left: capacity is spent on answers that nobody reads.",
        "SRE book ch. 22: deadline propagation; KrakenD's rule on timeouts: client > gateway > API",
        _one("timeout: {request: 5s}"),
        _one("timeout: {request: 2s}"),
    )
)
def inverted_timeouts(chain: Chain) -> Iterator[Hit]:
    for path in chain.paths:
        for outer, inner in zip(path.hops, path.hops[1:], strict=False):
            waits, works = outer.route.limit, inner.route.worst.seconds
            if works <= waits * (1 + 1e-9) or isinf(waits) or _travels(outer, inner):
                continue
            limit = seconds(works) if not isinf(works) else "without a limit"
            who = f"{outer.name} waits {seconds(waits)} for it at most"
            remedy = f"make timeout.request of {inner.name} shorter than that"
            if outer.service == inner.service:
                remedy += f", and let {outer.service} pass on the remaining time"
            yield Hit(_node(inner), f"may work {limit}, but {who} ({' > '.join(path.services)}); {remedy}")


def _travels(outer: Hop, inner: Hop) -> bool:
    """True if the remaining time surely travels: from a sidecar to the next one, with the default field."""
    if AGGREGATE in outer.route.blocks:
        return True  # a part has what its request has left
    sent, read = outer.route.timeout, inner.route.timeout
    if outer.service == inner.service or sent is None or read is None:
        return False
    return bool(sent.header == read.header != "off")


def _node(hop: Hop) -> Node:
    """Return the node of the limit of a hop."""
    return hop.route.at("timeout", "request")


@chain_rule(
    RuleText(
        "R102",
        "Tries that multiply along a chain",
        "warning",
        "Each layer repeats the tries of the next: the last service gets the product, when it can serve least.",
        "SRE book ch. 22: 4 attempts at three layers are 64; Amazon Builders' Library: retry at one layer",
        _two(_RETRY, _RETRY),
        _two("timeout: {request: 3s}, retry: {max_attempts: 2}", _PLAIN),
    )
)
def multiplied_tries(chain: Chain) -> Iterator[Hit]:
    seen: dict[tuple[str, str], Path] = {}
    for path in chain.paths:
        layers = [hop.name for hop, factor in zip(path.hops, path.factors, strict=True) if factor > 1]
        if path.calls >= MANY and len(layers) > 1:
            ends = layers[0], path.services[-1]
            if ends not in seen or seen[ends].calls < path.calls:
                seen[ends] = path
    for path in seen.values():
        repeating = [(hop, factor) for hop, factor in zip(path.hops, path.factors, strict=True) if factor > 1]
        product = " x ".join(f"{factor} ({hop.name})" for hop, factor in repeating)
        hop = repeating[0][0]
        yield Hit(
            hop.route.at("retry", "max_attempts") if hop.route.tries > 1 else hop.route.at("hedge", "max_extra"),
            f"is one of {len(repeating)} layers that repeat: one request becomes {path.calls} calls of "
            f"{path.services[-1]}, {product}; retry at one layer, the one next to {path.services[-1]}",
        )


@chain_rule(
    RuleText(
        "R103",
        "Retry budgets that do not bound a chain",
        "warning",
        "Budgets multiply along a chain too: in an outage the last service gets the product of their ratios.",
        "SRE book ch. 21: a budget of 10 % for each client; Finagle RetryBudget",
        _two(_RETRY, _RETRY, ", retry_budget: {ratio: 50%}"),
        _two("timeout: {request: 3s}, retry: {max_attempts: 2}", _PLAIN, ", retry_budget: {ratio: 20%}"),
    )
)
def unbounded_outage(chain: Chain) -> Iterator[Hit]:
    seen: dict[tuple[str, str, str], tuple[Path, str, UpstreamFacts]] = {}
    for path in chain.paths:
        loads = [(hop, load_in_outage(hop.route)) for hop in path.hops[:-1]]
        loads = [each for each in loads if each[1] > 1]
        if path.outage > OUTAGE and len(loads) > 1:
            product = " x ".join(f"{number(load)} ({hop.name})" for hop, load in loads)
            hop = max(loads, key=lambda each: each[1])[0]
            if (upstream := hop.route.upstream) is not None:
                ends = hop.service, upstream.name, path.services[-1]
                if ends not in seen or seen[ends][0].outage < path.outage:
                    seen[ends] = path, product, upstream
    for path, product, upstream in seen.values():
        yield Hit(
            upstream.at("retry_budget", "ratio"),
            f"lets an outage of {path.services[-1]} multiply its load by {number(path.outage)}: {product}; "
            "write 10% at each layer",
        )


@chain_rule(
    RuleText(
        "R104",
        "Services that call each other in a circle",
        "warning",
        "One slow service of the circle uses up the places of all, and none can recover before the others do.",
        "Nygard, Release It!: Cascading Failures; public postmortems of circular dependencies",
        _CIRCLE,
        _one(_PLAIN),
    )
)
def circles(chain: Chain) -> Iterator[Hit]:
    for circle in chain.cycles:
        policies = chain.services[circle[0]]
        for route in policies.routes:
            if chain.target(circle[0], route.upstream) == circle[1]:
                yield Hit(
                    route.at("upstream"),
                    f"closes a circle: {' > '.join(circle)}; break it, such as by a cache or a queue in between",
                )
                break


@chain_rule(
    RuleText(
        "R105",
        "A chain whose client may wait without end",
        "warning",
        "No route on the way limits the time, so a service that hangs holds places in all of them.",
        "Nygard, Release It!: Timeouts; SRE book ch. 22",
        _one("retry: {max_attempts: 1}").replace("upstream: app, timeout: {request: 3s}", "upstream: app").replace(
            ", timeout: {request: 1s}", ""),
        _one(_PLAIN),
    )
)  # fmt: skip
def endless_chain(chain: Chain) -> Iterator[Hit]:
    for path in chain.paths:
        if all(isinf(hop.route.worst.seconds) and not hop.route.is_stream for hop in path.hops):
            yield Hit(
                path.hops[0].route.at(),
                f"begins a path without any limit of time ({' > '.join(path.services)}); add timeout: {{request: 3s}}",
            )


RULES: Final[tuple[Rule, ...]] = (inverted_timeouts, multiplied_tries, unbounded_outage, circles, endless_chain)
