"""Verdicts on responses: permission to store, freshness and stale windows (RFC 9111 3 and 4.2, RFC 5861, RFC 9213).

The cache is a shared one.  The inputs are facts of the response and the request, the policy and instants.  The results
are a `Plan`, an age and a refusal.  Choices that the RFCs leave open:

1. Heuristic freshness (RFC 9111 4.2.2) is off by default, and a day at most.
2. The policy's `ttl` and the heuristic hold if the response says nothing about freshness.  The response to a request
   with a credential may then be one user's, and is not stored, unless it has `public` or an unqualified `no-cache`.
3. The policy's stale windows hold for a response that was once fresh.
4. `s-maxage` forbids staleness as `proxy-revalidate` does (RFC 9111 5.2.2.10), also beside `stale-while-revalidate`.
5. `Set-Cookie` needs the policy's consent, or a qualified `no-cache` or `private` that removes the field.
6. A response that could never be used is not stored: stale at birth, without validator or stale window.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from sidecar.cache.rfc.dates import parse_date
from sidecar.cache.rfc.directives import NOTHING, Directives
from sidecar.cache.rfc.facts import Facts, Targets

HEURISTICALLY_CACHEABLE: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
"""Statuses that may be stored without explicit freshness (RFC 9110 15.1), except 206, which is never stored."""
UNDERSTOOD: Final = HEURISTICALLY_CACHEABLE | {
    201, 202, 205, 207, 208, 226, 302, 303, 305, 307, 400, 401, 402, 403, 406, 407, 408, 409, 411, 412, 413, 415, 416,
    417, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 500, 502, 503, 504, 505, 506, 507, 508, 510, 511,
}  # fmt: skip
"""Registered final statuses; none demands more of a cache than its fields say (RFC 9111 5.2.2.3)."""
LONGEST_HEURISTIC: Final = 86400.0
"""Seconds of heuristic freshness, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class FreshnessRules:
    """Settings of a policy that decide about storing and freshness."""

    ttl: float | None = None
    """Seconds of freshness for a response that states none; None for no such freshness."""
    heuristic: float = 0.0
    """Freshness as a share of the time since Last-Modified; 0 is off."""
    stale_while_revalidate: float = 0.0
    """Seconds of use beyond freshness during a refresh, unless the response says otherwise."""
    stale_if_error: float = 0.0
    """Seconds of use beyond freshness in place of an error, unless the response says otherwise."""
    set_cookie: bool = False
    """True if responses with Set-Cookie may be stored."""
    targets: Targets = (b"cdn-cache-control",)
    """Targeted fields that replace Cache-Control."""
    credentials: re.Pattern[bytes] | None = None
    """Matches a line with a credential, after a line feed (`storing.credentials`); None if none counts as one."""
    per_caller: bool = False
    """True if each authenticated caller has answers of its own, so that the credential which names it may be stored
    for."""


class RequestFacts(NamedTuple):
    """Facts of a request that decide whether its response may be stored."""

    has_authorization: bool = False
    has_credential: bool = False
    """True if the request has a credential of the policy's list."""
    no_store: bool = False
    """True if Cache-Control of the request says `no-store`."""


class Plan:
    """Plan for storing responses with the same facts.  All times are in seconds."""

    lifetime = 0.0
    """Seconds of freshness, from an age of zero on."""
    stale_while_revalidate = 0.0
    """Seconds of use beyond freshness while a new response is fetched."""
    stale_if_error = 0.0
    """Seconds of use beyond freshness in place of an error."""
    must_validate = False
    """True if the response may never be used stale (RFC 9111 4.2.4)."""
    no_cache = False
    """True if the response must be validated even while it is fresh (RFC 9111 5.2.2.4)."""
    immutable = False
    """True if a reload need not validate the response while it is fresh (RFC 8246)."""
    dropped: frozenset[bytes] | None = None
    """Fields that are not stored; None if all are stored."""
    is_dated = False
    """True if the lifetime follows from dates of one response, so that no other response may share the plan."""

    def __init__(self, refusal: bytes = b"") -> None:
        """Make a plan to store the response, or with a `refusal` not to store it."""
        self.refusal = refusal
        """Reason not to store, as a token; empty if the response may be stored."""


def assess(
    status: int, facts: Facts, asked: RequestFacts, rules: FreshnessRules, delay: float, received: float
) -> tuple[Plan, float, bytes]:
    """Return the plan for the response to a GET, its age at receipt in seconds, and the refusal (RFC 9111 3).

    `delay` is how long the response took in seconds, `received` the time of receipt in seconds since 1970.  An empty
    refusal means that the response may be stored; else it is the reason as a token.
    """
    last: Plan | None = facts.plan
    if last is not None and facts.last_status == status and facts.last_asked is asked and facts.last_rules is rules:
        plan = last
    else:
        dated = _dated_lifetime(facts, rules, received)
        plan = _plan(status, facts, asked, rules, dated)
        plan.is_dated = dated is not None
        if dated is None or facts.date is not None:  # otherwise the plan depends on the instant
            facts.plan, facts.last_status, facts.last_asked, facts.last_rules = plan, status, asked, rules
    age = initial_age(facts, delay, received)
    if (
        facts.etag is None
        and facts.last_modified is None
        and not plan.refusal
        and (plan.no_cache or plan.lifetime + max(plan.stale_while_revalidate, plan.stale_if_error) <= age)
    ):
        return plan, age, b"no-cache" if plan.no_cache else b"stale" if plan.lifetime else b"no-freshness"
    return plan, age, plan.refusal


