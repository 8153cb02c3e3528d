"""Spec of the block `rate_limit`."""

from __future__ import annotations

from math import ceil
from typing import Annotated, Any, Final, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from sidecar.core.spec import Block, Model
from sidecar.core.units import Duration, Rate, duration_such_as
from sidecar.limits.spec import (
    CALLER,
    CLAIMS,
    MOST_BURST,
    MOST_LIMITS,
    NO_KEY,
    Cost,
    Key,
    LimitName,
    StoreName,
    in_units,
    plain,
)


class DelaySpec(Model):
    """Delay of requests over the limit, in place of a refusal."""

    max: Duration
    """Longest delay of a request; one that would have to wait longer is refused."""
    waiting: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Number of requests that may wait at once, for all keys together; more are refused."""


class LimitSpec(Model):
    """Limit on the rate of requests, by the generic cell rate algorithm (ITU-T I.371)."""

    name: LimitName
    """Name of the limit, unique in its block, as metrics and the field RateLimit contain it."""
    rate: Rate
    """Requests per unit of time, in the long run."""
    burst: Annotated[int, Field(ge=0, le=MOST_BURST)] | Literal["auto"] = "auto"
    """Number of requests that may come at once, beyond the one that the even pace allows; `auto` is as many as the rate
    allows in a second, one at least."""
    key: Key = NO_KEY
    """Key by which requests are counted: `client.address`, `caller` or `caller.claims.NAME` on a route with
    `authenticate`, `header.NAME`, `path.NAME`, or `none` for all requests together.  Requests that have no such key
    share one count."""
    otherwise: Key = NO_KEY
    """Key of requests that have none, such as `client.address` for those without the field that `key` names."""
    ipv6_prefix: Annotated[int, Field(ge=16, le=128)] = 64
    """Length of the prefix by which IPv6 addresses are counted: a client usually has a whole network of 64 bits."""
    cost: Cost = 1
    """Number of requests that one counts as; or a template of it, such as `{query.limit}`.  A value below 1, or that is
    no number, counts as 1, and one above the burst as the whole burst.  `{answer_size: 64KiB}` counts the answer: one
    for each 64 KiB of its body.  That is charged once it is known, and refuses requests until it is made up for."""
    count: Literal["all", "misses"] = "all"
    """Requests that count: `all`, or only `misses`, which the cache of the route does not answer.  No `fields` state a
    limit of `misses`."""
    delay: DelaySpec | None = None
    """Delay that requests over the limit get in place of a refusal; by default none.  Such a limit is divided among
    several workers in even parts."""
    store: StoreName | None = None
    """Name of a store of `stores` that has the count, one for all processes that use it.  Each process leases a part of
    the rate.  Without a store the count is of this sidecar alone, with all its workers."""
    lease: Annotated[Duration, Field(ge=0.05, le=0.2), duration_such_as("100ms")] = 0.1
    """Time for which a process leases a part of the rate from the store, 50ms to 200ms.  A shorter one shares more
    evenly."""
    on_store_failure: Literal["process", "allow", "deny"] = "process"
    """Decision while the store is away: `process` is a fair share, the rate divided by the processes that used the
    store last; `allow` lets everything pass; `deny` refuses everything."""
    max_keys: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Most keys that are counted one by one.  While all of them are in use, further keys share one count."""
    mode: Literal["enforce", "observe"] = "enforce"
    """`observe` refuses nothing, and counts the requests that `enforce` would have refused."""

    @property
    def capacity(self) -> int:
        """Number of requests that may come at once after a pause."""
        return 1 + (max(1, round(self.rate)) if self.burst == "auto" else self.burst)

    @property
    def window(self) -> float:
        """Seconds in which an empty bucket fills."""
        return self.capacity / self.rate

    @property
    def is_keyed(self) -> bool:
        """True unless all requests are counted together."""
        return self.key != NO_KEY

    @property
    def needs_callers(self) -> bool:
        """True if the key is one of authenticated callers."""
        return any(key == CALLER or key.startswith(CLAIMS) for key in (self.key, self.otherwise))

    @property
    def words(self) -> str:
        """Rate and burst in words, such as `100 per second, with a burst of 50`."""
        per, unit = next(((factor, unit) for factor, unit in _UNITS if self.rate * factor >= 1), _UNITS[-1])
        return f"{plain(self.rate * per)} per {unit}, with a burst of {self.capacity - 1}{in_units(self.cost)}"

    @model_validator(mode="after")
    def _fits_a_store(self) -> LimitSpec:
        if self.store is None:
            for key in ("lease", "on_store_failure"):
                if key in self.model_fields_set:
                    raise ValueError(f"has `{key}`, but no `store`; name one, or leave `{key}` out")
        elif self.delay is not None:
            raise ValueError("has a `delay` and a `store`; delay requests by a limit of this process, without `store`")
        return self

    @model_validator(mode="after")
    def _is_reachable(self) -> LimitSpec:
        if isinstance(self.cost, int | float) and self.cost > self.capacity:
            raise ValueError(
                f"has a cost of {plain(self.cost)}, which a burst of {self.capacity - 1} never lets through; "
                f"make burst at least {plain(ceil(self.cost) - 1)}"
            )
        return self


_UNITS: Final = ((1.0, "second"), (60.0, "minute"), (3600.0, "hour"))
"""Units of time in seconds, with their names."""


class Spec(Block):
    """Limits how many requests per unit of time pass, by a list of named limits."""

    limits: Annotated[list[LimitSpec], Field(min_length=1, max_length=MOST_LIMITS)]
    """Limits, each of which must let a request through.  A request that one refuses counts for none."""
    fields: Literal["structured", "separate", "off"] = "structured"
    """Fields of responses that state the limits: `structured` (`RateLimit` and `RateLimit-Policy` of
    draft-ietf-httpapi-ratelimit-headers), `separate` (`RateLimit-Limit`, `-Remaining` and `-Reset` of its early
    versions, for the limit with the least left), or `off`."""

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        if isinstance(value, dict) and "rate" in value:
            raise ValueError("is a list of limits; begin this one with a dash: `- {name: ..., rate: 100/s}`")
        return {"limits": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _has_unique_names(self) -> Spec:
        names = [limit.name for limit in self.limits]
        if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
            raise ValueError(f"has two limits with the name `{twice}`; rename one")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        block = handler.resolve_ref_schema(handler(schema))
        return {"description": cls.__doc__, "anyOf": [block["properties"]["limits"], block]}


EXAMPLES: Final = (
    [
        {"name": "burst", "rate": "100/s", "burst": 5, "key": "header.x-tenant", "otherwise": "client.address"},
        {"name": "address", "rate": "20/s", "key": "client.address"},
    ],
    [{"name": "bytes", "rate": "160/s", "key": "client.address", "cost": {"answer_size": "64KiB"}}],
    [{"name": "all", "rate": "50/s", "burst": 1, "delay": {"max": "50ms"}}],
)
