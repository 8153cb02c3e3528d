"""Service of the tests: its descriptor set, and answers of gRPC."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sidecar.core.body import Body
from sidecar.core.message import Headers
from sidecar.core.outcome import Outcome
from sidecar.core.stage import Service
from sidecar.engine.pipeline import Pipeline
from sidecar.grpc.framing import frame
from sidecar.stages.translate import stage as translate
from sidecar.stages.translate.spec import Spec
from tests.support.clock import FakeEnv
from tests.support.protos import compile_proto
from tests.support.service import context

PROTO = """
syntax = "proto3";
package shop;
message Order { string id = 1; int64 total = 2; repeated string tags = 3; }
message Key { string id = 1; bool full = 2; }
service Orders {
  rpc Get(Key) returns (Order) {
    option (google.api.http) = { get: "/v1/orders/{id}" };
    option idempotency_level = NO_SIDE_EFFECTS;
  }
  rpc Tags(Key) returns (Order) { option (google.api.http) = { get: "/v1/orders/{id}/tags" response_body: "tags" }; }
  rpc Create(Order) returns (Order) { option (google.api.http) = { post: "/v1/orders" body: "*" }; }
  rpc Cancel(Key) returns (google.protobuf.Empty) {
    option (google.api.http) = { post: "/v1/orders/{id}:cancel" body: "*" };
    option idempotency_level = IDEMPOTENT;
  }
  rpc Watch(Key) returns (stream Order) { option (google.api.http) = { get: "/v1/orders/{id}/events" }; }
  rpc Picture(Key) returns (google.api.HttpBody) { option (google.api.http) = { get: "/v1/pictures/{id}" }; }
  rpc Film(Key) returns (stream google.api.HttpBody) { option (google.api.http) = { get: "/v1/films/{id}" }; }
  rpc Upload(google.api.HttpBody) returns (Order) { option (google.api.http) = { put: "/v1/pictures" body: "*" }; }
  rpc Bare(Key) returns (Order);
}
"""
DATA = compile_proto(PROTO)
HEAD: Headers = [(b"content-type", b"application/grpc"), (b"x-shop", b"1"), (b"grpc-accept-encoding", b"gzip")]
OK: Headers = [(b"grpc-status", b"0")]


def build(env: FakeEnv, inner: Any, folder: Path, **grpc: Any) -> Service:
    """Return the stage in front of a service."""
    (folder / "shop.binpb").write_bytes(DATA)
    spec = Spec.model_validate({"grpc": {"descriptors": "shop.binpb", "services": ["shop.Orders"], **grpc}})
    return Pipeline([translate.build(spec, context(env, where=f"{folder}/policies.yaml:7"))], inner)


def answered(messages: Iterable[bytes], trailers: Headers = OK, head: Headers = HEAD) -> Outcome:
    """Return a whole answer of gRPC."""
    body = Body()
    for message in messages:
        body.feed(frame(message))
    body.finish(list(trailers))
    return Outcome(200, list(head), stream=body)


def streaming(head: Headers = HEAD) -> Outcome:
    """Return an answer whose body is still to come."""
    return Outcome(200, list(head), stream=Body(Paused()))


class Paused:
    """Source that counts its pauses."""

    def __init__(self) -> None:
        self.is_paused = False
        self.is_cancelled = False

    def pause_body(self) -> None:
        self.is_paused = True

    def resume_body(self) -> None:
        self.is_paused = False

    def cancel_body(self) -> None:
        self.is_cancelled = True
