"""Types of the keys and costs of limits in policy files."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Protocol

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StringConstraints, Tag, WithJsonSchema

from sidecar.core import template
from sidecar.core.spec import Model
from sidecar.core.units import BYTES, Size

NO_KEY: Final = "none"
ADDRESS: Final = "client.address"
CALLER: Final = "caller"
CLAIMS: Final = "caller.claims."
_NAMED: Final = r"header\.[!#$%&'*+.^_`|~0-9A-Za-z-]+|path\.[A-Za-z_][A-Za-z0-9_]*|caller\.claims\.[^\s{}]+"
KEYS: Final = rf"{NO_KEY}|client\.address|{CALLER}|{_NAMED}"
"""Pattern of the keys that a limit may have."""
NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
"""Pattern of the names of limits."""
MOST_BURST: Final = 1_000_000
"""Most requests that may come at once beyond the even pace."""
MOST_LIMITS: Final = 10
"""Most limits of one block."""


class Counting(Protocol):
    """Spec of a limit, as far as it says which requests are counted together, and where."""

    @property
    def key(self) -> str:
        """Key by which requests are counted."""

    @property
    def otherwise(self) -> str:
        """Key of requests that do not have the first one."""

    @property
    def ipv6_prefix(self) -> int:
        """Length of the prefix by which IPv6 addresses are counted."""

    @property
    def store(self) -> str | None:
        """Store that has the count; None for that of this sidecar."""

    @property
    def on_store_failure(self) -> str:
        """Decision while the store is away."""


def counts_all_of(wide: Counting, narrow: Counting) -> bool:
    """True if a limit counts together whatever another one does, in the same processes or in more."""
    if wide.key != NO_KEY:
        is_same_key = (wide.key, wide.otherwise) == (narrow.key, narrow.otherwise)
        if not is_same_key or wide.ipv6_prefix > narrow.ipv6_prefix:
            return False
    if wide.store is None:
        return narrow.store is None
    return narrow.store in (None, wide.store) and wide.on_store_failure != "allow"


def _key(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(KEYS, value):
        raise ValueError(
            "is not a key; write client.address, caller, caller.claims.NAME, header.NAME, path.NAME or none"
        )
    return value.lower() if value.startswith("header.") else value


class AnswerSize(Model):
    """Cost of a request by the size of its answer."""

    answer_size: Annotated[Size, Field(ge=1)]
    """Size of the answer's body that counts as one request; a smaller rest counts as one too."""

    @property
    def words(self) -> str:
        """Size as a policy file has it, in the largest unit of which it is a multiple."""
        unit = max((unit for unit in BYTES if self.answer_size % BYTES[unit] == 0), key=BYTES.__getitem__)
        return f"{self.answer_size // BYTES[unit]}{unit}"


def _cost(value: Any) -> Any:
    if isinstance(value, str):
        if not template.names(value):
            raise ValueError("is a text without a name in braces; write a number such as 5, or such as {query.limit}")
    elif not isinstance(value, bool) and isinstance(value, int | float) and not 0 < value <= 1_000_000:
        raise ValueError("must be more than zero, and a million at most")
    elif isinstance(value, bool) or not isinstance(value, int | float | dict | AnswerSize):
        raise ValueError("is no cost; write a number, a template such as {query.limit}, or {answer_size: 64KiB}")
    return value


def _form(value: Any) -> str:
    return "answer" if isinstance(value, dict | AnswerSize) else "number"


def plain(number: float) -> str:
    """Return a number in digits, with six of them at least."""
    return f"{number:g}" if number < 1_000_000 else f"{number:.0f}"


def in_units(cost: int | float | str | AnswerSize) -> str:
    """Return what a limit counts, as the end of a sentence; empty for requests."""
    return f", in units of {cost.words} of answers" if isinstance(cost, AnswerSize) else ""


def fixed_cost(cost: int | float | str | AnswerSize) -> float:
    """Return the cost of a request that is known from the policies alone; 1 if it depends on request or answer."""
    return float(cost) if isinstance(cost, int | float) else 1.0


def answer_unit(cost: int | float | str | AnswerSize) -> int:
    """Return the bytes of an answer that count as one request; 0 if its size does not count."""
    return cost.answer_size if isinstance(cost, AnswerSize) else 0


def _name(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise ValueError(
            "is no name of a limit; write up to 63 letters, digits, dots, hyphens and underscores, such as per-tenant"
        )
    return text


LimitName = Annotated[str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})]
"""Name of a limit, as metrics and the field RateLimit contain it."""
StoreName = Annotated[str, StringConstraints(min_length=1, max_length=63)]
"""Name of a store of the section `stores`."""
Key = Annotated[str, BeforeValidator(_key), WithJsonSchema({"type": "string", "pattern": f"^({KEYS})$"})]
"""Part of a request by which a limit tells requests apart."""
_NumberOrTemplate = Annotated[
    int | float | str,
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}]}),
    Tag("number"),
]
Cost = Annotated[
    Annotated[_NumberOrTemplate | Annotated[AnswerSize, Tag("answer")], Discriminator(_form)], BeforeValidator(_cost)
]
"""Number of requests that one counts as, a template of it, or the size of the answer."""
