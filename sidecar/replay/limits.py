"""Sentences about what a log cannot tell, with the numbers of the log at hand."""

from __future__ import annotations

from sidecar.replay.record import Record


def limits(record: Record, beyond: int, loaded: int = 0) -> list[str]:
    """Return the sentences.

    `beyond` is the number of draws for which the log has no duration, and `loaded` that of endpoints whose latency
    depends on their calls in flight.
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
    if not any(a.is_again for each in tries for a in each):
        found.append(
            "the log has no retries: if a request fails for its own sake, the replay still lets retries rescue it"
        )
    if not record.has_attempts:
        found.append("the log has no endpoints: all endpoints of a route behave alike")
    return [
        *found,
        "bodies, queries and header fields are not in a log: keys of caches lack the query, so hit ratios are upper "
        "bounds; answers have no Cache-Control, so only a `ttl` of the policy makes them cacheable",
        f"load changes the latency of {_count(loaded, 'endpoint', 'endpoints')}, as the log shows, but never whether a "
        "call fails"
        if loaded
        else "the log shows no latency that depends on load: relief and overload by a new policy are not predicted",
        "clients do not react: they neither retry more nor less, and do not leave earlier",
        "authentication, authorisation, CORS, mirroring and health checks are left out",
    ]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
