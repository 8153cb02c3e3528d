"""Spec of the block `translate`."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from sidecar.core.spec import Block, Model
from sidecar.core.units import Size

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")


def _service(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"has `{name}`, which is not the name of a service; write such as shop.Orders")
    return name


ServiceName = Annotated[str, AfterValidator(_service)]


class GrpcSpec(Model):
    """Methods of gRPC that REST requests call, by the option `google.api.http` of each method."""

    descriptors: Annotated[str, Field(min_length=1)]
    """Descriptor set, as `protoc --include_imports --descriptor_set_out` or `sidecar proto pull` writes it; a relative
    path begins at the folder of the policy file.  It is read when policies are loaded."""
    services: Annotated[tuple[ServiceName, ...], Field(strict=False, min_length=1, max_length=100)]
    """Full names of the services whose methods the route serves."""
    streams: Literal["ndjson", "array", "events", "websocket"] = "ndjson"
    """Form of an answer that is a stream: a line of JSON for each message, one JSON array, or server-sent events.  With
    `websocket`, clients open a WebSocket for a stream, also for one of requests, and each message is a JSON text of its
    own; a server stream that is asked for without a WebSocket has lines of JSON."""
    max_body: Size = 4 * 2**20
    """Longest body of a request, and longest message of an answer, as gRPC's own limit."""
    ignore_query: Annotated[tuple[str, ...], Field(strict=False, max_length=100)] = ()
    """Query parameters that are skipped; every other one must be a field."""


class Spec(Block):
    """Translates REST requests to calls of gRPC, and their answers to JSON."""

    grpc: GrpcSpec
    """Methods of gRPC that the requests call."""

    @model_validator(mode="after")
    def _is_enforced(self) -> Spec:
        if not self.is_enforced:
            raise ValueError("takes no `mode: observe`, since nothing else could answer; leave `mode` out")
        return self


EXAMPLES: Final = ({"grpc": {"descriptors": "proto/shop.binpb", "services": ["shop.Orders"]}},)
