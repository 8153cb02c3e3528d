"""Types of the keys and costs of limits in policy files."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Discriminator, Field, StringConstraints, Tag, WithJsonSchema

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


NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
"""Regular expression of the name of a limit."""


def in_units(cost: int | float | str | AnswerSize) -> str:
    """Return what a limit counts, as the end of a sentence; empty for requests."""
    return f", in units of {cost.words} of answers" if isinstance(cost, AnswerSize) else ""


def fixed_cost(cost: int | float | str | AnswerSize) -> float:
    """Return the cost of a request that is known from the policies alone; 1 if it depends on request or answer."""
    return float(cost) if isinstance(cost, int | float) else 1.0


def answer_unit(cost: int | float | str | AnswerSize) -> int:
    """Return the bytes of an answer that count as one request; 0 if its size does not count."""
    return cost.answer_size if isinstance(cost, AnswerSize) else 0


def _name(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(NAME, value):
        raise ValueError(
            "is not a name of a limit; write up to 63 letters, digits, `_`, `.` and `-`, such as each-caller"
        )
    return value


LimitName = Annotated[str, StringConstraints(pattern=NAME), BeforeValidator(_name)]
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
