"""Spec of rollouts: shares of candidates, how they grow, who meets them, and when they return to nothing."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sidecar.core.spec import Model
from sidecar.core.units import Duration, Growth, Share
from sidecar.expression.spec import MatchWhen

NAME: Final = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}"


def _token(name: str) -> str:
    """Return the name unchanged.  Raises `ValueError` if no header field and no cookie can have it."""
    if not re.fullmatch(NAME, name):
        raise ValueError(f"is {name!r}, which no header field and no cookie can have as its name; write such as x-user")
    return name


FieldName = Annotated[str, AfterValidator(_token)]


class RampSpec(Model):
    """Growth of a candidate's share at a steady pace, from the time that this policy is in force."""

    to: Share
    """Share at the end."""
    over: Duration
    """Time until then."""


class StickySpec(Model):
    """Key of a request: requests with the same key meet the same arm, as long as a share only grows."""

    header: FieldName | None = None
    """Name of a header field, such as `x-user`."""
    cookie: FieldName | None = None
    """Name of a cookie."""
    caller: bool = False
    """True for the caller: the subject of a bearer token, or else the whole credentials of `Authorization`.  They are
    not verified for this, because the choice of an arm allows nothing."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.header is not None) + (self.cookie is not None) + self.caller != 1:
            raise ValueError("takes one of header: x-user, cookie: session, and caller: true")
        return self


class ErrorMargin(Model):
    """Margin of the error rate."""

    worse_by_points: Annotated[float, Field(ge=0, lt=100)]
    """Percentage points by which a candidate's error rate may exceed the stable one's."""


class LatencyMargin(Model):
    """Margin of a latency."""

    worse_by: Growth
    """Share by which it may be longer, such as 30%."""


class ReturnSpec(Model):
    """Conditions under which a candidate loses its share, for as long as this policy is in force.

    The test is sequential (`docs/design/rollout.md`): without a difference, one rollout in a hundred is taken back by
    chance, however long it lasts.
    """

    errors: ErrorMargin | None = None
    """Responses with a 5xx, failures, and refusals by limits and breakers behind the cache, after retries."""
    p99: LatencyMargin | None = None
    """99th percentile of the time to the head of a response."""
    breaker: bool = True
    """True: also if the candidate's circuit breaker opens while the stable one is closed."""


class RolloutSpec(Model):
    """Settings that all rollouts have."""

    sticky: StickySpec | None = None
    """Key by which requests are assigned to an arm; without it, or without the key, at random."""
    when: MatchWhen | None = None
    """Condition on the requests that may meet a candidate, in a subset of CEL; all others go to the stable arm."""
    ramp: RampSpec | None = None
    """Growth of the share; without it the share stays."""
    return_when: ReturnSpec | None = None
    """Automatic return to the stable arm; without it a share is only taken back by hand."""

    @property
    def is_observed(self) -> bool:
        """True if the candidate gets no requests, and only counts what its policies would have done."""
        return False


class SplitSpec(RolloutSpec):
    """Split of a route's requests over upstreams."""

    split: Annotated[dict[str, Share], Field(min_length=2, max_length=10)]
    """Share of each upstream, together 100%.  The first one is the stable arm, the others are candidates."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        total = sum(self.split.values())
        if abs(total - 1) > 1e-9:
            raise ValueError(f"has shares of {total:.4%} together; they must add up to 100%".replace(".0000%", "%"))
        if self.ramp is not None:
            if len(self.split) > 2:
                raise ValueError("has a ramp and several candidates; a ramp takes one candidate")
            if self.ramp.to < self.candidates[0][1]:
                raise ValueError("has a ramp to less than the candidate's share; a share only grows")
        return self

    @property
    def stable(self) -> str:
        """Name of the first upstream."""
        return next(iter(self.split))

    @property
    def candidates(self) -> tuple[tuple[str, float], ...]:
        """Names and shares of the other upstreams."""
        return tuple(self.split.items())[1:]


class CandidateSpec(RolloutSpec):
    """Share of requests that meet other policies.  Under a route, the policies stand beside these keys, and are merged
    over the route's own, key by key.  At the top of a file they are those of the directory `candidate`, for all
    routes."""

    mode: Literal["enforce", "observe"] = "enforce"
    """`observe` gives the candidate no requests of its own: beside the policies of the route, those of the candidate
    see every request and count what they would have done, as route `ROUTE@candidate`."""
    share: Share | None = None
    """Share of the candidate at the start; needed unless its mode is `observe`."""

    @property
    def is_observed(self) -> bool:
        return self.mode == "observe"

    @model_validator(mode="after")
    def _has_share(self) -> Self:
        if self.is_observed:
            for name in ("share", "sticky", "when", "ramp", "return_when"):
                if getattr(self, name) is not None:
                    raise ValueError(f"has mode: observe, which sees every request, and {name}; remove one of them")
        elif self.share is None:
            raise ValueError("needs a share, such as share: 5%, or mode: observe to count only")
        elif self.ramp is not None and self.ramp.to < self.share:
            raise ValueError("has a ramp to less than its share; a share only grows")
        return self
