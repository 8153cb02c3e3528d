"""Spec of the block `throttle`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from sidecar.core.spec import Block
from sidecar.core.units import Duration, Share, duration_such_as


class Spec(Block):
    """Refuses a share of the attempts while the upstream accepts too few of them."""

    ratio: Annotated[float, Field(ge=1.1, le=10)] = 2
    """Attempts for each accepted one, above which some are refused here: with 2, once the upstream accepts less than
    half.  A lower number saves it more, and refuses more of what it would have accepted."""
    window: Annotated[Duration, Field(ge=1, le=600), duration_such_as("30s")] = 30.0
    """Time in which attempts and accepts are counted, 1s to 10m."""
    min_calls: Annotated[int, Field(ge=1, le=100_000)] = 20
    """Attempts of one criticality in the window, below which it is judged by the next higher one; none is refused
    without one that has as many."""
    max_refused: Annotated[Share, Field(gt=0)] = 0.9
    """Largest share that is refused; the rest finds out when the upstream accepts again."""


EXAMPLES: Final = ({"ratio": 2, "window": "2m"}, {"min_calls": 50, "max_refused": "80%", "mode": "observe"})
