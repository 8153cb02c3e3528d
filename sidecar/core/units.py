"""Types of values in policy files: quantities with a unit (`250ms`, `64KiB`, `20%`, `100/s`), methods and conditions.

A quantity without its unit is an error, because a bare number is easily misread: 0.2 as `20%` or as `0.2%`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from math import inf
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, PlainValidator, WithJsonSchema

from sidecar.core.conditions import CONDITION_WORDS, GRPC_WORDS, HTTP_WORDS

NUMBER: Final = r"([0-9]+(?:\.[0-9]+)?)"
"""Regular expression of the number in a quantity."""
SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Number of seconds in each unit of time."""
BYTES: Final = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
"""Number of bytes in each unit of size."""
NEGATIONS: Final = ("off", "no", "none", "false", "never", False)
"""Values that users write to turn something off.  Only `off` is valid, and only for keys that accept it."""
PER: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}
"""Number of seconds in each unit of a rate."""
LEAST_RATE: Final = 0.001 / 3600
MOST_RATE: Final = 1e9
"""Bounds of a rate per second; beyond them times and numbers are too large for header fields."""

NOTATIONS: Final[dict[str, tuple[tuple[str, float], ...]]] = {
    "ms|s|m|h": (("h", 3600), ("m", 60), ("s", 1), ("ms", 1e-3), ("us", 1e-6)),
    "KiB": (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1)),
    "%": (("%", 0.01),),
    "/": (("/s", 1),),
}
"""Units of each kind of quantity, largest first, by a part of the pattern of its JSON Schema."""


def _parser(what: str, units: dict[str, Any], example: str, after: str = "") -> Callable[[Any], float]:
    """Return a parser of quantities, which raises `ValueError` with the remedy."""
    pattern = re.compile(rf"{NUMBER}{after}({'|'.join(map(re.escape, units))})")

    def parse(value: Any) -> float:
        if isinstance(value, float | int) and not isinstance(value, bool):
            raise ValueError(f"is a number without a unit; write a {what} such as {example}")
        if not isinstance(value, str) or not (match := pattern.fullmatch(value)):
            raise ValueError(f"is not a {what}; write it such as {example}")
        number = float(match[1]) * float(units[match[2]])
        if number == inf:
            raise ValueError(f"is too large for a {what}; write it such as {example}")
        return number

    return parse


def write_quantity(value: float, pattern: str) -> str:
    """Return a quantity in the notation of policy files, such as `3s`.

    `pattern` is that of its JSON Schema, which tells its kind.
    """
    if pattern.endswith("/s$"):  # a rate of bytes
        return write_quantity(value, pattern.removesuffix("/s$")) + "/s"
    units = next(units for mark, units in NOTATIONS.items() if mark in pattern)
    unit, size = next((unit for unit in units if value >= unit[1] and value % unit[1] == 0), units[-1])
    if value % size:  # no whole number of any unit: the largest that gives one or more
        unit, size = next((unit for unit in units if value >= unit[1]), units[-1])
    return f"{value / size:g}{unit}"


parse_duration = _parser("duration", SECONDS, "250ms, 2s, 5m or 1h")
parse_size = _parser("size", BYTES, "64KiB or 10MiB")
parse_share = _parser("share", {"%": 0.01}, "20%")


def as_written(text: Any, number: float) -> str:
    """Return a number as a quantity of the kind that `text` is, such as `200ms` for 0.2 and the text `1s`.

    A text that is no quantity gives the bare number.
    """
    for units, after in ((SECONDS, ""), (BYTES, ""), ({"%": 0.01}, ""), (BYTES, "/s")):
        if isinstance(text, str) and (match := re.fullmatch(rf"{NUMBER}({'|'.join(units)}){after}", text)):
            counts = {unit: round(number / size, 6) for unit, size in units.items()}
            unit = min(
                (each for each in counts if counts[each] % 1 == 0 < counts[each]),
                key=counts.__getitem__,
                default=match[2],
            )
            return f"{counts[unit]:.12g}{unit}{after}"
    return f"{number:.12g}"


def _or_zero(value: Any) -> float:
    if value in NEGATIONS:
        raise ValueError("is not a duration; write 0s to turn it off")
    return parse_duration(value)


def name_or_off(value: Any, effect: str, what: str) -> Any:
    """Return a value that is a name or `off`.  Raises `ValueError` for a boolean and for other `NEGATIONS`.

    The error text names both choices: `effect` describes `off`, as an infinitive, and `what` describes a name.
    """
    if isinstance(value, bool):
        raise ValueError(f"is `{str(value).lower()}`; write off {effect}, or {what}")
    if value != "off" and value in NEGATIONS:
        raise ValueError(f"is the name `{value}`; write off {effect}, or {what}")
    return value


