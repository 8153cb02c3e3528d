"""Field `RateLimit` of responses: what the limits of an upstream still allow (draft-ietf-httpapi-ratelimit-headers).

Rules:

1. The field is a list of RFC 9651: its lines add up, parameters come in any order, and one error makes it invalid.
2. A limit counts if it states both what remains (`r`) and the seconds until its reset (`t`), as integers.
3. The separate fields of the draft's early versions and those that begin with `X-RateLimit-` are not read: servers
   differ in whether a reset is a duration or an instant.
"""

from __future__ import annotations

from typing import Final

from sidecar.cache.rfc.structured import parse_list
from sidecar.core.outcome import Outcome

NAME: Final = b"ratelimit"
LONGEST: Final = 1000
"""Longest value in bytes that is read."""


def read_allowances(outcome: Outcome) -> list[tuple[float, float]]:
    """Return what remains and the seconds until the reset, both more than or equal to 0, of each limit."""
    value = outcome.joined(NAME)
    if value is None or len(value) > LONGEST:
        return []
    found: list[tuple[float, float]] = []
    for _, parameters in parse_list(value) or ():
        remaining, reset = parameters.get(b"r"), parameters.get(b"t")
        if remaining is None or reset is None or remaining[0] != "integer" or reset[0] != "integer":
            continue
        if remaining[1][:1] != b"-" and reset[1][:1] != b"-":
            found.append((float(remaining[1]), float(reset[1])))
    return found
