"""Parts of a request and its response that decide about storing, or are stored (RFC 9111 3 and 3.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sidecar.cache.rfc.dates import format_date
from sidecar.cache.rfc.directives import parse
from sidecar.cache.rfc.facts import UNSTORABLE, Facts
from sidecar.cache.rfc.freshness import FreshnessRules, Plan, RequestFacts, allows_sharing
from sidecar.cache.rfc.lines import lowered, values, without
from sidecar.core.exchange import Caller, Exchange
from sidecar.core.message import SEPARATORS, Headers

DATE: Final = frozenset((b"date",))
CREDENTIALS: Final = (
    "api-key", "apikey", "authentication", "cf-access-jwt-assertion", "cookie", "dpop", "ocp-apim-subscription-key",
    "private-token", "remote-user", "x-access-token", "x-amz-security-token", "x-amzn-oidc-data", "x-api-key",
    "x-api-token", "x-apikey", "x-auth", "x-auth-request-access-token", "x-auth-request-email", "x-auth-request-user",
    "x-auth-token", "x-authentication", "x-authorization", "x-client-cert", "x-forwarded-access-token",
    "x-forwarded-client-cert", "x-forwarded-email", "x-forwarded-groups", "x-forwarded-user", "x-functions-key",
    "x-goog-api-key", "x-goog-iap-jwt-assertion", "x-id-token", "x-jwt", "x-jwt-assertion", "x-rapidapi-key",
    "x-remote-user", "x-session-id", "x-session-token", "x-token", "x-user", "x-user-id", "x-user-token",
)  # fmt: skip
"""Request fields that count as credentials, unless the policy has a list of its own.  Authorization always counts (RFC
9111 3.5)."""
RELEVANT: Final = re.compile(rb"\n(?:authorization|cache-control):", re.IGNORECASE)
"""Matches a request field that decides whether the response may be stored, beside the credentials."""
SEPARATOR: Final = b"[%b]" % re.escape(SEPARATORS)
PLAIN_REQUEST: Final = RequestFacts()
"""Facts of a request with neither a credential nor a field that `RELEVANT` matches."""
CREDENTIAL_REQUEST: Final = RequestFacts(has_credential=True)
"""Facts of a request with a credential and no other such field; one object, as `PLAIN_REQUEST`, so that verdicts can be
reused (`freshness.assess`)."""


ABOUT_RESOURCE: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 410, 451))
"""Statuses about the resource itself.  All others leave the stored response valid: they are about this request (400,
431), this moment (408, 429, 503), this connection (421) or a detour (302)."""
CLOSED_TO_ALL: Final = frozenset((401, 403))
"""Statuses about the resource itself if the request had no credential."""


def is_about_resource(status: int, x: Exchange, rules: FreshnessRules) -> bool:
    """True if a response with this status is about the resource itself, so that it replaces a stored response."""
    return status in ABOUT_RESOURCE or (status in CLOSED_TO_ALL and not has_credential(x, rules))


def has_credential(x: Exchange, rules: FreshnessRules) -> bool:
    """True if the request has Authorization, or a field that counts as a credential, and other callers share the
    answer."""
    if x.caller is not None:
        return any(_caller_credentials(x, x.caller, rules))
    return x.header(b"authorization") is not None or _matches(rules.credentials, x)


def credentials(names: Iterable[str], keyed: Iterable[str] = ()) -> re.Pattern[bytes] | None:
    """Return a pattern for a line of one of these fields, after a line feed; None without names.

    Fields of the key, `keyed`, are left out, since the key keeps users apart.  The twins of all fields match, since
    some services read them as the field (`sidecar.core.message.fold`).
    """
    in_key = {name.lower() for name in keyed}
    any_ = b"|".join(
        (b"(?!%b:)" % re.escape(name.encode()) if name.lower() in in_key else b"")
        + SEPARATOR.join(re.split(SEPARATOR, name.encode()))
        for name in sorted(names)
    )
    return re.compile(b"\n(?:%b):" % any_, re.IGNORECASE) if any_ else None


def request_facts(x: Exchange, facts: Facts, rules: FreshnessRules) -> RequestFacts:
    """Return the facts of a request that decide whether its response may be stored; `facts` are the response's."""
    if x.caller is not None:
        return _caller_facts(x, x.caller, facts, rules)
    has_credential = facts.control.max_age is None and not allows_sharing(facts) and _matches(rules.credentials, x)
    if not x.speaks_to_caches:
        return CREDENTIAL_REQUEST if has_credential else PLAIN_REQUEST
    lines = x.lines
    if RELEVANT.search(b"\n" + lines) is None:
        return CREDENTIAL_REQUEST if has_credential else PLAIN_REQUEST
    lower = lowered(lines)
    no_store = b"no-store" in lower and parse(values(lines, lower, b"cache-control")).no_store
    return RequestFacts(b"\nauthorization:" in lower, has_credential, no_store)


def _caller_facts(x: Exchange, caller: Caller, facts: Facts, rules: FreshnessRules) -> RequestFacts:
    """Return the facts of a request whose caller is authenticated, even if its credential does not go on."""
    has_authorization, has_other = _caller_credentials(x, caller, rules)
    has_credential = has_other and facts.control.max_age is None and not allows_sharing(facts)
    lines = x.lines
    lower = lowered(lines)
    no_store = b"no-store" in lower and parse(values(lines, lower, b"cache-control")).no_store
    if not has_authorization and not no_store:
        return CREDENTIAL_REQUEST if has_credential else PLAIN_REQUEST
    return RequestFacts(has_authorization, has_credential, no_store)


def _caller_credentials(x: Exchange, caller: Caller, rules: FreshnessRules) -> tuple[bool, bool]:
    """Return two facts of a request with a caller: it counts as one with Authorization, and it has other credentials.

    If all callers share answers, every authenticated request counts as one with Authorization (RFC 9111 3.5).
    Otherwise only credentials beside the one that names the caller count.
    """
    if not rules.per_caller:
        return True, _matches(rules.credentials, x)
    lines = without(x.lines, frozenset((caller.credential,))) if caller.credential else x.lines
    pattern = rules.credentials
    has_other = pattern is not None and (
        pattern.search(b"\n" + lines) is not None or pattern.search(b"\n" + x.forwarding) is not None
    )
    return b"\nauthorization:" in lowered(lines), has_other


def _matches(pattern: re.Pattern[bytes] | None, x: Exchange) -> bool:
    """True if a line sent upstream matches: one of the client's, or one that the sidecar writes about the client."""
    return pattern is not None and (
        pattern.search(b"\n" + x.lines) is not None or pattern.search(b"\n" + x.forwarding) is not None
    )


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
    """Return the fields with a Date: their own, or the time of receipt `wall` in seconds since 1970."""
    if any(name == b"date" for name, _ in headers):
        return headers
    return [*headers, (b"date", format_date(wall))]
