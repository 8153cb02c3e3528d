"""What a policy file says of a circuit breaker, and the same as numbers that can be compared at once."""

from __future__ import annotations

import sys
from math import inf
from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from sidecar.core.conditions import Conditions
from sidecar.core.spec import Block, Model
from sidecar.core.units import Condition, Duration, DurationOrZero, Share

NEVER: Final = 2.0
"""A share that no window reaches."""


def _is_off(value: Any) -> str:
    return "off" if value == "off" else "share"


def _shape(value: Any) -> str:
    return "calls" if isinstance(value, dict | CallsSpec) else "time"


ShareOrOff = Annotated[Annotated[Share, Tag("share")] | Annotated[Literal["off"], Tag("off")], Discriminator(_is_off)]


class CallsSpec(Model):
    """A window of the last calls."""

    calls: Annotated[int, Field(ge=1, le=100_000)]


class SlowCallsSpec(Model):
    """When slowness opens the circuit."""

    longer_than: Duration
    """A call that took longer is slow: until its end, or until its head where the body is streamed."""
    rate: Share
    """Share of slow calls in the window that opens."""


class HalfOpenSpec(Model):
    """How to find out whether the upstream is back."""

    probes: Annotated[int, Field(ge=1, le=1000)] = 3
    """Requests let through to find out; so many at once at most."""
    verdict_within: Duration = 10.0
    """After this time what is known decides; a probe that has had no answer for so long has failed."""
    ramp: DurationOrZero = 10.0
    """After good probes the share let through rises to all in this time; `0s` lets all through at once."""


class Spec(Block):
    """Stop asking an upstream that fails, and find out when it is back."""

    per: Literal["endpoint"] | None = None
    """Under an upstream: `endpoint` gives each endpoint a breaker of its own instead of one for all."""
    window: Annotated[Annotated[Duration, Tag("time")] | Annotated[CallsSpec, Tag("calls")], Discriminator(_shape)] = (
        10.0
    )
    """What rates are taken over: the time, or the number of calls (`{calls: 100}`)."""
    min_calls: Annotated[int, Field(ge=1)] = 20
    """Rates say nothing with fewer calls in the window."""
    failure_rate: ShareOrOff = 0.5
    """Share of failed calls that opens the circuit (R4j: 50%, Polly: 10%); `off` looks at the other rules alone."""
    slow_calls: SlowCallsSpec | None = None
    consecutive_failures: Annotated[int, Field(ge=1)] | None = None
    """So many failures in a row open the circuit, whatever the rate and `min_calls`."""
    failures: Annotated[tuple[Condition, ...], Field(strict=False, min_length=1)] = (
        "connect_failure",
        "reset",
        "timeout",
        "5xx",
    )
    """What counts as a failure."""
    open_for: Duration = 5.0
    """Time without requests after the first trip; doubles while probes fail."""
    max_open_for: Duration = 60.0
    """It grows no longer than this, nor does a Retry-After of the upstream make it so."""
    jitter: Share = 0.2
    """The open time is lengthened by a random part of it up to this, so that sidecars do not probe in step."""
    half_open: HalfOpenSpec = HalfOpenSpec()

    @model_validator(mode="after")
    def _can_open(self) -> Spec:
        if self.failure_rate == "off" and self.slow_calls is None and self.consecutive_failures is None:
            raise ValueError("can never open; give a failure_rate, slow_calls or consecutive_failures")
        if isinstance(self.window, CallsSpec) and self.min_calls > self.window.calls:
            raise ValueError(
                f"rates could never open it: min_calls ({self.min_calls}) is more than window.calls "
                f"({self.window.calls}); make min_calls at most that"
            )
        if self.max_open_for < self.open_for:
            raise ValueError(
                f"max_open_for ({self.max_open_for:g}s) is less than open_for ({self.open_for:g}s); "
                "make it at least as long"
            )
        return self


class Rules:
    """A `Spec`, compiled.  What is off is out of reach."""

    __slots__ = (
        "failure_rate", "failures", "in_a_row", "jitter", "max_open_for", "min_calls", "open_for", "probe_rate",
        "probes", "ramp", "slow_after", "slow_rate", "verdict_within",
    )  # fmt: skip

    def __init__(self, spec: Spec) -> None:
        self.failures = Conditions(spec.failures)
        self.min_calls = spec.min_calls
        self.failure_rate = NEVER if spec.failure_rate == "off" else spec.failure_rate
        self.slow_after = inf if spec.slow_calls is None else spec.slow_calls.longer_than
        self.slow_rate = NEVER if spec.slow_calls is None else spec.slow_calls.rate
        self.in_a_row = sys.maxsize if spec.consecutive_failures is None else spec.consecutive_failures
        self.open_for = spec.open_for
        self.max_open_for = spec.max_open_for
        self.jitter = spec.jitter
        self.probes = spec.half_open.probes
        self.probe_rate = 0.5 if spec.failure_rate == "off" else spec.failure_rate
        self.verdict_within = spec.half_open.verdict_within
        self.ramp = spec.half_open.ramp
