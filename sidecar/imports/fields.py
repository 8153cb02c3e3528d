"""Values that are copied by a table: key of the other proxy, key here, and how it is read."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Final, NamedTuple

from sidecar.imports.draft import Draft, Value, put
from sidecar.imports.source import Part
from sidecar.imports.units import duration, seconds, share

TEXT, NUMBER, FLAG, DURATION, LIMIT = "text", "number", "flag", "duration", "limit"
"""Kinds of values.  A `LIMIT` is a duration of which zero means that there is none."""
OFF: Final = "off"


class Field(NamedTuple):
    """Row of a table."""

    source: str
    """Keys of the other proxy, joined by dots."""
    target: str
    """Keys here, joined by dots; empty for a value without an equal."""
    kind: str = TEXT
    note: str = ""
    """Difference of meaning, or with an empty `target` the reason."""


def in_range(part: Part, unit: str = "") -> Fraction:
    """Return a duration in seconds; `unit` is that of a plain number.  Raises `TranslationError` for other texts."""
    found = seconds(part.text(), unit)
    if found is None:
        raise part.fail(f"is `{part.text()}`; a duration such as 0.25s would be right")
    return found


def duration_of(draft: Draft, part: Part, zero: str = "", unit: str = "") -> Value:
    """Return a duration with its place; `zero` is the value for one of length zero."""
    found = in_range(part, unit)
    return draft.value(zero if zero and not found else duration(found), part.line)


def percent_of(part: Part) -> str:
    """Return a number from 0 to 100 as a share.  Raises `TranslationError` for other texts."""
    found = seconds(part.text(), "s")
    if found is None or found > 100:
        raise part.fail(f"is `{part.text()}`; a number from 0 to 100 would be right")
    return share(found / 100)


def copy(draft: Draft, part: Part, keys: dict[str, Any], table: tuple[Field, ...], unit: str = "") -> None:
    """Copy the values of a mapping that a table names; `unit` is that of a duration without one."""
    for source, target, kind, note in table:
        found = part.get(*source.split("."))
        if found is None:
            continue
        if not target:
            found.lose(*([note] if note else []))
            continue
        if kind in (DURATION, LIMIT):
            value = duration_of(draft, found, OFF if kind == LIMIT else "", unit)
        elif kind == NUMBER:
            value = draft.value(found.number(), found.line)
        elif kind == FLAG:
            value = draft.value(found.is_true(), found.line)
        else:
            value = draft.value(found.text(), found.line)
        put(keys, target, value)
        if note:
            found.differ(note)
