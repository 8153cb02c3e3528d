"""Document of the history (`history.py`), as `GET /history` serves it and as it is written to a file.

A file may have lines after the document, each with one period more.  A last line without its end was cut off, and is
left out.

A text comes from a file or from another process, so it is checked as a whole before any of it is used.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError, field_validator

from sidecar.core.metrics import BOUNDS
from sidecar.core.spec import Model

MOST_BYTES: Final = 64 * 1024 * 1024
"""Most bytes of a document."""

Whole = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Refreshed(Model):
    """Stored answers of a route that were fetched anew in one period."""

    changed: tuple[Whole, Whole] = (0, 0)
    """Number of those that had changed, and their age together in seconds."""
    unchanged: tuple[Whole, Whole] = (0, 0)
    """Number of those that had not, and their age together in seconds."""


class Calls(Model):
    """Requests of a route or attempts at an upstream in one period.  What clients or policies caused is in no count."""

    good: tuple[Whole, ...] = ()
    """Durations of good answers: bucket, count, bucket, count, and so on."""
    failed: Whole = 0
    """Number that the upstream failed, `timeouts` included."""
    timeouts: Whole = 0
    """Number that a timeout ended."""
    again: Whole = 0
    """Attempts after the first, of a route alone."""
    lookups: dict[str, Whole] = Field(default_factory=dict)
    """Look-ups in the cache by result, of a route alone."""
    refreshes: dict[str, Refreshed] = Field(default_factory=dict)
    """Stored answers that were fetched anew by what states their lifetime, `policy` or `answer`, of a route alone."""

    @field_validator("good")
    @classmethod
    def _has_known_buckets(cls, good: tuple[int, ...]) -> tuple[int, ...]:
        if len(good) % 2 or any(bucket > len(BOUNDS) for bucket in good[::2]):
            raise ValueError(f"is no list of buckets up to {len(BOUNDS)} with their counts")
        return good


class Period(Model):
    """Figures of one period."""

    at: Seconds
    """Unix time of its end."""
    seconds: Seconds
    routes: dict[str, Calls] = Field(default_factory=dict)
    upstreams: dict[str, Calls] = Field(default_factory=dict)
    active: dict[str, Whole] = Field(default_factory=dict)
    """Most requests that held a permit at the readings of each second, by limit, such as `upstream:payments`."""
    opened: dict[str, Whole] = Field(default_factory=dict)
    """Transitions of a breaker to open, by breaker."""
    tokens: dict[str, Seconds] = Field(default_factory=dict)
    """Fewest tokens in a retry budget at the readings of each second, by upstream."""


class HistoryDocument(Model):
    """Whole history, as `GET /history` serves it, and as the first line of a file."""

    version: Literal[1]
    bounds: tuple[float, ...]
    """Upper bounds of the buckets in seconds."""
    periods: tuple[Period, ...]
    """Periods, oldest first."""

    @field_validator("bounds")
    @classmethod
    def _are_known(cls, bounds: tuple[float, ...]) -> tuple[float, ...]:
        if bounds != BOUNDS:
            raise ValueError("are those of another version of the sidecar")
        return bounds


def read_history(text: bytes) -> HistoryDocument:
    """Return the history of a text.  Raises `ValueError` with what is wrong, on one line."""
    document, *lines = text.split(b"\n{")
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    try:
        found = HistoryDocument.model_validate_json(document)
        later = [Period.model_validate_json(b"{" + line) for line in lines]
        return found.model_copy(update={"periods": (*found.periods, *later)})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        words = first["msg"].partition("\n")[0]
        raise ValueError(f"{place}: {words}" if place else words) from None
