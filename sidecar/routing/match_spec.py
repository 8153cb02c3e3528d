"""Spec of the `match` of a route."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sidecar.core.spec import Model
from sidecar.expression.spec import MatchWhen


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
    headers: dict[str, str] = Field(default_factory=dict)
    """Header fields and the values that they must have."""
    query: dict[str, str] = Field(default_factory=dict)
    """Query parameters and the values that they must have; each must occur exactly once."""
    when: MatchWhen | None = None
    """Condition in a subset of CEL on the head of the request: `request.headers['x-beta'] in ['on', 'yes']`."""

    @property
    def template(self) -> str:
        """Path, prefix or regular expression of the match; empty if it matches every path."""
        return self.path or self.path_prefix or self.path_regex or ""
