"""Spec of the block `hedge`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from sidecar.core.spec import Block
from sidecar.core.units import Duration, Method


class Spec(Block):
    """Asks a second time when the response is slow."""

    after: Duration
    """Time to wait for the first response, best its 95th percentile."""
    max_extra: Annotated[int, Field(ge=1, le=5)] = 1
    """Further attempts at most, each `after` later than the one before (Polly: 1)."""
    methods: Annotated[tuple[Method, ...], Field(strict=False, min_length=1)] = ("GET", "HEAD", "OPTIONS")
    """Methods that may be asked twice at the same time."""


EXAMPLES: Final = ({"after": "50ms"},)
