"""Behaviour of a route, an upstream and the process in facts that can be compared, for `sidecar diff`.

A fact is what an operator means: worst latency, calls of one request, methods that are sent twice.  Keys that no fact
covers are facts of their own, so that no change goes unnoticed.  Secrets and identities are named, never shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isinf
from typing import Any, Final, NamedTuple

from sidecar.config.checks.values import kind_of
from sidecar.core.spec import Model
from sidecar.lint.arithmetic import number, percent, seconds
from sidecar.lint.facts import Policies, RouteFacts, UpstreamFacts

NONE: Final = "none"
"""Text of a fact that is absent."""
NO: Final = "no"
YES: Final = "yes"
HIDDEN: Final = "(changed)"
"""Text of a value that is not shown."""
SECRET: Final = frozenset(("credentials", "token", "identities", "url", "secret"))
"""Keys whose values are not shown."""


class Fact(NamedTuple):
    """One fact of a subject."""

    kind: str
    """`value`, `answer` (yes or no) or `set`."""
    text: str
    """Text of a value or an answer; empty for a set."""
    members: frozenset[str] = frozenset()
    """Members of a set."""
    size: float | None = None
    """Number to compare by; None for what has no order."""
    grows: str = ""
    """Risk of a growing number: `more` if growth is a risk, `less` if decline is one, empty if neither is."""


Facts = dict[str, Fact]


def value(text: str, size: float | None = None, grows: str = "") -> Fact:
    """Return a fact with a text, and perhaps a number to compare by."""
    return Fact("value", text, frozenset(), size, grows)


def answer(is_so: bool, risk: str = "") -> Fact:
    """Return a fact that is so or not; `risk` is the answer that is a risk."""
    return Fact("answer", YES if is_so else NO, frozenset(), float(is_so), {YES: "more", NO: "less"}.get(risk, ""))


def several(members: Iterable[object], grows: str = "") -> Fact:
    """Return a fact with members."""
    return Fact("set", "", frozenset(map(str, members)), None, grows)


def time(length: float, grows: str = "") -> Fact:
    """Return a fact that is a time in seconds."""
    return value(seconds(length), length, grows)


# ----- routes

COVERED: Final = {
    "timeout": {"request", "attempt"},
    "retry": {"max_attempts", "methods", "on"},
    "hedge": {"after", "max_extra", "methods"},
    "circuit_breaker": {"failure_rate", "min_calls", "window", "consecutive_failures", "failures", "open_for"},
    "concurrency": {"max", "queue", "queue_timeout"},
    "cache": {"ttl", "shared", "stale_if_error", "stale_while_revalidate"},
    "fallback": {"on", "steps"},
    "rate_limit": {"limits"},
    "fault": {"latency", "abort", "reset", "when"},
    "mirror": {"upstream", "share", "writes"},
}
"""Keys of blocks that named facts express."""


def route_facts(route: RouteFacts) -> Facts:
    """Return the behaviour of one route."""
    worst = route.worst
    facts: Facts = {
        "takes": value(_match(route)),
        "listener": value(route.spec.listener or "every listener"),
        "goes to": value(route.spec.upstream or "its parts"),
        "worst latency": time(worst.seconds, "more"),
        "time of an attempt": time(route.limit),
        "most upstream calls a request": value(str(worst.calls), worst.calls, "more"),
        "importance": value(route.spec.criticality),
    }
    if route.upstream is not None:
        load = _outage(route)
        facts["load on the upstream in an outage"] = value(f"{number(load)}x", load, "more")
    facts |= _retry_facts(route) | _breaker_facts(route) | _limit_facts(route) | _answer_facts(route)
    for name, block in route.blocks.items():
        facts[f"{name} is there"] = answer(True)
        facts[f"{name} only observes"] = answer(not getattr(block, "is_enforced", True))
        for path, text in flatten(block):
            if path.partition(".")[0] not in COVERED.get(name, ()) and path != "mode":
                facts[f"{name}.{path}"] = value(text)
    rollout = route.spec.rollout
    if rollout is not None:
        shares = [
            f"{arm.name} {'only observes' if rollout.is_observed else percent(share)}"
            for arm, share in zip(route.spec.arms, route.spec.shares, strict=True)
        ]
        facts["candidates"] = value(", ".join(shares))
        facts["candidates return on evidence"] = answer(rollout.return_when is not None, NO)
        if rollout.ramp is not None:
            facts["candidates grow"] = value(f"to {percent(rollout.ramp.to)} in {seconds(rollout.ramp.over)}")
    return facts


def _match(route: RouteFacts) -> str:
    """Return the match of a route as text."""
    match = route.spec.match
    words = [", ".join(match.methods) if match.methods else "any method", f"{match.host or ''}{match.template or '/*'}"]
    words += [f"{key}: {each}" for key, each in sorted(match.headers.items())]
    words += [f"?{key}={each}" for key, each in sorted(match.query.items())]
    words += [f"when {match.when}"] if match.when else []
    return " ".join(words)


def _outage(route: RouteFacts) -> float:
    """Return the factor of the load while all attempts fail, without `min_per_second` of the budget."""
    assert route.upstream is not None
    budget = route.upstream.spec.retry_budget
    extra = route.tries * (1 + route.extra) - 1
    return 1.0 + (min(extra, budget.ratio) if budget.is_enforced else extra)


def _retry_facts(route: RouteFacts) -> Facts:
    """Return what is sent more than once."""
    retry, hedge = route.retry, route.hedge
    facts: Facts = {
        "retried": several(retry.methods if retry is not None and route.tries > 1 else (), "more"),
        "a reason to retry": several(_conditions(retry.on) if retry is not None and route.tries > 1 else ()),
        "tries": value(str(route.tries), route.tries, "more"),
        "hedged": several(hedge.methods if hedge is not None else (), "more"),
    }
    if hedge is not None:
        facts["hedged after"] = time(hedge.after, "less")
    return facts


def _conditions(conditions: Iterable[Any]) -> Iterator[str]:
    for each in conditions:
        yield str(each) if isinstance(each, str | int) else f"when {each.when}"


def _breaker_facts(route: RouteFacts) -> Facts:
    """Return when the breaker of a route opens, and for how long."""
    breaker = route.breaker
    if breaker is None:
        return {}
    window = breaker.window
    over = seconds(window) if isinstance(window, float) else f"{window.calls} calls"
    rates = [] if breaker.failure_rate == "off" else [f"{percent(breaker.failure_rate)} of {breaker.min_calls} or more"]
    rates = [f"{each} calls in {over}" if isinstance(window, float) else f"{each} of {over}" for each in rates]
    row = [] if breaker.consecutive_failures is None else [f"{breaker.consecutive_failures} failures in a row"]
    return {
        "breaker opens at": value(" or ".join(rates + row) or "slow calls"),
        "breaker stays open for": time(breaker.open_for),
        "a failure for the breaker": several(breaker.failures),
    }


def _limit_facts(route: RouteFacts) -> Facts:
    """Return what is refused under pressure."""
    facts: Facts = {}
    block = route.concurrency
    if block is not None:
        most = block.max if block.max is not None else f"{block.adaptive.min} to {block.adaptive.max}"
        facts["requests in flight at most"] = value(str(most), block.max or block.adaptive.max)
        facts["places in the queue"] = value(str(block.queue), block.queue)
        if block.queue:
            facts["longest wait in the queue"] = time(block.queue_timeout, "more")
    for limit in route.limits:
        key = "" if limit.key == "none" else f" for each {limit.key}"
        mode = " (only observed)" if limit.mode == "observe" else ""
        facts[f"rate limit `{limit.name}`"] = value(f"{limit.words}{key}{mode}")
        own = ("name", "rate", "burst", "key", "mode")
        rest = [f"{path} {text}" for path, text in flatten(limit) if path not in own]
        facts[f"settings of the rate limit `{limit.name}`"] = value(", ".join(rest))
    return facts


def _answer_facts(route: RouteFacts) -> Facts:
    """Return who is answered by what, other than the upstream."""
    blocks, cache = route.blocks, route.cache
    known = "authenticate" in blocks
    optional = bool(getattr(blocks.get("authenticate"), "optional", False))
    facts: Facts = {
        "answers are cached": answer(cache is not None),
        "only authenticated callers": answer(known and not optional, NO),
        "rules of authorize": answer("authorize" in blocks, NO),
        "faults are injected": answer("fault" in blocks and blocks["fault"].is_enforced, YES),
    }
    if cache is not None:
        facts["cache shared between callers"] = answer(cache.shared or not known, YES)
        facts["cache lifetime"] = value(NONE if cache.ttl is None else seconds(cache.ttl), cache.ttl)
        facts["stale answers while fetching"] = time(cache.stale_while_revalidate)
        facts["stale answers on failure"] = time(cache.stale_if_error)
    if route.fallback is not None:
        facts["fallback"] = value(" > ".join(_steps(route.fallback.steps)))
        facts["a reason for the fallback"] = several(route.fallback.on)
    if (fault := blocks.get("fault")) is not None:
        facts["faults"] = value(", ".join(f"{path} {text}" for path, text in flatten(fault) if path != "mode"))
    if (mirror := blocks.get("mirror")) is not None:
        facts["copies of requests"] = value(f"{percent(mirror.share)} to {mirror.upstream}", mirror.share, "more")
        facts["copies of writes"] = answer(mirror.writes, YES)
    return facts


def _steps(steps: Iterable[Any]) -> Iterator[str]:
    for step in steps:
        if step.response is not None:
            yield f"response {step.response.status}"
        else:
            yield f"upstream {step.upstream}" if step.upstream is not None else "stale"


# ----- upstreams, and the process


def upstream_facts(upstream: UpstreamFacts) -> Facts:
    """Return the behaviour of one upstream."""
    facts = _flat(upstream.spec, except_for=("endpoints",))
    facts["an endpoint"] = several(upstream.spec.urls)
    ratio = upstream.spec.retry_budget.ratio
    facts.pop("retry_budget.ratio", None)
    facts["retries and hedges for each request at most"] = value(percent(ratio), ratio, "more")
    return facts


def process_facts(policies: Policies) -> dict[str, Facts]:
    """Return the facts of each other section, by subject."""
    spec = policies.spec
    subjects: dict[str, Facts] = {"limits": _flat(spec.limits)}
    subjects |= {f"listener {name}": _flat(each) for name, each in spec.listeners.items()}
    subjects |= {f"cache {name}": _flat(each) for name, each in spec.caches.items()}
    subjects |= {f"store {name}": _flat(each) for name, each in spec.stores.items()}
    subjects |= {f"identity {name}": _flat(each, is_hidden=True) for name, each in spec.identities.items()}
    subjects["admin"] = {} if spec.admin is None else _flat(spec.admin)
    subjects["telemetry"] = {} if spec.telemetry is None else _flat(spec.telemetry, is_hidden=True)
    return subjects


def _flat(model: Any, except_for: tuple[str, ...] = (), is_hidden: bool = False) -> Facts:
    """Return a fact for each value of a model."""
    return {
        path: value(f"{HIDDEN}{hash(text)}" if is_hidden or SECRET.intersection(path.split(".")) else text)
        for path, text in flatten(model)
        if path.partition(".")[0] not in except_for
    }


def flatten(model: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each value of a model as text, with the keys that lead to it."""
    for name, field in type(model).model_fields.items():
        key, found = field.alias or name, getattr(model, name)
        if isinstance(found, Model):
            yield from flatten(found, f"{path}{key}.")
        elif isinstance(found, dict) and any(isinstance(each, Model) for each in found.values()):
            for inner, each in found.items():
                yield from flatten(each, f"{path}{key}.{inner}.")
        else:
            yield path + key, _text(found, _kind(type(model), name))


def _kind(model: type[Model], name: str) -> str:
    """Return the kind of a field: `duration`, `size`, `share`, `rate`, or empty for any other."""
    return kind_of(model, name)


def _text(found: Any, kind: str) -> str:
    """Return a value as text, with its unit."""
    if found is None or found == ():
        return NONE
    if isinstance(found, bool):
        return YES if found else NO
    if hasattr(found, "get_secret_value"):
        return f"{HIDDEN}{hash(found.get_secret_value())}"
    if isinstance(found, float | int):
        if kind == "duration":
            return seconds(found)
        if kind == "share":
            return percent(found)
        if kind == "rate":
            return f"{number(found)}/s"
        if kind == "size":
            return f"{found // 2**20}MiB" if found % 2**20 == 0 and found else f"{found} bytes"
        return number(found) if isinstance(found, float) and not isinf(found) else str(found)
    if isinstance(found, tuple | list):
        return ", ".join(_text(each, "") for each in found)
    if isinstance(found, Model):
        return ", ".join(f"{key} {text}" for key, text in flatten(found))
    return str(found)
