"""Cache directives of an aggregated answer: the least that the answers of all parts allow.

Rules:

1. `no-store`, `private`, `no-cache` and `must-revalidate` of one part hold for the whole; `public` must be in all.
2. The lifetime is the shortest of those that are stated, less the age that the answer has.  A part that states none
   neither shortens nor lengthens it, so a `ttl` of the policy counts only if no part states one.
3. `s-maxage` is written if one part has it and all parts state a lifetime.
4. `Vary` is the union of all parts, without fields that are not passed on to parts.
5. A partial answer is not stored at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sidecar.cache.rfc.directives import Directives, parse
from sidecar.core.message import get, get_all, http_date, tokens
from sidecar.core.outcome import Outcome

NO_STORE: Final = b"cache-control: no-store\r\n"
NAMES: Final = (b"\ncache-control:", b"\nexpires:", b"\nvary:", b"\npragma:")
"""Beginnings of lines that say something about storing."""
UNVARIED: Final = frozenset((b"accept", b"accept-encoding"))
"""Fields that all requests of parts have alike."""


def least(outcomes: Sequence[Outcome], wall: float) -> bytes:
    """Return the lines Cache-Control and Vary of a complete answer; `wall` is the Unix time in seconds."""
    speaking = [outcome for outcome in outcomes if speaks_of_storing(b"\n" + outcome.lines.lower())]
    if not speaking:
        return b""
    found = [_directives(outcome) for outcome in speaking]
    if any(each.no_store for each in found):
        return NO_STORE + _vary(speaking)
    words: list[bytes] = []
    is_whole = len(speaking) == len(outcomes)
    if any(each.private for each in found):
        words.append(b"private")
    elif is_whole and all(each.public for each in found):
        words.append(b"public")
    if any(each.no_cache or each.no_cache_fields for each in found):
        words.append(b"no-cache")
    lifetimes = [_lifetimes(outcome, each, wall) for outcome, each in zip(speaking, found, strict=True)]
    own = [each for each, _ in lifetimes if each is not None]
    shared = [each for _, each in lifetimes if each is not None]
    is_stated = is_whole and all(pair != (None, None) for pair in lifetimes)
    if shared and is_stated:
        if own:
            words.append(b"max-age=%d" % min(own))
        both = [pair[0] if pair[1] is None else pair[1] for pair in lifetimes]
        words.append(b"s-maxage=%d" % min([each for each in both if each is not None]))
    elif own or shared:
        words.append(b"max-age=%d" % min(own + shared))
    if any(each.must_revalidate or each.proxy_revalidate for each in found):
        words.append(b"must-revalidate")
    control = b"cache-control: %b\r\n" % b", ".join(words) if words else b""
    return control + _vary(speaking)


def speaks_of_storing(lower: bytes) -> bool:
    """True if there is a field about storing among lines in lower case, with a line feed before the first."""
    for name in NAMES:  # noqa: SIM110 - a generator costs more than the search
        if lower.find(name) >= 0:
            return True
    return False


def _directives(outcome: Outcome) -> Directives:
    lines = get_all(outcome.headers, b"cache-control")
    if not lines and get(outcome.headers, b"pragma") is not None and get(outcome.headers, b"expires") is None:
        return parse([b"no-cache"])
    return parse(lines)


def _lifetimes(outcome: Outcome, directives: Directives, wall: float) -> tuple[int | None, int | None]:
    """Return the seconds for which an answer is fresh, for all caches and for shared ones; None if it says nothing."""
    headers = outcome.headers
    text = get(headers, b"age") or b"0"
    age = int(text) if text.isdigit() and len(text) < 11 else 0
    own = directives.max_age
    if own is None and directives.s_maxage is None and (expires := get(headers, b"expires")) is not None:
        until, sent = http_date(expires), http_date(get(headers, b"date"))
        own = 0 if until is None else int(until - (wall if sent is None else sent))
    shared = directives.s_maxage
    return None if own is None else max(0, own - age), None if shared is None else max(0, shared - age)


def _vary(outcomes: Sequence[Outcome]) -> bytes:
    names = dict.fromkeys(name for outcome in outcomes for name in tokens(outcome.headers, b"vary"))
    if b"*" in names:
        return b"vary: *\r\n"
    kept = [name for name in names if name not in UNVARIED]
    return b"vary: %b\r\n" % b", ".join(kept) if kept else b""
