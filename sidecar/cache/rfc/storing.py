"""Parts of a request and its answer that enter a shared cache (RFC 9111 3 and 3.1)."""

from __future__ import annotations

import re
from typing import Final

from sidecar.cache.rfc.dates import format_date
from sidecar.cache.rfc.directives import parse
from sidecar.cache.rfc.facts import UNSTORABLE, Facts
from sidecar.cache.rfc.freshness import Plan, RequestFacts
from sidecar.cache.rfc.lines import lowered, values, without
from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers

DATE: Final = frozenset((b"date",))
RELEVANT: Final = re.compile(rb"\n(?:authorization|cookie|cache-control):", re.IGNORECASE)
"""Matches a request field that decides whether the answer may be stored."""
PLAIN_REQUEST: Final = RequestFacts()
"""Facts of a request without such a field; one object, so that verdicts can be reused (`freshness.assess`)."""


def request_facts(x: Exchange) -> RequestFacts:
    """Return the facts of a request that decide whether its answer may be stored."""
    if not x.speaks_to_caches:
        return PLAIN_REQUEST
    lines = x.lines
    if RELEVANT.search(b"\n" + lines) is None:
        return PLAIN_REQUEST
    lower = lowered(lines)
    no_store = b"no-store" in lower and parse(values(lines, lower, b"cache-control")).no_store
    return RequestFacts(b"\nauthorization:" in lower, b"\ncookie:" in lower, no_store)


def storable(lines: bytes, plan: Plan, facts: Facts, wall: float) -> bytes:
    """Return the field lines to store (RFC 9111 3.1), with a Date if there is none (RFC 9110 6.6.1).

    `facts` were read from `lines`; `wall` is the time of receipt in seconds since 1970.
    """
    if plan.dropped is not None:
        lines = without(lines, UNSTORABLE | plan.dropped)
    elif facts.storable is not None:
        lines = facts.storable
    else:
        lines = facts.storable = without(lines, UNSTORABLE) if facts.has_unstorable else lines
    if facts.date is None:
        lines = b"%bdate: %b\r\n" % (without(lines, DATE), format_date(wall))
    return lines


def dated(headers: Headers, wall: float) -> Headers:
    """Return the fields with a Date; without one the update counts as made when it came."""
    if any(name == b"date" for name, _ in headers):
        return headers
    return [*headers, (b"date", format_date(wall))]