def is_explicit(facts: Facts) -> bool:
    """True if the answer itself states how long it is fresh (RFC 9111 4.2.1)."""
    return facts.control.s_maxage is not None or facts.control.max_age is not None or facts.expires is not None


def states_lifetime(facts: Facts) -> bool:
    """True if the answer itself decides how long it is fresh, so that `ttl` of the policy has no effect."""
    control = facts.control
    return is_explicit(facts) or control.no_cache or (facts.pragma and control is NOTHING)


def allows_sharing(facts: Facts) -> bool:
    """True if the answer itself allows shared caches to use it: for a time, for everybody, or after validation."""
    control = facts.control
    return control.public or control.no_cache or is_explicit(facts)


def initial_age(facts: Facts, delay: float, received: float) -> float:
    """Return the age at receipt in seconds (RFC 9111 4.2.3)."""
    apparent = 0.0 if facts.date is None else max(0.0, received - facts.date)
    return max(apparent, (facts.age or 0.0) + delay)


def _dated_lifetime(facts: Facts, rules: FreshnessRules, received: float) -> float | None:
    """Return the lifetime by Expires or the heuristic, in seconds; None if neither decides."""
    control = facts.control
    if control.max_age is not None or control.s_maxage is not None:
        return None
    date = received if facts.date is None else facts.date
    if facts.expires is not None:
        expires = parse_date(facts.expires[0], received)
        if expires is None or any(line != facts.expires[0] for line in facts.expires):
            return 0.0
        return max(0.0, expires - date)
    if rules.heuristic and rules.ttl is None and facts.last_modified is not None:  # RFC 9111 4.2.2
        return min(LONGEST_HEURISTIC, max(0.0, date - facts.last_modified) * rules.heuristic)
    return None


def _plan(status: int, facts: Facts, asked: RequestFacts, rules: FreshnessRules, dated: float | None) -> Plan:
    control = facts.control
    if status < 200 or status in (206, 304, 426):  # a 426 is about one connection
        return Plan(b"partial" if status == 206 else b"status")
    if control.must_understand:  # RFC 9111 5.2.2.3
        if status not in UNDERSTOOD:
            return Plan(b"status")
    elif control.no_store:  # 5.2.2.5
        return Plan(b"no-store")
    if asked.no_store:  # 5.2.1.5
        return Plan(b"request-no-store")
    if control.private:  # 5.2.2.7
        return Plan(b"private")
    if asked.has_authorization and not (control.public or control.must_revalidate or control.s_maxage is not None):
        return Plan(b"authorization")  # 3.5
    dropped = control.no_cache_fields | control.private_fields
    if facts.set_cookie and not rules.set_cookie and b"set-cookie" not in dropped:
        return Plan(b"set-cookie")
    if facts.vary is None:  # 4.1
        return Plan(b"vary")
    if control.s_maxage is not None:  # 4.2.1, for a shared cache
        lifetime = float(control.s_maxage)
    elif control.max_age is not None:
        lifetime = float(control.max_age)
    elif facts.expires is not None:
        lifetime = dated or 0.0
    elif not (control.public or status in HEURISTICALLY_CACHEABLE):
        return Plan(b"status")
    elif (asked.has_credential or asked.has_authorization) and not allows_sharing(facts):
        return Plan(b"credentials")
    else:
        lifetime = _implied_lifetime(status, control, rules, facts.pragma, dated or 0.0)
    return _windows(control, rules, lifetime, dropped)


def _implied_lifetime(status: int, control: Directives, rules: FreshnessRules, pragma: bool, heuristic: float) -> float:
    if control.no_cache or (pragma and control is NOTHING):
        return 0.0
    if rules.ttl is not None:
        return rules.ttl if status in HEURISTICALLY_CACHEABLE else 0.0
    return heuristic


def _windows(control: Directives, rules: FreshnessRules, lifetime: float, dropped: frozenset[bytes]) -> Plan:
    plan = Plan()
    plan.lifetime = lifetime
    plan.must_validate = must_validate = (
        control.must_revalidate or control.proxy_revalidate or control.no_cache or control.s_maxage is not None
    )
    if not must_validate:
        if control.stale_while_revalidate is not None:
            plan.stale_while_revalidate = float(control.stale_while_revalidate)
        elif lifetime > 0:
            plan.stale_while_revalidate = rules.stale_while_revalidate
        if control.stale_if_error is not None:
            plan.stale_if_error = float(control.stale_if_error)
        elif lifetime > 0:
            plan.stale_if_error = rules.stale_if_error
    plan.no_cache = control.no_cache
    plan.immutable = control.immutable
    plan.dropped = dropped or None
    return plan
