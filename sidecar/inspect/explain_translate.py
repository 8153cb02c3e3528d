"""Text on the calls of gRPC that a route makes of requests: all its bindings, and the one of a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sidecar.config.checks.translations import may_take
from sidecar.control.route import Route
from sidecar.core.exchange import Exchange
from sidecar.grpc.bindings import Binding

TRANSLATE = "translate"


def bindings_of(route: Route) -> list[Binding]:
    """Return the bindings that a route may serve; none without `translate`."""
    found: list[Binding] = next(
        (_stage(link.stage).bindings.all for link in route.chain if link.policy == TRANSLATE), []
    )
    return [binding for binding in found if "transform" in route.policies or may_take(route.spec.match, binding)]


def _stage(stage: Any) -> Any:
    """Return a stage whose class is imported only where a policy has the block."""
    return stage


def call_text(binding: Binding) -> str:
    """Return the method of a binding, with the kind of its answer."""
    return f"{binding.method.full_name}{' (stream)' if binding.method.server_streaming else ''}"


def translation_sentences(route: Route, x: Exchange) -> list[str] | None:
    """Return sentences on the call that a request becomes; None without a `translate` block."""
    for link in route.chain:
        if link.policy == TRANSLATE:
            return list(_sentences(_stage(link.stage).bindings, link.block, x))
    return None


def _sentences(bindings: Any, block: Any, x: Exchange) -> Iterator[str]:
    match = bindings.match(x.method, x.path)
    if match.target is None:
        if match.allowed:
            yield f"is refused with 405: the path is bound, but only for {', '.join(match.methods)}"
        else:
            yield "is refused with 404: no method of the route's services is bound to the path"
        return
    binding: Binding = match.target
    yield f"calls {call_text(binding)}, by {binding.text}"
    for variable, value in zip(binding.template.variables, binding.template.captures(match.segments), strict=True):
        yield f"the path sets {variable.name} to {value.decode('utf-8', 'replace')}"
    body = binding.rule.body
    if body:
        yield "the body is the message" if body == "*" else f"the body is the field {body}"
    if body != "*":
        yield "query parameters set other fields"
    if binding.method.server_streaming:
        yield f"each message of the answer is sent as it comes ({block.grpc.streams})"
    if binding.rule.response_body:
        yield f"the answer is the field {binding.rule.response_body}"
