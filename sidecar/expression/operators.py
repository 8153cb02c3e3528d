"""CEL's operators over plain values.  An operand `ERROR` gives `ERROR`, except where `&&` and `||` absorb it.

Values are those of JSON: str, int, float, bool, None, list, dict.  Python's bool is an int and CEL's is not, so classes
are compared.  Values of different types are never equal and have no order.
"""

from __future__ import annotations

import operator as python
from collections.abc import Callable
from typing import Any, Final

from sidecar.expression.facts import ERROR

NUMBERS: Final = (int, float)


def equal(left: Any, right: Any) -> bool:
    """True if two values are equal by CEL's `==`: numbers by value, lists and maps member by member."""
    kind, other = left.__class__, right.__class__
    if kind is list or kind is dict:
        if kind is not other or len(left) != len(right):
            return False
        if kind is list:
            return all(map(equal, left, right))
        return all(key in right and equal(value, right[key]) for key, value in left.items())
    return bool(left == right) and (kind is other or (kind in NUMBERS and other in NUMBERS))


def _is_ordered(left: Any, right: Any) -> bool:
    """True if two values can be compared with `<`."""
    kind, other = left.__class__, right.__class__
    return (kind is str and other is str) or (kind in NUMBERS and other in NUMBERS) or (kind is bool and other is bool)


def _ordering(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    """Return the relation that compares ordered values; it gives `ERROR` for others."""
    return lambda left, right: compare(left, right) if _is_ordered(left, right) else ERROR


def _is_in(left: Any, right: Any) -> Any:
    """Return True if a list has the value, or a map the key; `ERROR` for other values."""
    if right.__class__ is list:
        return any(equal(left, each) for each in right)
    if right.__class__ is dict:
        return left in right if left.__class__ is str else ERROR
    return ERROR


RELATIONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "==": equal,
    "!=": lambda left, right: not equal(left, right),
    "<": _ordering(python.lt),
    "<=": _ordering(python.le),
    ">": _ordering(python.gt),
    ">=": _ordering(python.ge),
    "in": _is_in,
}


def size(value: Any) -> Any:
    """Return the number of characters of a text or of members of a list or map; `ERROR` for other values."""
    return len(value) if value.__class__ in (str, list, dict) else ERROR


def _on_texts(function: Callable[[str, str], bool]) -> Callable[[Any, Any], Any]:
    """Return the function of two texts; it gives `ERROR` for other values."""
    return lambda left, right: function(left, right) if left.__class__ is str and right.__class__ is str else ERROR


TEXT_FUNCTIONS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "startsWith": _on_texts(str.startswith),
    "endsWith": _on_texts(str.endswith),
    "contains": _on_texts(str.__contains__),
}
