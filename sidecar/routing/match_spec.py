"""Spec of the `match` of a route."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sidecar.core.spec import Model
from sidecar.expression.spec import RequestWhen


class MatchSpec(Model):
    """Requests that a route takes; a request must meet all conditions."""

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """Methods, of which the request must have one."""
    host: str | None = None
    """Host that was asked for: `api.example.com`, `api.example.com:8443` or `*.example.com`."""
    path: str | None = None
    """Whole path; `{name}` captures a segment: `/orders/{id}`."""
    path_prefix: str | None = None
    """Path or its beginning, by whole segments: `/orders` takes `/orders/7` and not `/orders-old`."""
    path_regex: str | None = None
    """Regular expression for the whole path; only expressions that take linear time are allowed."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Header fields and the values that they must have."""
    query: dict[str, str] = Field(default_factory=dict)
    """Query parameters and the values that they must have."""
    when: RequestWhen | None = None
    """Condition in a subset of CEL on the head of the request: `request.headers['x-beta'] in ['on', 'yes']`."""

    @property
    def template(self) -> str:
        """Path, prefix or pattern that is matched; empty if every path is."""
        return self.path or self.path_prefix or self.path_regex or ""
