"""Histograms of the durations of requests, attempts and gRPC calls.

Rules:

1. Labels are the attributes of OpenTelemetry's HTTP conventions.  `error.type` is the code of the failure, or else an
   error status (5xx for requests, 4xx and 5xx for attempts).  A status is a verdict (`Outcome.verdict`): that of a gRPC
   answer becomes `rpc.response.status_code`, and `error.type` if it is the server's failure.
2. Values that a peer chooses are reduced to a known set before they become labels.  Methods are those of RFC 9110 and
   PATCH, or `_OTHER`; an unregistered status becomes the x00 of its class (RFC 9110 15).
3. The series used last is compared first, because most requests resemble the one before, and a look-up would have to
   make and hash a key.
4. Beyond the bound of a route or of the process, durations are counted under `_OTHER` and x00.  So a hostile peer can
   neither exhaust memory nor take the series of other routes.
5. A method of gRPC is a label once an upstream has answered a call of it other than with UNIMPLEMENTED.  Until then,
   and beyond the bound, it is `_OTHER`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from sidecar.core.exchange import Exchange, RequestMetrics
from sidecar.core.metrics import (
    ATTEMPT_DURATION,
    CALL_DURATION,
    REQUEST_DURATION,
    SECONDS,
    Exemplar,
    Histogram,
)
from sidecar.core.outcome import (
    FAILURES,
    FAULT_VERDICTS,
    GRPC_STATUSES,
    STATUS_TO_COME,
    UNIMPLEMENTED_STATUS,
    grpc_code,
    grpc_verdict,
)
from sidecar.grpc.status import split_path
from sidecar.telemetry.metrics.registry import MAX_SERIES, OTHER, Registry

METHODS: Final = {m: m.decode() for m in b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH".split()}
OTHER_METHOD: Final = b"_OTHER"
STATUSES: Final = frozenset(
    (0, 499, *(int(status) for status in HTTPStatus), *(grpc_verdict(code) for code in range(len(GRPC_STATUSES))))
)
"""Registered statuses, 499 (the client closed its connection), 0 (no response), and verdicts on gRPC answers."""
MAX_CALLED: Final = 200
"""Most methods of gRPC that are told apart."""
OTHER_CALL: Final = "_OTHER"
STATUS_CODE: Final = "rpc.response.status_code"
BY_CLIENT: Final = frozenset(code for code, failure in FAILURES.items() if failure.origin == "client")
"""Codes of failures that clients cause."""


def is_error(status: int, reason: str) -> bool:
    """True if a request failed on the server's side: with a status of 5xx, or with a response that broke off.

    Failures that the client caused are not errors: a wrong request, or a client that left or was too slow
    (OpenTelemetry's conventions for the status of a server span).  `status` may be a verdict (`Outcome.verdict`).
    """
    if status >= 500:
        return True
    is_answered = status >= 400 or 0 < status < STATUS_TO_COME  # by the upstream, with an error of the client
    return reason != "" and not is_answered and reason not in BY_CLIENT


def are_errors(labels: Mapping[str, str]) -> bool:
    """True if the requests of a series with these labels are errors (`is_error`)."""
    if (name := labels.get(STATUS_CODE)) is not None:
        return is_error(grpc_verdict(GRPC_STATUSES.index(name.lower())), labels.get("error.type", ""))
    return is_error(int(labels.get("http.response.status_code", 500)), labels.get("error.type", ""))


def _status_class(status: int) -> int:
    """Return the x00 of a status's class; 0 for no valid status, and 200 for a verdict on a gRPC answer."""
    if 0 <= status - FAULT_VERDICTS < len(GRPC_STATUSES) or 0 < status <= STATUS_TO_COME:
        return 200
    return status // 100 * 100 if 100 <= status <= 599 else 0


class _Latest:
    """Series that was used last, with the values of its labels."""

    __slots__ = ("before", "method", "reason", "series", "status", "upstream")

    def __init__(self, upstream: str, method: bytes, status: int, reason: str, series: Histogram) -> None:
        self.upstream = upstream
        """Name of the upstream; empty for a route's requests."""
        self.method = method
        self.status = status
        self.reason = reason
        self.series = series
        self.before: _Latest | None = None
        """Series of another upstream with the same endpoint that was used before; None without one."""

    def fits(self, upstream: str, method: bytes, status: int, reason: str) -> bool:
        """True if the series is that of a request or attempt with these values."""
        return upstream == self.upstream and status == self.status and method == self.method and reason == self.reason


class RouteMetrics(RequestMetrics):
    """Durations of one route's requests, by method, status and failure."""

    __slots__ = ("_http2", "_labels", "_latest", "_limit", "_registry", "_series")

    def __init__(self, registry: Registry, labels: Mapping[str, str], limit: int = 64) -> None:
        """`labels` are those of the route: `route` (its name), `http.route` (its path template), `url.scheme`.

        `limit` is the most series of the route.
        """
        self._registry = registry
        self._labels = labels
        self._limit = limit
        self._series: dict[tuple[bytes, int, str], Histogram] = {}
        self._latest: _Latest | None = None
        """Series used last; None before the first request."""
        self._http2: RouteMetrics | None = None
        """Durations of the requests over HTTP/2; None before the first."""

    def of_http2(self) -> RouteMetrics:
        """Return the durations of the route's requests over HTTP/2, with `network.protocol.version` as a label."""
        found = self._http2
        if found is None:
            labels = {**self._labels, "network.protocol.version": "2"}
            found = self._http2 = RouteMetrics(self._registry, labels, self._limit)
        return found

    def record(self, method: bytes, status: int, reason: str, seconds: float) -> None:
        """Record a request that has ended; `reason` is the code of its failure, empty for a complete response."""
        latest = self._latest
        if latest is None or status != latest.status or method != latest.method or reason != latest.reason:
            latest = self._latest = _Latest("", method, status, reason, self._find(method, status, reason))
        latest.series.record(seconds)

    def exemplify(self, method: bytes, status: int, reason: str, exemplar: Exemplar) -> None:
        """Make a recorded request the exemplar of its histogram bucket."""
        series = self._find(method, status, reason)
        if series.exemplars is None:
            series.exemplars = {}
        series.exemplars[bisect_left(SECONDS, exemplar.value)] = exemplar

    def _find(self, method: bytes, status: int, reason: str) -> Histogram:
        """Return the series of a request, or the common one beyond the bound."""
        key = _known(method, status, reason)
        if key not in self._series and len(self._series) >= self._limit:
            key = (OTHER_METHOD, _status_class(status), reason)
        series = self._series.get(key)
        if series is None:
            labels = {**self._labels, **_attributes(*key, error_from=500)}
            series = self._series[key] = self._registry.histogram(REQUEST_DURATION, **labels)
        return series


class AttemptMetrics:
    """Durations of all attempts, by endpoint, method, status and failure; one for the process."""

    __slots__ = ("_latest", "_limit", "_registry", "_series")

    def __init__(self, registry: Registry, limit: int = MAX_SERIES) -> None:
        self._registry = registry
        self._limit = limit
        self._series: dict[tuple[str, str, bytes, int, str], Histogram] = {}
        self._latest: dict[str, _Latest] = {}
        """Series used last, by endpoint URL."""

    def record(self, upstream: str, endpoint: str, method: bytes, status: int, reason: str, seconds: float) -> None:
        """Record an attempt that has ended; `status` is 0 if there was no response."""
        latest = self._latest.get(endpoint)
        if (
            latest is None
            or status != latest.status
            or method != latest.method
            or reason != latest.reason
            or upstream != latest.upstream
        ):
            latest = self._renew(latest, upstream, endpoint, method, status, reason)
        latest.series.record(seconds)

    def _renew(
        self, latest: _Latest | None, upstream: str, endpoint: str, method: bytes, status: int, reason: str
    ) -> _Latest:
        """Return the series of an attempt, which is not that of the attempt before at the same endpoint."""
        before = None if latest is None else latest.before
        if before is not None and before.fits(upstream, method, status, reason):
            found = before
        else:
            if len(self._latest) >= self._limit:
                self._latest.clear()  # discovery may have dropped some of these endpoints
            series = self._find(upstream, endpoint, *_known(method, status, reason))
            found = _Latest(upstream, method, status, reason, series)
        if latest is not None and latest.upstream != upstream:
            latest.before = None
            found.before = latest
        self._latest[endpoint] = found
        return found

    def retire(self, upstream: str, endpoint: str) -> None:
        """Drop the series of an endpoint that no longer exists."""
        for key in [key for key in self._series if key[:2] == (upstream, endpoint)]:
            del self._series[key]
        self._latest.pop(endpoint, None)
        self._registry.retire((ATTEMPT_DURATION, upstream, endpoint))

    def _find(self, upstream: str, endpoint: str, method: bytes, status: int, reason: str) -> Histogram:
        """Return the series of an attempt, or the common one beyond the bound."""
        key = (upstream, endpoint, method, status, reason)
        if key not in self._series and len(self._series) >= self._limit:
            key = (upstream, OTHER, OTHER_METHOD, _status_class(status), reason)
        series = self._series.get(key)
        if series is None:
            labels = {"upstream": key[0], "server.address": key[1], **_attributes(*key[2:], error_from=400)}
            with self._registry.owned((ATTEMPT_DURATION, *key[:2])):
                series = self._series[key] = self._registry.histogram(ATTEMPT_DURATION, **labels)
        return series


class CallMetrics:
    """Durations of all gRPC calls, by method, status and failure; one for the process."""

    __slots__ = ("_called", "_latest", "_limit", "_registry", "_series")

    def __init__(self, registry: Registry, limit: int = MAX_CALLED) -> None:
        """`limit` is the most methods."""
        self._latest: _Latest | None = None
        """Series used last, with the path as its method; None before the first call of a method that is a label."""
        self._registry = registry
        self._limit = limit
        self._called: set[bytes] = set()
        """Paths of the methods that an upstream has."""
        self._series: dict[tuple[str, int, str], Histogram] = {}

    def record(self, x: Exchange, verdict: int, reason: str, seconds: float) -> None:
        """Record a call that has ended."""
        latest = self._latest
        if latest is not None and x.path == latest.method and verdict == latest.status and reason == latest.reason:
            latest.series.record(seconds)
            return
        if x.path not in self._called and len(self._called) < self._limit:
            last = x.attempts[-1] if x.attempts else None
            if last is not None and last.status and grpc_code(last.verdict) != UNIMPLEMENTED_STATUS:
                self._called.add(x.path)
        parts = split_path(x.path) if x.path in self._called else None
        key = (OTHER_CALL if parts is None else "/".join(parts), verdict, reason)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = self._registry.histogram(CALL_DURATION, **_call_labels(*key))
        if parts is not None:
            self._latest = _Latest("", x.path, verdict, reason, series)
        series.record(seconds)


def _call_labels(method: str, verdict: int, reason: str) -> dict[str, str]:
    """Return the labels of a call (OpenTelemetry's RPC conventions)."""
    labels = {"rpc.system.name": "grpc", "rpc.method": method}
    code = 0 if verdict == 200 else grpc_code(verdict)
    if code >= 0:
        labels[STATUS_CODE] = GRPC_STATUSES[code].upper()
    if reason or verdict >= FAULT_VERDICTS:
        labels["error.type"] = reason or labels[STATUS_CODE]
    return labels


def _known(method: bytes, status: int, reason: str) -> tuple[bytes, int, str]:
    """Return the values reduced to known methods and statuses."""
    return (
        method if method in METHODS else OTHER_METHOD,
        status if status in STATUSES else _status_class(status),
        reason,
    )


def _attributes(method: bytes, status: int, reason: str, error_from: int) -> dict[str, str]:
    """Return the labels for these values; a status from `error_from` on is an error."""
    labels = {"http.request.method": METHODS.get(method, "_OTHER")}
    code = grpc_code(status) if status else -1
    if code >= 0:
        name = GRPC_STATUSES[code].upper()
        labels["http.response.status_code"] = "200"
        labels[STATUS_CODE] = name
        if reason or status >= error_from:
            labels["error.type"] = reason or name
        return labels
    if status:
        labels["http.response.status_code"] = str(status)
    if reason or status >= error_from:
        labels["error.type"] = reason or str(status)
    return labels
