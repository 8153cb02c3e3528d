"""The `match` of a route as policy files write it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sidecar.core.spec import Model
from sidecar.expression.spec import RequestWhen


class MatchSpec(Model):
    """Which requests a route takes; a request must meet all conditions."""

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    """Any of these methods."""
    host: str | None = None
    """The host that was asked for: `api.example.com`, `api.example.com:8443` or `*.example.com`."""
    path: str | None = None
    """The whole path; `{name}` captures a segment: `/orders/{id}`."""
    path_prefix: str | None = None
    """The path or its beginning, by whole segments: `/orders` takes `/orders/7` and not `/orders-old`."""
    path_regex: str | None = None
    """A regular expression for the whole path, of those that take linear time."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Header fields and the values that they must have."""
    query: dict[str, str] = Field(default_factory=dict)
    """Query parameters and the values that they must have."""
    when: RequestWhen | None = None
    """A condition in a subset of CEL on the head of the request: `request.headers['x-beta'] in ['on', 'yes']`."""

    @property
    def template(self) -> str:
        """Path, prefix or pattern that is matched; empty if every path is."""
        return self.path or self.path_prefix or self.path_regex or ""
