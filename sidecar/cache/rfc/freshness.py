"""May an answer be stored, and how long is it fresh and of use (RFC 9111 3 and 4.2, RFC 5861, RFC 9213)?

Pure: what the answer says, what the policy says and the instants go in; a `Plan`, an age and a refusal come out.  The
cache is a shared one.  The refusal is a word for `Cache-Status` and `sidecar explain`; empty means: store it.

Decisions where the RFC leaves one:

- Heuristic freshness (RFC 9111 4.2.2) is off unless the policy turns it on; then it is a share of the time since
  `Last-Modified`, at most a day.
- The policy's `ttl` stands in for an origin that says nothing: not where there is any `Cache-Control`, `Expires` or
  `Pragma: no-cache` with a word on freshness, and not for a request with a `Cookie`, whose answer may be one user's.
- The policy's stale windows hold only for an answer that was fresh once by its own word or the policy's.
- `s-maxage` forbids staleness as `proxy-revalidate` does (RFC 9111 5.2.2.10), also beside `stale-while-revalidate`;
  an origin that wants both says it in `CDN-Cache-Control`, or with `max-age`.
- A number twice with different values is 0, and so is an unreadable `Expires` or two of them (RFC 9111 4.2.1, 5.3).
- `Set-Cookie` needs the policy's consent, or a qualified `no-cache` or `private` that takes the field out.
- An answer that could never be used is not stored: stale at birth, without a validator or a window of staleness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from sidecar.cache.rfc.dates import parse_date
from sidecar.cache.rfc.directives import NOTHING, Directives
from sidecar.cache.rfc.facts import Facts, Targets

HEURISTICALLY_CACHEABLE: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
"""RFC 9110 15.1, without 206, which is not stored."""
UNDERSTOOD: Final = HEURISTICALLY_CACHEABLE | {
    201, 202, 205, 207, 208, 226, 302, 303, 305, 307, 400, 401, 402, 403, 406, 407, 408, 409, 411, 412, 413, 415, 416,
    417, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 500, 502, 503, 504, 505, 506, 507, 508, 510, 511,
}  # fmt: skip
"""The registered final statuses: nothing in their definitions asks more of a cache (RFC 9111 5.2.2.3)."""
LONGEST_HEURISTIC: Final = 86400.0


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """What the policy has to say."""

    ttl: float | None = None
    """Seconds of freshness for an answer that says nothing itself."""
    heuristic: float = 0.0
    """Share of the time since `Last-Modified`; 0 is off."""
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    set_cookie: bool = False
    """May answers with `Set-Cookie` be stored?"""
    targets: Targets = (b"cdn-cache-control",)


class Asked(NamedTuple):
    """What of the request matters for storing its answer."""

    has_authorization: bool = False
    has_cookie: bool = False
    no_store: bool = False


class Plan:
    """How answers that say the same are stored.  Seconds."""

    lifetime = 0.0
    stale_while_revalidate = 0.0
    stale_if_error = 0.0
    must_validate = False
    """May it not be served stale by anyone's leave (RFC 9111 4.2.4)?"""
    no_cache = False
    """Must it be validated even while it is fresh (RFC 9111 5.2.2.4)?"""
    immutable = False
    dropped: frozenset[bytes] | None = None
    """Fields not to store, if there are any."""

    def __init__(self, refusal: bytes = b"") -> None:
        self.refusal = refusal
        """Why they are not, in a word; empty if they are."""


def assess(
    status: int, facts: Facts, asked: Asked, rules: Rules, delay: float, received: float
) -> tuple[Plan, float, bytes]:
    """Judge the answer to a GET (RFC 9111 3), that took `delay` seconds and came at `received`, seconds since 1970: how
    it is stored, how old it was when it came, and why it may not be stored, in a word; empty if it may."""
    last: Plan | None = facts.plan
    if last is not None and facts.last_status == status and facts.last_asked is asked and facts.last_rules is rules:
        plan = last
    else:
        dated = _dated_lifetime(facts, rules, received)
        plan = _plan(status, facts, asked, rules, dated)
        if dated is None or facts.date is not None:  # else another instant has another plan
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
    """Does the answer itself say how long it is fresh (RFC 9111 4.2.1)?"""
    return facts.control.s_maxage is not None or facts.control.max_age is not None or facts.expires is not None


def initial_age(facts: Facts, delay: float, received: float) -> float:
    """Seconds old at its receipt (RFC 9111 4.2.3)."""
    apparent = 0.0 if facts.date is None else max(0.0, received - facts.date)
    return max(apparent, (facts.age or 0.0) + delay)


def _dated_lifetime(facts: Facts, rules: Rules, received: float) -> float | None:
    """The lifetime that follows from dates, None where they have no say: `Expires`, or the heuristic."""
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


def _plan(status: int, facts: Facts, asked: Asked, rules: Rules, dated: float | None) -> Plan:
    control = facts.control
    if status < 200 or status in (206, 304):
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
    else:
        lifetime = _implied_lifetime(status, control, asked, rules, facts.pragma, dated or 0.0)
    return _windows(control, rules, lifetime, dropped)


def _implied_lifetime(
    status: int, control: Directives, asked: Asked, rules: Rules, pragma: bool, heuristic: float
) -> float:
    if control.no_cache or (pragma and control is NOTHING):
        return 0.0
    if rules.ttl is not None:
        return rules.ttl if not asked.has_cookie and status in HEURISTICALLY_CACHEABLE else 0.0
    return heuristic


def _windows(control: Directives, rules: Rules, lifetime: float, dropped: frozenset[bytes]) -> Plan:
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
