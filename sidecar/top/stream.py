"""Blocking reader of an admin listener, above all of `GET /live`, and a model of the received state."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

SILENT_SECONDS: Final = 10.0
"""Time without data after which the connection counts as lost; a tick comes every second."""


class StreamError(Exception):
    """Raised if the stream cannot be read; the message says what would be right."""


class Model:
    """State of the watched sidecar: parts of its state, and traffic of the last minutes."""

    def __init__(self) -> None:
        self.parts: dict[str, Any] = {}
        """Parts of the state by name, as `/live` sends them."""
        self.bounds: list[float] = []
        """Upper bounds of the histogram buckets, in seconds."""
        self.keep = 0
        """Number of seconds of traffic that are kept."""
        self.seconds: list[Any] = []
        """Seconds of traffic, oldest first."""

    def take(self, event: str, data: dict[str, Any]) -> None:
        """Update the model with one event of the stream, `full` or `tick`."""
        if event == "full":
            self.parts, self.bounds, self.keep = data["parts"], data["bounds"], data["keep"]
            self.seconds = data["seconds"]
            return
        self.parts = {name: part for name, part in (self.parts | data["parts"]).items() if part is not None}
        self.seconds = [*self.seconds, data["second"]][-self.keep :]

    @property
    def now(self) -> float:
        """Unix time of the latest second of traffic; 0 before the first."""
        return float(self.seconds[-1][0]) if self.seconds else 0.0

    def recent(self, span: int) -> dict[str, Sum]:
        """Return the sums of the last `span` seconds by route."""
        sums: dict[str, Sum] = {}
        for _, routes in self.seconds[-span:]:
            for route, counts in routes.items():
                sums.setdefault(route, Sum(self.bounds)).add(counts)
        return sums

    def rates(self, points: int) -> list[int]:
        """Return the number of requests in each of the last `points` seconds, oldest first."""
        return [sum(sum(counts[3::2]) for counts in routes.values()) for _, routes in self.seconds[-points:]]


class Sum:
    """Sum of the requests of one route over several seconds."""

    def __init__(self, bounds: list[float]) -> None:
        self._bounds = bounds
        self.errors = 0
        self.fallbacks = 0
        """Answers of a fallback."""
        self.counts = [0] * (len(bounds) + 1)

    def add(self, sparse: list[int]) -> None:
        """Add the counts of a second: `[errors, fallbacks, bucket, count, …]`."""
        self.errors += sparse[0]
        self.fallbacks += sparse[1]
        for bucket, count in zip(sparse[2::2], sparse[3::2], strict=True):
            self.counts[bucket] += count

    @property
    def calls(self) -> int:
        """Number of requests."""
        return sum(self.counts)

    def percentile(self, share: float) -> float | None:
        """Return a percentile in seconds, as the middle of its bucket; None without requests.

        `share` is from 0 to 1.
        """
        left = share * self.calls
        if not left:
            return None
        for bucket, count in enumerate(self.counts[:-1]):
            if count and left <= count:
                return ((self._bounds[bucket - 1] if bucket else 0.0) + self._bounds[bucket]) / 2
            left -= count
        return self._bounds[-1]


def follow(host: str, port: int, token: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the events of the stream until it ends.  Raises `StreamError`."""
    with _response(host, port, token, "/live") as response:
        event = ""
        while line := response.readline():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                event = value
            elif name == "data":
                yield event, json.loads(value)


def get(host: str, port: int, token: str | None, path: str, most: int) -> bytes:
    """Return the body of one answer of an admin listener, `most` bytes at most.  Raises `StreamError`."""
    with _response(host, port, token, path) as response:
        body = response.read(most + 1)
    if len(body) > most:
        raise StreamError(f"{host}:{port}{path} has more than {most} bytes; is it the admin listener of a sidecar?")
    return body


@contextmanager
def _response(host: str, port: int, token: str | None, path: str) -> Iterator[http.client.HTTPResponse]:
    """Return a context with an answer 200 of an admin listener.  Raises `StreamError`."""
    connection = http.client.HTTPConnection(host, port, timeout=SILENT_SECONDS)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        if response.status != 200:
            raise StreamError(_advice(response.status, response.read(65536)))
        yield response
    except TimeoutError:
        raise StreamError(f"{host}:{port} has sent no data for {SILENT_SECONDS:g} s") from None
    except (OSError, http.client.HTTPException) as error:
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StreamError(
            f"{host}:{port}: no admin listener answers ({words}); name the one of a sidecar that runs"
        ) from None
    finally:
        connection.close()


def _advice(status: int, body: bytes) -> str:
    """Return the message for an answer other than 200."""
    if status == 401:
        return "the admin listener requires a token; give it with --token or in SIDECAR_ADMIN_TOKEN"
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the answer is {status}; give the address of a sidecar's admin listener"
