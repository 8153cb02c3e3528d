"""Spec of the `match` of a route."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from sidecar.core.spec import Model
from sidecar.expression.spec import MatchWhen
from sidecar.grpc.status import METHOD_NAME, SERVICE_NAME


def _service(name: str) -> str:
    if not SERVICE_NAME.fullmatch(name):
        raise ValueError("is not the name of a service; write it with its package, such as shop.Orders")
    return name


def _method(name: str) -> str:
    if not METHOD_NAME.fullmatch(name):
        raise ValueError("is not the name of a method; write it as in its service, such as Place")
    return name


class GrpcMatchSpec(Model):
    """Calls of gRPC: requests over HTTP/2 with its content type."""

    service: Annotated[
        str, AfterValidator(_service), WithJsonSchema({"type": "string", "pattern": f"^{SERVICE_NAME.pattern}$"})
    ]
    """Full name of the service: `shop.Orders`."""
    method: (
        Annotated[
            str, AfterValidator(_method), WithJsonSchema({"type": "string", "pattern": f"^{METHOD_NAME.pattern}$"})
        ]
        | None
    ) = None
    """Name of the method; without it all methods of the service."""

    @property
    def name(self) -> str:
        """Service, and method if there is one, as in a path: `shop.Orders/Place`."""
        return self.service if self.method is None else f"{self.service}/{self.method}"


class MatchSpec(Model):
    """Conditions on the requests that a route handles; a request must meet all of them."""

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """Methods, of which the request must have one."""
    host: str | None = None
    """Requested host: `api.example.com`, `api.example.com:8443` or `*.example.com`."""
    path: str | None = None
    """Complete path; `{name}` captures a segment: `/orders/{id}`."""
    path_prefix: str | None = None
    """First segments of the path, or all of them: `/orders` matches `/orders/7` but not `/orders-old`."""
    path_regex: str | None = None
    """Regular expression for the complete path; only expressions that match in linear time are allowed."""
    grpc: GrpcMatchSpec | None = None
    """Service and method of gRPC calls: `{service: shop.Orders, method: Place}`.  It stands for path, method and
    content type."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Header fields and the values that they must have."""
    query: dict[str, str] = Field(default_factory=dict)
    """Query parameters and the values that they must have; each must occur exactly once."""
    when: MatchWhen | None = None
    """Condition in a subset of CEL on the head of the request: `request.headers['x-beta'] in ['on', 'yes']`."""

    @property
    def template(self) -> str:
        """Path, prefix or regular expression of the match; empty if it matches every path."""
        called = "" if self.grpc is None else f"/{self.grpc.name}"
        return self.path or self.path_prefix or self.path_regex or called
