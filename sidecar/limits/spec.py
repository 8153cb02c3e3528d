"""Types of the keys and costs of limits in policy files."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, StringConstraints, WithJsonSchema

from sidecar.core import template

NO_KEY: Final = "none"
ADDRESS: Final = "client.address"
CALLER: Final = "caller"
CLAIMS: Final = "caller.claims."
_NAMED: Final = r"header\.[!#$%&'*+.^_`|~0-9A-Za-z-]+|path\.[A-Za-z_][A-Za-z0-9_]*|caller\.claims\.[^\s{}]+"
KEYS: Final = rf"{NO_KEY}|client\.address|{CALLER}|{_NAMED}"
"""Pattern of the keys that a limit may have."""
MOST_LIMITS: Final = 10
"""Most limits of one block."""


def _key(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(KEYS, value):
        raise ValueError(
            "is not a key; write client.address, caller, caller.claims.NAME, header.NAME, path.NAME or none"
        )
    return value.lower() if value.startswith("header.") else value


def _cost(value: Any) -> Any:
    if isinstance(value, str):
        if not template.names(value):
            raise ValueError("is a text without a name in braces; write a number such as 5, or such as {query.limit}")
    elif not isinstance(value, bool) and isinstance(value, int | float) and not 0 < value <= 1_000_000:
        raise ValueError("must be more than zero, and a million at most")
    return value


LimitName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
"""Name of a limit, as metrics and the field RateLimit contain it."""
StoreName = Annotated[str, StringConstraints(min_length=1, max_length=63)]
"""Name of a store of the section `stores`."""
Key = Annotated[str, BeforeValidator(_key), WithJsonSchema({"type": "string", "pattern": f"^({KEYS})$"})]
"""Part of a request by which a limit tells requests apart."""
Cost = Annotated[
    int | float | str,
    BeforeValidator(_cost),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}]}),
]
"""Number of requests that one counts as, or a template of it."""
