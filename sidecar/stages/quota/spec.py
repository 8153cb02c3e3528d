"""Spec of the block `quota`."""

from __future__ import annotations

import re
from math import ceil
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema, model_validator
from pydantic_core import CoreSchema

from sidecar.core.spec import Block, Model
from sidecar.limits.spec import CALLER, CLAIMS, MOST_LIMITS, NO_KEY, Cost, Key, LimitName, StoreName, in_units, plain

TIME: Final = "([01][0-9]|2[0-3]):[0-5][0-9]"
"""Pattern of a time of the day."""


def _time(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch(TIME, value):
        raise ValueError('is no time of the day; write it with hours from 00 to 23, such as "06:00"')
    return value


def _zone(name: str) -> str:
    from sidecar.stages.quota.windows import find_zone, meant_zone  # time zones are loaded only if there is a quota

    try:
        find_zone(name)
    except ValueError:
        near = meant_zone(name)
        hint = f"did you mean `{near}`?" if near else "write such as UTC or Europe/Berlin"
        raise ValueError(f"is no time zone that this machine knows; {hint}") from None
    return name


class QuotaSpec(Model):
    """Limit on the number of requests in a window of time."""

    name: LimitName
    """Name of the quota, unique in its block, as metrics and the field RateLimit contain it."""
    max: Annotated[int, Field(ge=1, le=1_000_000_000_000)]
    """Most requests in a window, for each key."""
    per: Literal["hour", "day", "week", "month"]
    """Length of the window.  A week begins on Monday, a month on its first day."""
    key: Key = NO_KEY
    """Key by which requests are counted: `client.address`, `caller` or `caller.claims.NAME` on a route with
    `authenticate`, `header.NAME`, `path.NAME`, or `none` for all requests together.  Requests that have no such key
    share one count."""
    otherwise: Key = NO_KEY
    """Key of requests that have none, such as `client.address` for those without the field that `key` names."""
    ipv6_prefix: Annotated[int, Field(ge=16, le=128)] = 64
    """Length of the prefix by which IPv6 addresses are counted: a client usually has a whole network of 64 bits."""
    cost: Cost = 1
    """Number of requests that one counts as; or a template of it, such as `{query.rows}`.  A value below 1, or that is
    no number, counts as 1, and one above `max` as `max`.  `{answer_size: 1MiB}` counts the answer: one for each MiB of
    its body.  That is charged once it is known, and may go beyond `max`."""
    resets: Annotated[
        str, BeforeValidator(_time), WithJsonSchema({"type": "string", "pattern": f"^{TIME}$", "examples": ["06:00"]})
    ] = "00:00"
    """Time of the day at which a window ends and the next one begins.  A quota per hour ends with the hour."""
    time_zone: Annotated[str, AfterValidator(_zone)] = "UTC"
    """Time zone of `resets`, by its name in the IANA database; where the clock changes, a day has 23 or 25 hours."""
    store: StoreName | None = None
    """Name of a store of `stores` that has the count, for all processes that use it and across restarts; without a
    store the count is of this process alone, and ends with it."""
    on_store_failure: Literal["process", "allow", "deny"] = "process"
    """Decision while the store is away: `process` is a share of what was left, by the processes that used the store
    last; `allow` lets everything pass; `deny` refuses what this process has not leased."""
    max_keys: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Most keys that are counted one by one in a window.  Further keys share one count."""
    mode: Literal["enforce", "observe"] = "enforce"
    """`observe` refuses nothing, and counts the requests that `enforce` would have refused."""

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
        """Quota in words, such as `10000 per day, from 06:00 in Europe/Berlin`."""
        begins = "" if self.per == "hour" else f", from {self.resets} in {self.time_zone}"
        return f"{self.max} per {self.per}{begins}{in_units(self.cost)}"

    @model_validator(mode="after")
    def _is_consistent(self) -> QuotaSpec:
        if self.store is None and "on_store_failure" in self.model_fields_set:
            raise ValueError("has `on_store_failure`, but no `store`; name one, or leave `on_store_failure` out")
        if isinstance(self.cost, int | float) and self.cost > self.max:
            raise ValueError(
                f"has a cost of {plain(self.cost)}, which a quota of {self.max} never lets through; "
                f"make max at least {plain(ceil(self.cost))}"
            )
        if self.per == "hour" and "resets" in self.model_fields_set:
            raise ValueError("has `resets`, but a quota per hour ends with the hour; leave `resets` out")
        return self


class Spec(Block):
    """Limits how many requests pass in an hour, a day, a week or a month, by a list of named quotas."""

    quotas: Annotated[list[QuotaSpec], Field(min_length=1, max_length=MOST_LIMITS)]
    """Quotas, each of which must let a request through.  A request that one refuses counts for none."""
    fields: Literal["structured", "separate", "off"] = "structured"
    """Fields of responses that state the quotas: `structured` (`RateLimit` and `RateLimit-Policy` of
    draft-ietf-httpapi-ratelimit-headers), `separate` (`RateLimit-Limit`, `-Remaining` and `-Reset` of its early
    versions, for the quota with the least left), or `off`."""

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        if isinstance(value, dict) and "max" in value:
            raise ValueError("is a list of quotas; begin this one with a dash: `- {name: ..., max: 10000, per: day}`")
        return {"quotas": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _has_unique_names(self) -> Spec:
        names = [quota.name for quota in self.quotas]
        if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
            raise ValueError(f"has two quotas with the name `{twice}`; rename one")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        block = handler.resolve_ref_schema(handler(schema))
        return {"description": cls.__doc__, "anyOf": [block["properties"]["quotas"], block]}


EXAMPLES: Final = (
    [
        {"name": "day", "max": 10_000, "per": "day", "key": "client.address", "resets": "06:00", "store": "disk"},
        {"name": "month", "max": 200_000, "per": "month", "store": "disk"},
    ],
    {"quotas": [{"name": "hour", "max": 2, "per": "hour"}], "fields": "off"},
)
