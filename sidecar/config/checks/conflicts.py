"""Does it make sense?  What is well-formed and yet cannot work (errors), or has no effect (warnings).

Arithmetic that people get wrong under pressure: tries that can never run within the request's time, a hedge that comes
after its try has timed out, an ejection that may never happen, two listeners at one address, two routes that take the
same requests.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import isinf
from typing import Any, Final

from sidecar.config.checks.captures import check_captures
from sidecar.config.checks.matches import check_matches
from sidecar.config.node import BUILT_IN, Node
from sidecar.config.process_spec import Address
from sidecar.config.report import Report
from sidecar.config.spec import PolicySpec, RouteSpec, UpstreamSpec
from sidecar.core.exchange import NEVER
from sidecar.upstream.address import parse_address

ANY: Final = {"0.0.0.0": ".", "::": ":"}  # noqa: S104 - recognised, not bound
"""Addresses that stand for all of their family, and what is in each address of that family."""

ROUTES: Final = 20
"""Checked between two pauses."""


def check(spec: PolicySpec, report: Report, pace: Callable[[], object] = lambda: None) -> None:
    """Report what is wrong with, or useless in, policies that are otherwise well-formed."""
    _check_listeners(spec, report)
    for name, upstream in spec.upstreams.items():
        _check_upstream(spec, upstream, spec.node.nearest("upstreams", name), report)
    for number, route in enumerate(spec.routes):
        _check_times(route, report)
        check_captures(route, report)
        if number % ROUTES == 0:
            pace()
    check_matches(spec, report)


def _check_listeners(spec: PolicySpec, report: Report) -> None:
    places: list[tuple[str, tuple[str, ...], Address]]
    places = [(name, ("listeners", name), listener.address) for name, listener in spec.listeners.items()]
    if spec.admin is not None:
        places.append(("admin", ("admin",), spec.admin.address))
        if not spec.admin.address.is_loopback and spec.admin.token is None:
            node = spec.node.nearest("admin", "address")
            report.warn(
                node, "others can reach the admin listener and force breakers; give it a token, or a loopback address"
            )
    for (first, _, one), (_, path, two) in combinations(places, 2):
        if overlap(one, two):
            node = spec.node.nearest(*path, "address")
            report.at(node, f"is also where `{first}` listens ({one}); give each listener a port of its own")


def overlap(one: Address, two: Address) -> bool:
    """Can only one of them be bound?"""
    if one.path or two.path:
        return one.path == two.path
    if one.port != two.port or one.port == 0:
        return False
    return one.host == two.host or any(ANY.get(a.host, "\0") in b.host for a, b in ((one, two), (two, one)))


def _check_upstream(spec: PolicySpec, upstream: UpstreamSpec, node: Node, report: Report) -> None:
    endpoints = upstream.endpoints or ()
    if upstream.ejection is not None and endpoints and upstream.ejection.min_healthy >= len(endpoints):
        least, count = upstream.ejection.min_healthy, len(endpoints)
        message = (
            f"never ejects: min_healthy is {least} of {count} endpoint{'s' * (count > 1)}; lower it, or add endpoints"
        )
        report.warn(node.nearest("ejection", "min_healthy"), message)
    own = {str(listener.address): name for name, listener in spec.listeners.items() if listener.address.port}
    for index, url in enumerate(endpoints):
        address = parse_address(url)
        for host in (address.host, *ANY) if Address(address.host, 0).is_loopback else (address.host,):
            listener = own.get(str(Address(host, address.port, address.path)))
            place = node.find(("endpoints", index))
            if listener is not None and place is not None:
                report.warn(place, f"is the sidecar's own listener `{listener}`: its requests would come back to it")


def _check_times(route: RouteSpec, report: Report) -> None:
    """Times that stand in each other's way."""
    blocks: dict[str, Any] = dict(route.blocks)
    timeout, retry, hedge = blocks.get("timeout"), blocks.get("retry"), blocks.get("hedge")
    breaker, concurrency = blocks.get("circuit_breaker"), blocks.get("concurrency")
    request = timeout.request if timeout else NEVER
    attempt = timeout.attempt if timeout else NEVER
    limit, name = min((attempt, "timeout.attempt"), (request, "timeout.request"))

    def warn(message: str, *path: str) -> None:
        report.warn(route.node.nearest(*path), message)

    if attempt >= request and not isinf(attempt):
        warn(
            f"has no effect: timeout.request ({request:g}s) ends first; make it shorter than that", "timeout", "attempt"
        )
    elif retry and not isinf(request) and retry.max_attempts * attempt > request * (1 + 1e-9) and not isinf(attempt):
        fit = int(request / attempt + 1e-9)
        message = f"only {fit} of {retry.max_attempts} tries of {attempt:g}s (timeout.attempt) fit into {request:g}s"
        warn(f"{message} (timeout.request); lower max_attempts or timeout.attempt", "retry", "max_attempts")
    if retry and isinf(attempt) and "timeout" in retry.on and route.where("retry", "on") != BUILT_IN:
        warn("names timeout, but no try times out before the request does; set timeout.attempt", "retry", "on")
    if hedge and isinstance(hedge.after, float) and hedge.after >= limit:
        warn(f"never hedges: {name} ({limit:g}s) comes first; make it shorter than that", "hedge", "after")
    if breaker and breaker.slow_calls is not None and breaker.slow_calls.longer_than >= limit:
        message = f"never counts a call as slow: {name} ({limit:g}s) ends it first; make it shorter than that"
        warn(message, "circuit_breaker", "slow_calls", "longer_than")
    if concurrency and concurrency.queue and concurrency.queue_timeout >= request:
        message = f"has no effect: timeout.request ({request:g}s) ends first; make it shorter than that"
        warn(message, "concurrency", "queue_timeout")
