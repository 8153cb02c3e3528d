"""What a policy file says of time."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, TypeAdapter, WithJsonSchema

from sidecar.core.exchange import NEVER
from sidecar.core.spec import Block
from sidecar.core.units import Duration, parse_duration

_DURATION_SCHEMA: Final = TypeAdapter(Duration).json_schema()


def _duration_or_off(value: Any) -> float:
    if value == "off":
        return NEVER
    if (seconds := parse_duration(value)) <= 0:
        raise ValueError("must be more than zero; `off` sets no limit")
    return seconds


DurationOrOff = Annotated[
    float,
    BeforeValidator(_duration_or_off),
    WithJsonSchema({"anyOf": [_DURATION_SCHEMA, {"const": "off"}]}),
]
"""Seconds; infinite where it is off."""


HEADER: Final = "x-request-timeout-ms"
"""The edge reads it already, and Envoy's `x-envoy-expected-rq-timeout-ms` and `grpc-timeout` with it."""


class Spec(Block):
    """How long things may take."""

    request: DurationOrOff = 15.0
    """From the first byte of the request to the last of the response, retries included (15s is Envoy's default)."""
    attempt: DurationOrOff = NEVER
    """One try, from taking a connection to the last byte of its answer."""
    idle: DurationOrOff = 30.0
    """Between two pieces of a body."""
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")] = HEADER
    """The field in which the milliseconds that are left come in and go upstream; `off` tells the upstream nothing."""
