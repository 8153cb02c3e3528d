"""Replay of a record under two policy sets with several seeds, and the verdict on the change.

Both sets meet the same seeds, so that differences are those of pairs.  The verdict names the better set: by goodput,
then by p99, then by the load on the upstreams.  A difference within its tolerance decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

from sidecar.config.spec import PolicySpec
from sidecar.replay.fit import Fitted
from sidecar.replay.limits import limits
from sidecar.replay.record import BAD_STATUS, Record
from sidecar.replay.tally import TOO_MANY, Numbers, percentile
from sidecar.replay.world import name_routes, run_world

POINTS: Final = 0.005
"""Difference in goodput that counts as none, as a share of the requests."""
RATIO: Final = 0.05
"""Relative difference in p99 or in load that counts as none."""

Better = Literal["old", "new", "neither"]


class Replayed(NamedTuple):
    """Result of a replay.

    - `recorded`: numbers of the log itself, to judge the fit by; those that a log does not have are 0 or None.
    - `old`, `new`: numbers of each policy set, one for each seed.
    - `limits`: sentences about what the log cannot tell.
    """

    record: Record
    recorded: Numbers
    old: list[Numbers]
    new: list[Numbers]
    seeds: list[int]
    limits: list[str]

    @property
    def better(self) -> Better:
        """Better policy set; `neither` if the differences are within their tolerances."""
        old, new = mean(self.old), mean(self.new)
        if abs(new.goodput - old.goodput) > POINTS:
            return "new" if new.goodput > old.goodput else "old"
        for before, after in ((old.p99, new.p99), (old.load, new.load)):
            if abs(after - before) > RATIO * max(before, after):
                return "new" if after < before else "old"
        return "neither"

    def is_worse(self, max_drop: float, max_p99: float | None = None, max_load: float | None = None) -> list[str]:
        """Return sentences about bounds that the new policies exceed; empty if they exceed none.

        `max_drop` is the largest drop of availability and of goodput in points of a hundred; `max_p99` and `max_load`
        are the largest factors, None for any.
        """
        old, new = mean(self.old), mean(self.new)
        found = []
        for name, before, after in (
            ("availability", old.availability, new.availability),
            ("goodput", old.goodput, new.goodput),
        ):
            if (before - after) * 100 > max_drop:
                found.append(f"{name} drops by {(before - after) * 100:.2f} points; allowed are {max_drop:g}")
        for name, before, after, most in (
            ("p99", old.p99, new.p99, max_p99),
            ("load on the upstreams", old.load, new.load, max_load),
        ):
            if most is not None and after > before * most:
                factor = after / before if before else float("inf")
                found.append(f"{name} is {factor:.2f} times the old one; allowed is {most:g}")
        return found


def mean(runs: Sequence[Numbers]) -> Numbers:
    """Return the mean of several runs, whole numbers rounded."""
    if len(runs) == 1:
        return runs[0]
    values: list[Any] = []
    for column in zip(*runs, strict=True):
        known = [value for value in column if value is not None]
        average = sum(known) / len(known) if known else None
        is_whole = all(isinstance(value, int) for value in known) and average is not None
        values.append(round(average) if is_whole and average is not None else average)
    return Numbers(*values)


def replay(old: PolicySpec, new: PolicySpec, record: Record, seeds: Sequence[int]) -> Replayed:
    """Return the result of replaying a record.  Raises `CompileError`, and `Unmatched` for policies without a route."""
    name_routes(record, old)
    beyond = slower = failing = 0
    runs: tuple[list[Numbers], list[Numbers]] = ([], [])
    for spec, found in zip((old, new), runs, strict=True):
        for seed in seeds:
            fitted = Fitted(record)
            found.append(run_world(spec, record.requests, fitted, seed, fitted.endpoints))
            beyond = max(beyond, fitted.drawn_beyond)
            slower, failing = len(fitted.curves), len(fitted.failures)
    return Replayed(record, recorded_numbers(record), *runs, list(seeds), limits(record, beyond, slower, failing))


def recorded_numbers(record: Record) -> Numbers:
    """Return the numbers that the log itself has."""
    requests = record.requests
    durations = sorted(each.seconds for each in requests)
    count = len(requests) or 1
    good = sum(not each.reason and each.status < BAD_STATUS and each.status != TOO_MANY for each in requests)
    attempts = sum(map(len, record.tries))
    more = sum(max(0, len(tries) - 1) for tries in record.tries)
    return Numbers(
        len(requests), good / count, good / count, good / max(record.seconds, 1.0), percentile(durations, 0.5),
        percentile(durations, 0.99), attempts / count, more, 0, 0, 0, 0, 0, None,
    )  # fmt: skip
