"""Check of the times of a route: warnings for a time that has no effect because another one ends first.

Examples: attempts that can never run within the time of the request; a hedge that comes after its attempt has timed
out; a queue that waits longer than the request.  These are warnings, not errors.
"""

from __future__ import annotations

from math import isinf
from typing import Any

from sidecar.config.node import BUILT_IN
from sidecar.config.report import Report
from sidecar.config.spec import RouteSpec
from sidecar.core.exchange import NEVER


def check_times(route: RouteSpec, report: Report) -> None:
    """Warn of times that have no effect because another one ends first."""
    blocks: dict[str, Any] = dict(route.blocks)
    timeout, retry, hedge = blocks.get("timeout"), blocks.get("retry"), blocks.get("hedge")
    breaker, concurrency = blocks.get("circuit_breaker"), blocks.get("concurrency")
    request = timeout.request if timeout else NEVER
    attempt = timeout.attempt if timeout else NEVER
    limit, name = min((attempt, "timeout.attempt"), (request, "timeout.request"))

    def printable(path: str, seconds: float) -> str:
        return route.node.printable(f"{seconds:g}s", *path.split("."))

    whole = printable("timeout.request", request)

    def warn(message: str, *path: str) -> None:
        report.warn(route.node.nearest(*path), message)

    if attempt >= request and not isinf(attempt):
        warn(
            f"has no effect: timeout.request ({whole}) ends first; make it shorter than that",
            "timeout",
            "attempt",
        )
    elif retry and not isinf(request) and retry.max_attempts * attempt > request * (1 + 1e-9) and not isinf(attempt):
        fit = int(request / attempt + 1e-9)
        tries = route.node.printable(str(retry.max_attempts), "retry", "max_attempts")
        each = printable("timeout.attempt", attempt)
        message = f"only {fit} of {tries} tries of {each} (timeout.attempt) fit into {whole}"
        warn(f"{message} (timeout.request); lower max_attempts or timeout.attempt", "retry", "max_attempts")
    if retry and isinf(attempt) and "timeout" in retry.on and route.where("retry", "on") != BUILT_IN:
        warn("names timeout, but no try times out before the request does; set timeout.attempt", "retry", "on")
    if hedge and isinstance(hedge.after, float) and hedge.after >= limit:
        warn(
            f"never hedges: {name} ({printable(name, limit)}) comes first; make it shorter than that", "hedge", "after"
        )
    if breaker and breaker.slow_calls is not None and breaker.slow_calls.longer_than >= limit:
        message = (
            f"never counts a call as slow: {name} ({printable(name, limit)}) ends it first; make it shorter than that"
        )
        warn(message, "circuit_breaker", "slow_calls", "longer_than")
    if concurrency and concurrency.queue and concurrency.queue_timeout >= request:
        message = f"has no effect: timeout.request ({whole}) ends first; make it shorter than that"
        warn(message, "concurrency", "queue_timeout")
