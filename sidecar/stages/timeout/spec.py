"""Spec of the block `timeout`."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

from sidecar.core.exchange import NEVER
from sidecar.core.spec import Block
from sidecar.core.units import DURATION_SCHEMA, NEGATIONS, name_or_off, parse_duration


def _duration_or_off(value: Any) -> float:
    if value == "off":
        return NEVER
    if value in NEGATIONS:
        raise ValueError("is not a duration; write off to set no limit")
    if (seconds := parse_duration(value)) <= 0:
        raise ValueError("must be more than zero; `off` sets no limit")
    return seconds


def _header(value: Any) -> Any:
    return name_or_off(value, "to send no field", "another name")


DurationOrOff = Annotated[
    float,
    BeforeValidator(_duration_or_off),
    WithJsonSchema({"anyOf": [DURATION_SCHEMA.json_schema, {"const": "off"}]}),
]
"""Duration in seconds; infinite for `off`."""
HEADER: Final = "x-request-timeout-ms"
"""Default field.  The downstream connection reads it, Envoy's `x-envoy-expected-rq-timeout-ms` and `grpc-timeout`."""


class Spec(Block):
    """Limits the time of a request, of its attempts and of pauses in bodies.  Without the block only a caller's own
    deadline holds.  With it, `request` is the only limit that has a default."""

    request: DurationOrOff = 15.0
    """Longest time from the first byte of the request to the last of the response, retries included (Envoy: 15s)."""
    attempt: DurationOrOff = NEVER
    """Longest time for one attempt, from taking a connection to the last byte of its response; no limit by default."""
    idle: DurationOrOff = NEVER
    """Longest pause between two pieces of a body, or of a WebSocket in either direction; no limit by default."""
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"), BeforeValidator(_header)] = HEADER
    """Field with the milliseconds left, in requests of clients and to the upstream; `off` sends none upstream."""


EXAMPLES: Final = ({"request": "3s", "attempt": "1s"}, {"request": "off"})
