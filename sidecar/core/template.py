"""Template: a text with names in braces, such as `/internal/orders/{path.id}`.

Rules:

1. A template is parsed once, at load.  No part of it is executed.
2. `NAMES` lists the names.  An unknown name is an error at load, with a known one as the suggestion.
3. Braces around anything else are plain text, and `{{route}}` is the plain text `{route}`.
4. Values come from clients, so an `Escape` makes each one safe for its place: a line break in a captured path must not
   begin a header field.
5. A value that is missing from the request is rendered as empty text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from math import ceil
from typing import Any, Final
from urllib.parse import parse_qs

from sidecar.core.exchange import Exchange
from sidecar.core.outcome import Outcome

FAMILIES: Final = ("path", "query", "header")
"""First parts of the names that have a second part, after a dot."""
FIXED: Final = ("client.address", "request.id", "trace.id", "service", "route", "upstream", "breaker.retry_after")
"""Names that stand for one value each."""
NAMES: Final = (*FIXED, *(f"{family}.NAME" for family in FAMILIES))
"""List of all names for error texts."""

Escape = Callable[[str], str]
"""Function that makes a value safe for its place in a message."""
Read = Callable[[Exchange, Outcome | None], str]
"""Function that returns the value of a name for a request and its outcome."""

_NAME: Final = r"[A-Za-z][A-Za-z0-9_]*(?:\.[A-Za-z0-9_.-]*)?"
_TOKEN: Final = re.compile(rf"\{{(\{{{_NAME}\}})\}}|\{{({_NAME})\}}")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]+")


def header_safe(value: str) -> str:
    """Return the value without control characters (RFC 9110 5.5), which could end its field."""
    return _CONTROLS.sub("", value)


def plain(value: str) -> str:
    """Return the value unchanged, for places where every value is safe."""
    return value


def _retry_after(_: Exchange, outcome: Outcome | None) -> str:
    """Return the refusal's `retry_after` in seconds, rounded up to 1 or more; empty if unknown."""
    seconds = None if outcome is None else outcome.refusal.retry_after
    return "" if seconds is None else str(max(1, ceil(seconds)))


def _query(name: str) -> Read:
    """Return the reader of a query parameter's first value."""

    def read(x: Exchange, _: Outcome | None) -> str:
        if x.query is None:
            return ""
        values = parse_qs(x.query.decode("latin-1"), keep_blank_values=True, max_num_fields=1000)
        return values.get(name, [""])[0]

    return read


def _header(name: str) -> Read:
    """Return the reader of a header field's first value."""
    key = name.lower().encode()

    def read(x: Exchange, _: Outcome | None) -> str:
        value = x.header(key) or b""
        try:
            return value.decode()  # UTF-8 passes unchanged
        except UnicodeDecodeError:
            return value.decode("latin-1")

    return read


def _reader(name: str, constants: Mapping[str, str]) -> Read:
    """Return the reader of a name that `names` has accepted."""
    family, _, own = name.partition(".")
    if name in constants:
        constant = constants[name]
        return lambda _x, _o: constant
    match family:
        case "path":
            return lambda x, _: x.captures.get(own, "")
        case "query":
            return _query(own)
        case "header":
            return _header(own)
        case "client":
            return lambda x, _: x.client_address
        case "request":
            return lambda x, _: x.request_id.decode("latin-1")
        case "trace":
            return lambda x, _: "" if x.trace is None else x.trace.trace_id.decode("ascii")
        case "breaker":
            return _retry_after
    return lambda _x, _o: ""  # a constant that is not set


def names(text: str) -> list[str]:
    """Return the names in a text.  Raises `ValueError` with a suggestion for an unknown one."""
    found = []
    for match in _TOKEN.finditer(text):
        name = match[2]
        if name is None:
            continue
        family, _, own = name.partition(".")
        if name not in FIXED and not (family in FAMILIES and own):
            near = get_close_matches(name, [*FIXED, *(f"{each}.{own}" for each in FAMILIES)], 1)
            remedy = f"did you mean {{{near[0]}}}?" if near else f"known are {', '.join(NAMES)}"
            raise ValueError(f"names {{{name}}}, which is unknown; {remedy}")
        found.append(name)
    return found


class Template:
    """Parsed text.  `constants` has the values of `service`, `route` and `upstream`."""

    __slots__ = ("names", "parts", "text")

    def __init__(self, text: str, constants: Mapping[str, str]) -> None:
        names(text)
        self.text = text
        self.parts: list[str | Read] = []
        """Pieces of plain text, and functions that return the values between them."""
        self.names: list[str] = []
        """Name of the value of each piece; empty for plain text."""
        end = 0
        for match in _TOKEN.finditer(text):
            self.parts += (text[end : match.start()], match[1] or _reader(match[2], constants))
            self.names += ("", match[2] or "")
            end = match.end()
        self.parts.append(text[end:])
        self.names.append("")

    def render(self, x: Exchange, outcome: Outcome | None = None, escape: Escape = plain) -> str:
        """Return the text with its values for one request; `outcome` is None if the request has none yet."""
        return "".join(part if isinstance(part, str) else escape(part(x, outcome)) for part in self.parts)

    def __repr__(self) -> str:
        return f"<Template {self.text!r}>"


def compile_tree(value: Any, constants: Mapping[str, str]) -> Any:
    """Return a copy of a JSON value with a `Template` in place of every text; keys are unchanged."""
    if isinstance(value, str):
        return Template(value, constants)
    if isinstance(value, dict):
        return {key: compile_tree(inner, constants) for key, inner in value.items()}
    if isinstance(value, list):
        return [compile_tree(inner, constants) for inner in value]
    return value


def render_tree(value: Any, x: Exchange, outcome: Outcome | None = None) -> Any:
    """Return a JSON value with its templates rendered for one request.  Serialising escapes the values."""
    if isinstance(value, Template):
        return value.render(x, outcome)
    if isinstance(value, dict):
        return {key: render_tree(inner, x, outcome) for key, inner in value.items()}
    if isinstance(value, list):
        return [render_tree(inner, x, outcome) for inner in value]
    return value
