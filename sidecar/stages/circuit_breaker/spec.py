"""Spec of the block `circuit_breaker`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from sidecar.core.spec import Block, Model
from sidecar.core.units import Condition, Duration, DurationOrZero, Share


def _share_or_off(value: Any) -> str:
    """Return the tag of a share that may be `off`."""
    return "off" if value == "off" else "share"


def _kind_of_window(value: Any) -> str:
    """Return the tag of a window, `calls` or `time`."""
    return "calls" if isinstance(value, dict | CallsSpec) else "time"


ShareOrOff = Annotated[
    Annotated[Share, Tag("share")] | Annotated[Literal["off"], Tag("off")], Discriminator(_share_or_off)
]


class CallsSpec(Model):
    """Window of the last calls."""

    calls: Annotated[int, Field(ge=1, le=100_000)]
    """Number of calls."""


class SlowCallsSpec(Model):
    """Slow calls that open the circuit."""

    longer_than: Duration
    """Time above which a call is slow.  For a streamed body only the time to the head counts."""
    rate: Share
    """Share of slow calls in the window that opens the circuit."""


class HalfOpenSpec(Model):
    """Probes that test if the upstream has recovered.

    Five choices differ from Resilience4j and Polly. (1) `probes` requests pass in all, and no more until there is a
    verdict. Polly sends one, whose loss keeps the circuit half-open. (2) The verdict falls as soon as the missing
    results cannot change it; Resilience4j waits for all of them. (3) It falls after `verdict_within` at the latest, by
    the known results, and a probe without a response has failed; Resilience4j waits for ever by default, Polly has no
    limit. (4) After good probes the share of requests rises over `ramp`, and any trip opens again; both others let all
    through at once, onto a service with cold caches. (5) The result of a request that was let through in an earlier
    state counts as nothing; both others credit it to the current state, so a slow success from before the trip can
    close the circuit.
    """

    probes: Annotated[int, Field(ge=1, le=1000)] = 3
    """Requests that are let through as probes, in all."""
    verdict_within: Duration = 10.0
    """Time after which the known results decide.  A probe without a response for so long has failed."""
    ramp: DurationOrZero = 10.0
    """Time in which the share of requests that pass rises to all after good probes; `0s` lets all pass at once."""


class Spec(Block):
    """Refuses requests to an upstream that fails, and probes it until it has recovered."""

    per: Literal["endpoint"] | None = None
    """Under an upstream: `endpoint` gives each endpoint a breaker of its own instead of one for all."""
    window: Annotated[
        Annotated[Duration, Tag("time")] | Annotated[CallsSpec, Tag("calls")], Discriminator(_kind_of_window)
    ] = 10.0
    """Time or number of calls (`{calls: 100}`) over which rates are taken."""
    min_calls: Annotated[int, Field(ge=1)] = 20
    """Calls in the window below which rates do not count."""
    failure_rate: ShareOrOff = 0.5
    """Share of failed calls that opens the circuit (Resilience4j: 50%, Polly: 10%); `off` disables this rule."""
    slow_calls: SlowCallsSpec | None = None
    consecutive_failures: Annotated[int, Field(ge=1)] | None = None
    """Failures in a row that open the circuit, whatever the rate and `min_calls` are."""
    failures: Annotated[tuple[Condition, ...], Field(strict=False, min_length=1)] = (
        "connect_failure",
        "reset",
        "timeout",
        "5xx",
    )
    """Outcomes that count as failures; `5xx` includes the gRPC statuses that are the upstream's failures."""
    open_for: Duration = 5.0
    """Time without requests after the first trip; it doubles while probes fail."""
    max_open_for: Duration = 60.0
    """Longest open time, also for a Retry-After of the upstream."""
    jitter: Share = 0.2
    """Share of the open time, at most, by which a random part lengthens it, so that sidecars do not probe in step."""
    half_open: HalfOpenSpec = HalfOpenSpec.built_in()

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


EXAMPLES: Final = (
    {"failure_rate": "50%", "min_calls": 20, "window": "10s", "open_for": "5s"},
    {"consecutive_failures": 2, "open_for": "1s"},
)
