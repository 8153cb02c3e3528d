"""Numbers of one run: what clients got, what upstreams had to do, and what the policies did."""

from __future__ import annotations

from array import array
from collections import Counter
from math import ceil
from typing import NamedTuple

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome
from sidecar.replay.record import BAD_STATUS

TOO_MANY = 429
"""Status of requests that a limit has refused."""
HITS = frozenset(("hit", "stale", "revalidated", "coalesced"))
"""Results of a cache that spared the upstream a fetch of its own."""


class Numbers(NamedTuple):
    """Numbers of one run.

    - `availability`: share of requests with an answer that is neither an error nor a refusal, from 0 to 1.
    - `goodput`: share of requests with such an answer that no fallback has made.
    - `per_second`: such answers a second.
    - `p50`, `p99`: durations of all requests, in seconds.
    - `load`: attempts a request.
    - `retries`, `hedges`: attempts after the first.
    - `rescued`, `not_rescued`: requests with retries or hedges that one of them has answered well, or none.
    - `opened`: transitions of circuit breakers to open.
    - `refused`: requests that a policy has refused.
    - `hit_ratio`: share of look-ups in caches that needed no fetch; None without a cache.
    - `unmatched`: requests for which the policies have no route; they count as errors.
    - `bugs`: errors of the sidecar itself.
    """

    requests: int
    availability: float
    goodput: float
    per_second: float
    p50: float
    p99: float
    load: float
    retries: int
    hedges: int
    rescued: int
    not_rescued: int
    opened: int
    refused: int
    hit_ratio: float | None
    unmatched: int = 0
    bugs: int = 0


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that is not below `share` of all values, which are in ascending order."""
    return values[max(0, ceil(share * len(values)) - 1)] if values else 0.0


class Tally:
    """Counts of a run that is under way."""

    def __init__(self) -> None:
        self.durations = array("d")
        self.good = self.full = 0
        self.attempts = self.retries = self.hedges = 0
        self.rescued = self.not_rescued = self.opened = self.refused = 0
        self.cache: Counter[str] = Counter()
        self.unmatched = self.bugs = 0

    def note(self, x: Exchange, outcome: Outcome, seconds: float) -> None:
        """Count a request that has ended."""
        self.durations.append(seconds)
        status = outcome.status
        is_good = outcome.failure is None and status < BAD_STATUS and status != TOO_MANY
        self.good += is_good
        is_full = is_good and x.replaced is None and x.cache != "stale"
        self.full += is_full
        attempts = x.attempts
        self.attempts += len(attempts)
        if outcome.refusal.policy or x.refused_by:
            self.refused += 1
        if x.cache:
            self.cache[x.cache] += 1
        if len(attempts) > 1:
            hedges = sum(a.why == "hedge" for a in attempts)
            retries = sum(a.why.startswith("retry") for a in attempts)
            self.hedges += hedges
            self.retries += retries
            if hedges or retries:
                first = attempts[0]
                has_won = is_full and not (first.status and first.status == status and not first.reason)
                self.rescued += has_won
                self.not_rescued += not has_won

    def numbers(self, seconds: float) -> Numbers:
        """Return the numbers of a run in which requests arrived for `seconds`."""
        count = len(self.durations)
        durations = sorted(self.durations)
        lookups = sum(n for word, n in self.cache.items() if word != "bypass")
        return Numbers(
            count,
            self.good / count if count else 0.0,
            self.full / count if count else 0.0,
            self.full / max(seconds, 1.0),
            percentile(durations, 0.5),
            percentile(durations, 0.99),
            self.attempts / count if count else 0.0,
            self.retries,
            self.hedges,
            self.rescued,
            self.not_rescued,
            self.opened,
            self.refused,
            sum(self.cache[word] for word in HITS) / lookups if lookups else None,
            self.unmatched,
            self.bugs,
        )
