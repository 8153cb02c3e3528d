"""Attributes of Set-Cookie (RFC 6265 4.1, and those that browsers have added since).

A cookie's name and value, and the attributes that no operation names, keep their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.core.outcome import Outcome

Attributes = list[tuple[bytes, bytes | None]]
"""Names as received, and values; None is the value of an attribute without one, such as Secure."""
ANY: Final = "*"
"""Name that stands for all cookies."""


def parse_cookie(value: bytes) -> tuple[bytes, Attributes]:
    """Return the `name=value` of a Set-Cookie field and its attributes."""
    pair, *parts = value.split(b";")
    attributes: Attributes = []
    for part in parts:
        name, equals, given = part.strip(b" \t").partition(b"=")
        if name:
            attributes.append((name.rstrip(b" \t"), given.strip(b" \t") if equals else None))
    return pair.strip(b" \t"), attributes


def write_cookie(pair: bytes, attributes: Attributes) -> bytes:
    """Return a Set-Cookie field."""
    return b"; ".join([pair, *(name if value is None else b"%b=%b" % (name, value) for name, value in attributes)])


class CookieEdit:
    """Sets and removes attributes of a response's cookies, by the cookie's name or for all (`*`).

    An attribute is given as a text, True for one without a value, or None to remove it.
    """

    __slots__ = ("_cookies",)

    def __init__(self, cookies: Mapping[str, Mapping[str, str | bool | None]]) -> None:
        self._cookies = {name.encode(): _compiled(attributes) for name, attributes in cookies.items()}

    def apply(self, outcome: Outcome) -> None:
        """Rewrite every Set-Cookie of a response."""
        if outcome.is_raw and b"\nset-cookie:" not in b"\n" + outcome.lines.lower():
            return
        fields = outcome.headers
        outcome.headers = [(name, self.edit(value) if name == b"set-cookie" else value) for name, value in fields]

    def edit(self, value: bytes) -> bytes:
        """Return one Set-Cookie field rewritten."""
        pair, attributes = parse_cookie(value)
        name = pair.partition(b"=")[0].rstrip(b" \t")
        wanted = self._cookies.get(ANY.encode(), {}) | self._cookies.get(name, {})
        if not wanted:
            return value
        attributes = [each for each in attributes if each[0].lower() not in wanted]
        for key, given in wanted.items():
            if given is not None:
                attributes.append((SPELLING[key], given or None))
        return write_cookie(pair, attributes)


SPELLING: Final = {
    name.lower(): name
    for name in (b"Expires", b"Max-Age", b"Domain", b"Path", b"Secure", b"HttpOnly", b"SameSite", b"Partitioned")
}
"""Usual spelling of the attributes, by lower case."""


def _compiled(attributes: Mapping[str, str | bool | None]) -> dict[bytes, bytes | None]:
    """Return attributes by lower-case name: a value, empty for an attribute without one, or None to remove it."""
    return {
        name.lower().encode(): None
        if value is None or value is False
        else b""
        if value is True
        else str(value).encode()
        for name, value in attributes.items()
    }
