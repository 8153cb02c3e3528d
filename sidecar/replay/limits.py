"""Sentences about what a log cannot tell, with the numbers of the log at hand."""

from __future__ import annotations

from sidecar.replay.record import Record


def limits(record: Record, beyond: int, slower: int = 0, failing: int = 0) -> list[str]:
    """Return the sentences.

    `beyond` is the number of draws for which the log has no duration, `slower` and `failing` are those of endpoints
    whose latency and whose failures depend on their calls in flight.
    """
    requests, tries = record.requests, record.tries
    found = []
    censored = [a.seconds for each in tries for a in each if a.is_censored]
    if censored:
        sentence = (
            f"{_count(len(censored), 'attempt was', 'attempts were')} cut off, after {max(censored):.3g} s at most: "
        )
        found.append(sentence + "how long they would have taken is estimated from slower answers")
    if beyond:
        found.append(f"up to {_count(beyond, 'answer', 'answers')} a run never came, because the log has no slower one")
    unseen = sum(not each for each in tries)
    if unseen:
        found.append(
            f"{_count(unseen, 'request', 'requests')} reached no upstream (refused, or from a cache): "
            "what an upstream would have answered is drawn from other requests of that time"
        )
    if record.suppressed:
        found.append(f"{_count(record.suppressed, 'request', 'requests')} were left out of the log by `at_most`")
    if record.beyond:
        found.append(f"{_count(record.beyond, 'request', 'requests')} beyond the first {len(requests)} were not read")
    found += [f"not replayed: {count} {reason}" for reason, count in record.skipped.most_common()]
    if record.unreadable:
        found.append(f"{_count(record.unreadable, 'line', 'lines')} could not be read")
    if record.has_whole_seconds:
        words = "the log has whole seconds: its requests are spread evenly over each"
        found.append(f"{words}, so bursts are lost, and load by calls in flight is unknown (nginx: add msec=$msec)")
    if not any(a.is_again for each in tries for a in each):
        found.append(
            "the log has no retries: if a request fails for its own sake, the replay still lets retries rescue it"
        )
    if not record.has_attempts:
        found.append("the log has no endpoints: all endpoints of a route behave alike")
    return [
        *found,
        "bodies, queries, header fields and claims are not in a log: limits that tell requests apart by them count all "
        "together; keys of caches lack the query, so hit ratios are upper bounds; answers have no Cache-Control, so "
        "only a `ttl` of the policy makes them cacheable",
        _load(slower, failing),
        "clients do not react: they neither retry more nor less, and do not leave earlier",
        "authentication, authorisation, CORS, mirroring and health checks are left out",
    ]


def _load(slower: int, failing: int) -> str:
    """Return the sentence about load."""
    if not slower and not failing:
        return (
            "the log shows no latency and no failures that depend on load: relief and overload by a new policy are not "
            "predicted"
        )
    latency = f"the latency of {_count(slower, 'endpoint', 'endpoints')}" if slower else "no latency"
    failures = f"failures of {_count(failing, 'endpoint', 'endpoints')}" if failing else "no failures"
    words = "beyond the most calls in flight of the log the same slope is assumed"
    return f"load changes {latency} and {failures}, as the log shows; {words}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
