"""Caching of one request in words, as far as the request and the policies decide it.

The rest is decided by the answer (RFC 9111 3), on which Cache-Status says what was done.
"""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.cache.rfc.facts import Facts
from sidecar.cache.rfc.key import KeyRule, uri_of
from sidecar.cache.rfc.reuse import is_for_origin, read_fields, request_directives
from sidecar.cache.rfc.storing import request_facts
from sidecar.config.node import Node
from sidecar.core.exchange import SAFE_METHODS, Exchange
from sidecar.inspect.effective import EMPTY
from sidecar.stages.cache.settings import limits
from sidecar.stages.cache.spec import Spec


def cache_text(spec: Spec, route: str, x: Exchange, node: Node = EMPTY) -> Iterator[str]:
    """Yield sentences on what the cache of a route does with a request and its answer; `node` is the `cache` block."""
    if (why := _goes_past(spec, x)) is not None:
        yield f"goes past the cache: {why}"
        return
    rule = KeyRule(route, spec.key.headers, spec.key.ignore_query)
    yield f"is looked up in the cache {spec.store} as {uri_of(rule.key(x)).decode('latin-1')}{_beside(spec)}"
    if x.method == b"HEAD":
        yield "the answer to a HEAD is not stored; it updates what is stored for GET"
        return
    fields, asked = read_fields(x.lines), request_facts(x, Facts(), limits(spec).rules)
    if spec.request_directives == "honor" and request_directives(fields).only_if_cached:
        yield "the upstream is never asked: the request says only-if-cached"
        return
    if fields is not None and b"range" in fields:
        yield "the answer is not stored if it comes from the upstream: the request asks for a range"
        return
    if asked.no_store:
        yield "the answer is not stored: the request says no-store"
        return
    yield "the answer is stored if its Cache-Control or Expires gives it a time, or it has a validator, up to " + (
        f"{node.printable(f'{spec.max_body} bytes', 'max_body')}, and nothing in it forbids it"
    )
    if asked.has_authorization:
        yield "the request bears Authorization: only if the answer says public, s-maxage or must-revalidate"
    if spec.set_cookie == "refuse":
        yield "not if it sets a cookie (set_cookie: refuse)"
    if asked.has_authorization or asked.has_credential:
        yield "the request bears a credential: not if the answer says nothing about shared caches (credentials)"
    elif spec.ttl is None:
        share = node.printable(f"{spec.heuristic:.0%}", "heuristic") if spec.heuristic else ""
        silent = f"fresh for {share} of its age" if spec.heuristic else "not fresh"
        yield f"if it says nothing itself it is {silent} (there is no ttl)"
    else:
        yield f"if it says nothing itself it is fresh for {node.printable(f'{spec.ttl:g}s', 'ttl')} (ttl)"
    if not spec.is_enforced:
        yield "nothing is answered from the cache: mode is observe"


def _goes_past(spec: Spec, x: Exchange) -> str | None:
    """Return why a request goes past the cache, None if it does not."""
    if x.method not in (b"GET", b"HEAD"):
        if x.method in SAFE_METHODS:
            return f"{x.method.decode()} is neither GET nor HEAD"
        return f"{x.method.decode()} may change things; its success drops what is stored for this URL"
    fields = read_fields(x.lines)
    if fields is not None and is_for_origin(fields):
        return "If-Match and If-Unmodified-Since are for the origin to judge"
    if spec.request_directives == "honor" and request_directives(fields).no_store:
        return "the request says no-store"
    return None


def _beside(spec: Spec) -> str:
    return f" by {', '.join(spec.key.headers)}" if spec.key.headers else ""
