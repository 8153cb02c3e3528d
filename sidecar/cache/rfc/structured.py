"""Dictionaries and lists of Structured Fields (RFC 9651), read strictly: one error makes the whole field invalid.

Members are returned with type and text, those of an inner list are checked and dropped.  So are the parameters of a
dictionary, which targeted cache control (RFC 9213) has no use for.
"""

from __future__ import annotations

import re
from typing import Final, Literal

KEY: Final = re.compile(rb"[a-z*][a-z0-9_.*-]*+")
ITEM: Final = re.compile(
    rb"(?P<decimal>-?\d{1,12}+\.\d{1,3}+)(?!\d)"
    rb"|(?P<integer>-?\d{1,15}+)(?![\d.])"
    rb'|(?P<string>"(?:[ !#-\[\]-~]|\\["\\])*")'
    rb"|(?P<token>[A-Za-z*][!#$%&'*+.^_`|~:/0-9A-Za-z-]*+)"
    rb"|(?P<bytes>:(?:[A-Za-z0-9+/]*+={0,2}):)"
    rb"|(?P<boolean>\?[01])"
    rb"|(?P<date>@-?\d{1,15}+)(?![\d.])"
    rb'|(?P<display>%"(?:[ !#$&-~]|%[0-9a-f]{2})*")'
)
SPACE: Final = re.compile(rb" *+")
OWS: Final = re.compile(rb"[ \t]*+")

Type = Literal["integer", "decimal", "string", "token", "bytes", "boolean", "date", "display", "list"]
Member = tuple[Type, bytes]
"""Type and unchanged text of a member: `?1` if it has no value, empty for an inner list."""
TRUE: Final[Member] = ("boolean", b"?1")


def parse_dictionary(text: bytes) -> dict[bytes, Member] | None:
    """Return the members of a dictionary, the last of each name (RFC 9651 4.2.2); None if the field is malformed."""
    try:
        return _dictionary(text)
    except ValueError:
        return None


def parse_list(text: bytes) -> list[tuple[Member, dict[bytes, Member]]] | None:
    """Return the members of a list, each with its parameters (RFC 9651 4.2.1); None if the field is malformed."""
    try:
        return _list(text)
    except ValueError:
        return None


def _list(text: bytes) -> list[tuple[Member, dict[bytes, Member]]]:
    members: list[tuple[Member, dict[bytes, Member]]] = []
    text = text.strip(b" ")
    at = 0
    while at < len(text):
        parameters: dict[bytes, Member] = {}
        member, at = _member(text, at)
        at = _parameters(text, at, parameters)
        members.append((member, parameters))
        at = _next(text, at)
    return members


def _dictionary(text: bytes) -> dict[bytes, Member]:
    members: dict[bytes, Member] = {}
    text = text.strip(b" ")
    at = 0
    while at < len(text):
        name, at = _key(text, at)
        if text[at : at + 1] == b"=":
            members[name], at = _member(text, at + 1)
        else:
            members[name] = TRUE
        at = _next(text, _parameters(text, at))
    return members


def _next(text: bytes, at: int) -> int:
    """Return the start of the next member, or the end of the text."""
    at = _ows(text, at)
    if at == len(text):
        return at
    if text[at : at + 1] != b",":
        raise ValueError
    at = _ows(text, at + 1)
    if at == len(text):  # a trailing comma
        raise ValueError
    return at


def _key(text: bytes, at: int) -> tuple[bytes, int]:
    match = KEY.match(text, at)
    if match is None:
        raise ValueError
    return match[0], match.end()


def _item(text: bytes, at: int) -> tuple[Member, int]:
    match = ITEM.match(text, at)
    if match is None:
        raise ValueError
    kind: Type = match.lastgroup  # type: ignore[assignment]
    return (kind, match[0]), match.end()


def _member(text: bytes, at: int) -> tuple[Member, int]:
    if text[at : at + 1] != b"(":
        return _item(text, at)
    at = _space(text, at + 1)
    while text[at : at + 1] != b")":
        _, at = _item(text, at)
        at = _parameters(text, at)
        if text[at : at + 1] not in (b" ", b")"):
            raise ValueError
        at = _space(text, at)
    return ("list", b""), at + 1


def _parameters(text: bytes, at: int, found: dict[bytes, Member] | None = None) -> int:
    """Return the end of the parameters, the last of each name added to `found`."""
    while text[at : at + 1] == b";":
        name, at = _key(text, _space(text, at + 1))
        value = TRUE
        if text[at : at + 1] == b"=":
            value, at = _item(text, at + 1)
        if found is not None:
            found[name] = value
    return at


def _space(text: bytes, at: int) -> int:
    match = SPACE.match(text, at)
    assert match is not None  # the pattern also matches nothing
    return match.end()


def _ows(text: bytes, at: int) -> int:
    match = OWS.match(text, at)
    assert match is not None
    return match.end()
