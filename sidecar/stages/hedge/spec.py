"""Spec of the block `hedge`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from sidecar.core.spec import Block
from sidecar.core.units import Duration, Method


class Spec(Block):
    """Sends a second request when the response is slow."""

    after: Duration
    """Time to wait for the first response; its 95th percentile is a good value."""
    max_extra: Annotated[int, Field(ge=1, le=5)] = 1
    """Further attempts at most, each `after` later than the one before (Polly: 1)."""
    methods: Annotated[tuple[Method, ...], Field(strict=False, min_length=1)] = ("GET", "HEAD", "OPTIONS")
    """Methods of requests that may be sent twice at the same time."""


EXAMPLES: Final = ({"after": "50ms"},)
