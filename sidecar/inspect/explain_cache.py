"""Text on the caching of one request, as far as the request and the policies decide it.

The rest depends on the response (RFC 9111 3).  In operation, its field Cache-Status says what the cache did.
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


def cache_text(spec: Spec, route: str, x: Exchange, node: Node = EMPTY, *, has_callers: bool = False) -> Iterator[str]:
    """Yield sentences on what the cache does with a request and its response; `node` is its `cache` block.

    `has_callers` is True on a route with `authenticate`.
    """
    if (why := _why_bypassed(spec, x)) is not None:
        yield f"bypasses the cache: {why}"
        return
    rule = KeyRule(route, spec.key.headers, spec.key.ignore_query)
    yield f"is looked up in the cache {spec.store} as {uri_of(rule.key(x)).decode('latin-1')}{_key_headers(spec)}"
    if x.method == b"HEAD":
        yield "the response to a HEAD is not stored; it updates what is stored for GET"
        return
    fields, asked = read_fields(x.lines), request_facts(x, Facts(), limits(spec).rules)
    if spec.request_directives == "honor" and request_directives(fields).only_if_cached:
        yield "the upstream is never asked: the request says only-if-cached"
        return
    if fields is not None and b"range" in fields:
        yield "the response is not stored if it comes from the upstream: the request asks for a range"
        return
    if asked.no_store:
        yield "the response is not stored: the request says no-store"
        return
    yield "the response is stored if Cache-Control or Expires sets its lifetime, or if it has a validator; up to " + (
        f"{node.printable(f'{spec.max_body} bytes', 'max_body')}, and only if no field of it forbids that"
    )
    if asked.has_authorization:
        yield "the request has Authorization: stored only if the response says public, s-maxage or must-revalidate"
    if has_callers and not spec.shared:
        yield "each authenticated caller has answers of its own (shared: false)"
    if spec.set_cookie == "refuse":
        yield "a response that sets a cookie is not stored (set_cookie: refuse)"
    if asked.has_authorization or asked.has_credential:
        yield "the request has a credential: not stored if the response says nothing about shared caches (credentials)"
    elif spec.ttl is None:
        share = node.printable(f"{spec.heuristic:.0%}", "heuristic") if spec.heuristic else ""
        silent = f"fresh for {share} of its age" if spec.heuristic else "not fresh"
        yield f"a response without a lifetime of its own is {silent} (there is no ttl)"
    else:
        yield f"a response without a lifetime of its own is fresh for {node.printable(f'{spec.ttl:g}s', 'ttl')} (ttl)"
    if not spec.is_enforced:
        yield "no response is served from the cache: mode is observe"


def _why_bypassed(spec: Spec, x: Exchange) -> str | None:
    """Return why a request bypasses the cache; None if it does not."""
    if x.method not in (b"GET", b"HEAD"):
        if x.method in SAFE_METHODS:
            return f"{x.method.decode()} is neither GET nor HEAD"
        return f"{x.method.decode()} is unsafe; its success invalidates what is stored for this URL"
    fields = read_fields(x.lines)
    if fields is not None and is_for_origin(fields):
        return "If-Match and If-Unmodified-Since must be evaluated by the origin"
    if spec.request_directives == "honor" and request_directives(fields).no_store:
        return "the request says no-store"
    return None


def _key_headers(spec: Spec) -> str:
    """Return the end of the sentence that names the header fields in the cache key; empty without any."""
    return f" by {', '.join(spec.key.headers)}" if spec.key.headers else ""
