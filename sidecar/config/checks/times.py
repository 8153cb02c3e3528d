"""Check of the times of a route: warnings for a time that has no effect because another one ends first.

Examples: attempts that can never run within the time of the request; a hedge that comes after its attempt has timed
out; a queue that waits longer than the request.  These are warnings, not errors.

Each function finds one mistake, and is a rule of `sidecar lint` too (`sidecar/lint/rules/times.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isinf
from typing import Any, Final

from sidecar.config.node import BUILT_IN
from sidecar.config.report import Report
from sidecar.config.spec import RouteSpec
from sidecar.core.exchange import NEVER

Found = tuple[tuple[str, ...], str]
"""Path of a value in the route, and the message about it."""


def check_times(route: RouteSpec, report: Report) -> None:
    """Warn of times that have no effect because another one ends first."""
    for find in FINDERS:
        for path, message in find(route):
            report.warn(route.node.nearest(*path), message)


def find_attempt_without_effect(route: RouteSpec) -> Iterator[Found]:
    """Yield an attempt's limit that the limit of the request precedes."""
    request, attempt = _limits(route)
    if attempt >= request and not isinf(attempt):
        whole = _printable(route, "timeout.request", request)
        message = f"has no effect: timeout.request ({whole}) ends first; make it shorter than that"
        yield ("timeout", "attempt"), message


def find_attempts_that_do_not_fit(route: RouteSpec) -> Iterator[Found]:
    """Yield a number of attempts of which some can never run."""
    request, attempt = _limits(route)
    retry = _block(route, "retry")
    if retry is None or attempt >= request or isinf(request):
        return
    if retry.max_attempts * attempt > request * (1 + 1e-9):
        whole, each = _printable(route, "timeout.request", request), _printable(route, "timeout.attempt", attempt)
        tries = route.node.printable(str(retry.max_attempts), "retry", "max_attempts")
        message = f"only {fitting(route)} of {tries} tries of {each} (timeout.attempt) fit into {whole}"
        yield ("retry", "max_attempts"), f"{message} (timeout.request); lower max_attempts or timeout.attempt"


def fitting(route: RouteSpec) -> int:
    """Return how many attempts that time out fit into the time of a request; both must be limited."""
    request, attempt = _limits(route)
    return int(request / attempt + 1e-9)


def find_retry_of_no_timeout(route: RouteSpec) -> Iterator[Found]:
    """Yield a condition `timeout` of a retry where no attempt times out before the request does."""
    retry = _block(route, "retry")
    if retry and isinf(_limits(route)[1]) and "timeout" in retry.on and route.where("retry", "on") != BUILT_IN:
        yield (
            ("retry", "on"),
            "names timeout, but no try times out before the request does; set timeout.attempt",
        )


def find_late_hedge(route: RouteSpec) -> Iterator[Found]:
    """Yield a hedge that comes after its attempt has ended."""
    hedge = _block(route, "hedge")
    limit, name = _shorter(route)
    if hedge and isinstance(hedge.after, float) and hedge.after >= limit:
        message = f"never hedges: {name} ({_printable(route, name, limit)}) comes first; make it shorter than that"
        yield ("hedge", "after"), message


def find_slow_call_without_effect(route: RouteSpec) -> Iterator[Found]:
    """Yield a bound of slow calls that no call reaches before it times out."""
    breaker = _block(route, "circuit_breaker")
    limit, name = _shorter(route)
    if breaker and breaker.slow_calls is not None and breaker.slow_calls.longer_than >= limit:
        message = f"never counts a call as slow: {name} ({_printable(route, name, limit)}) ends it first"
        yield ("circuit_breaker", "slow_calls", "longer_than"), f"{message}; make it shorter than that"


def find_queue_without_end(route: RouteSpec) -> Iterator[Found]:
    """Yield a time in the queue that the limit of the request precedes."""
    concurrency, request = _block(route, "concurrency"), _limits(route)[0]
    if concurrency and concurrency.queue and concurrency.queue_timeout >= request:
        whole = _printable(route, "timeout.request", request)
        message = f"has no effect: timeout.request ({whole}) ends first; make it shorter than that"
        yield ("concurrency", "queue_timeout"), message


FINDERS: Final[tuple[Callable[[RouteSpec], Iterator[Found]], ...]] = (
    find_attempt_without_effect,
    find_attempts_that_do_not_fit,
    find_retry_of_no_timeout,
    find_late_hedge,
    find_slow_call_without_effect,
    find_queue_without_end,
)
"""Functions of which each finds one mistake."""


def _block(route: RouteSpec, name: str) -> Any:
    """Return a block of a route; None without one."""
    return route.blocks.get(name)


def _limits(route: RouteSpec) -> tuple[float, float]:
    """Return the longest time of a request and of an attempt in seconds; infinite without a limit."""
    timeout = _block(route, "timeout")
    return (timeout.request, timeout.attempt) if timeout else (NEVER, NEVER)


def _shorter(route: RouteSpec) -> tuple[float, str]:
    """Return the limit that ends an attempt first, with its path."""
    request, attempt = _limits(route)
    return min((attempt, "timeout.attempt"), (request, "timeout.request"))


def _printable(route: RouteSpec, path: str, seconds: float) -> str:
    return route.node.printable(f"{seconds:g}s", *path.split("."))
