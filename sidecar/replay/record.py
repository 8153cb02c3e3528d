"""Record of a log: its requests in the order of their arrival, their attempts, and what was left out.

Memory is bounded by `MOST_REQUESTS`: later requests are counted and not kept.  The same holds for lines that cannot be
read, of which the first `MOST_NAMED` are named.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from sys import intern
from typing import Final, NamedTuple

MOST_REQUESTS: Final = 500_000
"""Most requests of one record."""
MOST_ATTEMPTS: Final = 16
"""Most attempts of one request that are kept."""
MOST_NAMED: Final = 5
"""Most unreadable lines that are named."""
LONGEST_LINE: Final = 64 * 1024
"""Longest line in bytes that is read."""
MOST_TEXTS: Final = 100_000
"""Most different paths and hosts that share memory."""

BAD_STATUS: Final = 500
"""Lowest status of an answer that counts as an error."""
CENSORED: Final = frozenset(("timeout", "client_closed", "slow_reader", "client_timeout"))
"""Reasons of attempts that ended before the upstream did: their duration is a lower bound."""
REFUSED: Final = frozenset(("connect_failure", "connect_timeout"))
"""Reasons of attempts that got no connection."""


class Try(NamedTuple):
    """Recorded attempt.

    - `endpoint`: URL of the endpoint; empty if the log does not have it.
    - `at`: start in seconds from the first request.
    - `seconds`: duration.
    - `status`: status of the answer; 0 for a failure.
    - `reason`: code of the failure; empty for an answer.
    - `is_again`: True for every attempt but the first.
    - `in_flight`: other attempts at the endpoint that were in flight at its start; 0 if the log has no endpoints, or
      times of whole seconds.
    """

    endpoint: str
    at: float
    seconds: float
    status: int
    reason: str = ""
    is_again: bool = False
    in_flight: int = 0

    @property
    def is_censored(self) -> bool:
        """True if the attempt was cut off, so that its duration is a lower bound."""
        return self.reason in CENSORED


class Request(NamedTuple):
    """Recorded request.

    - `at`: arrival in seconds from the first request.
    - `seconds`: duration.
    """

    at: float
    method: str
    host: str
    path: str
    client: str
    caller: str
    route: str
    status: int
    reason: str
    seconds: float


class Line(NamedTuple):
    """Line of a log, in terms of this record; `request.at` and `Try.at` are Unix times.

    - `skip`: reason for which the request is not replayed; empty for one that is.
    - `suppressed`: number of requests that the log has left out before this line.
    - `has_whole_seconds`: True if the end of the request is known to the second alone.
    """

    request: Request
    tries: tuple[Try, ...]
    skip: str = ""
    suppressed: int = 0
    has_whole_seconds: bool = False


class Unreadable(ValueError):  # noqa: N818 - the finding about a line, not an error of ours
    """Raised for a line that cannot be read; the message says what is wrong and what would be right."""


class Record:
    """Requests and attempts of a log."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        """Requests to replay, in the order of their arrival."""
        self.tries: list[list[Try]] = []
        """Attempts of each request."""
        self.skipped: Counter[str] = Counter()
        """Number of requests that are not replayed, by reason."""
        self.unreadable = 0
        """Number of lines that could not be read."""
        self.named: list[str] = []
        """Sentences about the first unreadable lines, each with its number."""
        self.beyond = 0
        """Number of requests beyond `MOST_REQUESTS`."""
        self.suppressed = 0
        """Number of requests that the log itself has left out."""
        self.has_attempts = False
        """True if the log has the attempts of its requests."""
        self.start = 0.0
        """Unix time of the first arrival."""
        self.has_whole_seconds = False
        """True if the log has the ends of its requests in whole seconds, over which they were spread."""

    @property
    def seconds(self) -> float:
        """Time from the first to the last arrival, in seconds."""
        return self.requests[-1].at if self.requests else 0.0


def read(
    lines: Iterable[bytes], parse: Callable[[bytes], Line], most: int = MOST_REQUESTS, name: str = "log"
) -> Record:
    """Return the record of a log; `parse` reads one line, and raises `Unreadable`."""
    record = Record()
    kept: list[Line] = []
    texts: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            if len(line) > LONGEST_LINE:
                raise Unreadable(f"is longer than {LONGEST_LINE} bytes; is it an access log?")
            found = parse(line)
        except ValueError as error:
            record.unreadable += 1
            if len(record.named) < MOST_NAMED:
                record.named.append(f"{name}:{number}: {error}")
            continue
        record.suppressed += found.suppressed
        if found.skip:
            record.skipped[found.skip] += 1
        elif len(kept) >= most:
            record.beyond += 1
        else:
            kept.append(_compact(found, texts))
    record.has_whole_seconds = any(each.has_whole_seconds for each in kept)
    if record.has_whole_seconds:
        kept = _spread(kept)
    kept.sort(key=lambda each: each.request.at)
    if kept:
        start = record.start = kept[0].request.at
        record.requests = [each.request._replace(at=each.request.at - start) for each in kept]
        record.tries = [[a._replace(at=max(0.0, a.at - start)) for a in k.tries] for k in kept]
        if not record.has_whole_seconds:  # else they would follow from the spreading
            record.tries = _with_calls_in_flight(record.tries)
        record.has_attempts = any(a.endpoint for tries in record.tries for a in tries)
    return record


def _spread(lines: list[Line]) -> list[Line]:
    """Return lines whose requests end evenly within each second, in the order of the log.

    A log with whole seconds would have all of them end at one instant, as if they had come at once.
    """
    counts = Counter(round(each.request.at + each.request.seconds) for each in lines)
    done: Counter[int] = Counter()
    found = []
    for line in lines:
        second = round(line.request.at + line.request.seconds)
        later = (done[second] + 0.5) / counts[second]
        done[second] += 1
        request = line.request._replace(at=line.request.at + later)
        found.append(line._replace(request=request, tries=tuple(a._replace(at=a.at + later) for a in line.tries)))
    return found


def _with_calls_in_flight(tries: list[list[Try]]) -> list[list[Try]]:
    """Return the attempts of each request with the calls that were in flight at their endpoint."""
    starts: defaultdict[str, list[float]] = defaultdict(list)
    ends: defaultdict[str, list[float]] = defaultdict(list)
    for found in tries:
        for a in found:
            if a.endpoint:
                starts[a.endpoint].append(a.at)
                ends[a.endpoint].append(a.at + a.seconds)
    for times in (*starts.values(), *ends.values()):
        times.sort()

    def others(a: Try) -> int:
        return bisect_left(starts[a.endpoint], a.at) - bisect_right(ends[a.endpoint], a.at) if a.endpoint else 0

    return [[a._replace(in_flight=max(0, others(a))) for a in found] for found in tries]


def _compact(line: Line, texts: dict[str, str]) -> Line:
    """Return a line whose texts share memory with those of earlier lines."""

    def shared(text: str) -> str:
        return texts.setdefault(text, text) if len(texts) < MOST_TEXTS else texts.get(text, text)

    r = line.request
    request = r._replace(
        method=intern(r.method), host=shared(r.host), path=shared(r.path), client=shared(r.client),
        caller=shared(r.caller), route=intern(r.route), reason=intern(r.reason),
    )  # fmt: skip
    tries = tuple(a._replace(endpoint=intern(a.endpoint), reason=intern(a.reason)) for a in line.tries[:MOST_ATTEMPTS])
    return line._replace(request=request, tries=tries)