def _rate(value: Any) -> float:
    if not isinstance(value, str) or not (match := re.fullmatch(rf"{NUMBER}/({'|'.join(PER)})", value)):
        raise ValueError("is not a rate; write it such as 100/s, 600/m or 10/h")
    rate = float(match[1]) / PER[match[2]]
    if rate > MOST_RATE or 0 < rate < LEAST_RATE:
        raise ValueError("is not between 0.001/h and 1000000000/s; write it such as 100/s, 600/m or 10/h")
    return rate


def _positive(parse: Callable[[Any], float]) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if (number := parse(value)) <= 0:
            raise ValueError("must be more than zero")
        return number

    return check


def _share(value: Any) -> float:
    if (share := parse_share(value)) > 1:
        raise ValueError("is more than 100%")
    return share


def _schema(pattern: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$", "examples": [example]})


_DURATION: Final = r"\d+(\.\d+)?(us|ms|s|m|h)"
DURATION_SCHEMA: Final = _schema(_DURATION, "250ms")
"""JSON Schema of a duration."""


def duration_such_as(example: str) -> WithJsonSchema:
    """Return the JSON Schema of a duration with bounds that the usual example does not meet."""
    return _schema(_DURATION, example)


Duration = Annotated[float, BeforeValidator(_positive(parse_duration)), DURATION_SCHEMA]
"""Duration in seconds, more than zero."""
DurationOrZero = Annotated[float, BeforeValidator(_or_zero), _schema(_DURATION, "0s")]
"""Duration in seconds, zero included."""
Size = Annotated[
    int, BeforeValidator(lambda value: int(parse_size(value))), _schema(r"\d+(\.\d+)?(B|KiB|MiB|GiB|KB|MB|GB)", "64KiB")
]
"""Size in bytes."""
Share = Annotated[float, BeforeValidator(_share), _schema(r"\d+(\.\d+)?%", "20%")]
"""Share from 0 to 1."""
Growth = Annotated[float, BeforeValidator(_positive(parse_share)), _schema(r"\d+(\.\d+)?%", "30%")]
"""Share by which something grows: more than zero, and possibly more than 1."""
Rate = Annotated[float, BeforeValidator(_positive(_rate)), _schema(r"\d+(\.\d+)?/(s|m|h)", "100/s")]
"""Rate per second."""


def _byte_rate(value: Any) -> float:
    if isinstance(value, str) and value.endswith("/s"):
        return parse_size(value[:-2])
    raise ValueError("is not a rate of bytes; write it such as 1KiB/s")


ByteRate = Annotated[
    float,
    BeforeValidator(_positive(_byte_rate)),
    _schema(r"\d+(\.\d+)?(B|KiB|MiB|GiB|KB|MB|GB)/s", "1KiB/s"),
]
"""Bytes per second."""


def status_hint(value: Any) -> str:
    """Return the beginning of the remedy for an invalid condition: how to write a status."""
    if isinstance(value, str) and re.fullmatch("[1-5][0-9][0-9]", value):
        return f"write the status without quotes, {value}, "
    if isinstance(value, str) and value.lower() in GRPC_WORDS:
        return f"write the gRPC status in lower case, {value.lower()}, "
    return "write a status such as 503 "


def _condition(value: Any) -> Any:
    if value in CONDITION_WORDS or (value.__class__ is int and 100 <= value <= 599):
        return value
    raise ValueError(f"is not a condition; {status_hint(value)}or one of {', '.join(HTTP_WORDS)}")


Condition = Annotated[
    str | int,
    BeforeValidator(_condition),
    WithJsonSchema({"anyOf": [{"enum": list(CONDITION_WORDS)}, {"type": "integer", "minimum": 100, "maximum": 599}]}),
]
"""Item of a list of conditions (`sidecar.core.conditions.Conditions`)."""


def _method(text: str) -> str:
    if not re.fullmatch(r"[A-Z][A-Z-]*", text):
        raise ValueError(f"is not a method; write it in capitals: {text.upper() if text.isalpha() else 'GET'}")
    return text


Method = Annotated[str, AfterValidator(_method), WithJsonSchema({"type": "string", "pattern": "^[A-Z][A-Z-]*$"})]
"""HTTP method that a policy applies to."""


# ----- networks


def _network(value: Any) -> IPv4Network | IPv6Network:
    """Return the network that a value names.  Raises `ValueError`."""
    try:
        return ip_network(value) if isinstance(value, str) else ip_network(str(value))
    except ValueError as error:
        raise ValueError(f"is not a network; write it such as 10.0.0.0/8 or 192.0.2.7 ({error})") from None


Network = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(_network),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8"]}),
]
"""Network in CIDR notation, or one address."""
