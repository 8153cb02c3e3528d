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
    """Return the method of a binding, with the kind of its requests and of its answer."""
    method = binding.method
    if method.client_streaming:
        kind = " (streams both ways)" if method.server_streaming else " (stream of requests)"
    else:
        kind = " (stream)" if method.server_streaming else ""
    return f"{method.full_name}{kind}"


def translation_sentences(route: Route, x: Exchange) -> list[str] | None:
    """Return sentences on the call that a request becomes; None without a `translate` block."""
    for link in route.chain:
        if link.policy == TRANSLATE:
            return list(_sentences(_stage(link.stage).bindings, link.block, x))
    return None


def _sentences(bindings: Any, block: Any, x: Exchange) -> Iterator[str]:
    is_socket = x.upgrade is not None
    match = bindings.match_socket(x.path) if is_socket else bindings.match(x.method, x.path)
    if match.target is None:
        if not is_socket and (socket := bindings.match_socket(x.path).target) is not None:
            yield f"is refused with 426: {call_text(socket)} needs a WebSocket"
        elif match.allowed:
            yield f"is refused with 405: the path is bound, but only for {', '.join(match.methods)}"
        elif is_socket:
            yield "is refused with 404: no stream of the route's services is bound to the path"
        else:
            yield "is refused with 404: no method of the route's services is bound to the path"
        return
    binding: Binding = match.target
    yield f"calls {call_text(binding)}, by {binding.text}"
    for variable, value in zip(binding.template.variables, binding.template.captures(match.segments), strict=True):
        yield f"the path sets {variable.name} to {value.decode('utf-8', 'replace')}"
    body = binding.rule.body
    if is_socket:
        takes = body or binding.method.client_streaming
        named = f"the field {body}" if body not in ("", "*") else "the message"
        yield f"each frame of the client is {named} as JSON" if takes else "the client sends no frames"
    elif body:
        yield "the body is the message" if body == "*" else f"the body is the field {body}"
    if body != "*":
        yield "query parameters set other fields"
    if is_socket:
        yield "each message of the answer is a frame; a status other than OK is the last one"
    elif binding.method.server_streaming:
        form = "ndjson" if block.grpc.streams == "websocket" else block.grpc.streams
        yield f"each message of the answer is sent as it comes ({form})"
    if binding.rule.response_body:
        yield f"the answer is the field {binding.rule.response_body}"
