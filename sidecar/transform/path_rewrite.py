"""Rewriting of a request's path: by template, by prefix or by regular expression.

1. Values from a request never change the structure of a path.  Each is percent-encoded as one segment.  A missing or
   empty value, a dot segment in any spelling, and a NUL are refused, not repaired: `DELETE /orders/{id}` without
   its id must not become `DELETE /orders/`.
2. Captures were decoded once, when the route was matched, and are encoded once: `%252e` stays `%252e`.
3. Prefixes and patterns are compared with the canonical path (RFC 3986 6.2.2).  They decode nothing, and a path that
   they do not match stays as it is.

Not here: how routing and other servers read a path (`sidecar.core.uri`).
"""

from __future__ import annotations

import re
from typing import Final, Protocol
from urllib.parse import quote, unquote

from sidecar.core.exchange import Exchange
from sidecar.core.pattern import MAX_INPUT, compile_pattern
from sidecar.core.template import Template
from sidecar.core.uri import canonical, readings
from sidecar.transform.values import RewriteError

LITERAL: Final = "/%:@!$&'()*+,;=~{}"
"""Characters of a template that stay as they are: those of a path (RFC 3986 3.3), escapes, and names in braces."""
_DOTS: Final = re.compile(r"(?:^|[/\\;])\.\.?(?:[/\\;]|$)|\x00")
_GROUP: Final = re.compile(r"\\(?:(\d)|g<(\w+)>|(.))", re.DOTALL)


class PathEdit(Protocol):
    """Rewrites a path."""

    def apply(self, path: bytes, x: Exchange) -> bytes:
        """Return the path to send.  Raises `RewriteError`."""


def segment(value: str) -> str:
    """Return a value as one segment of a path.  Raises `RewriteError` for one that could change the structure."""
    if value.isalnum() and value.isascii():
        return value
    if not value:
        raise RewriteError("has no value for a part of the path that the policy builds")
    if "." in value or "%" in value or "\0" in value:
        once = unquote(value)
        if any(map(_DOTS.search, (value, once, unquote(once)))):
            raise RewriteError("has a dot segment or a NUL in a part of the path that the policy builds")
    if "\ufffd" in value:
        raise RewriteError("has octets that are not UTF-8 in a part of the path that the policy builds")
    return quote(value, safe="")


class PathTemplate:
    """Rewriting by a template such as `/internal/v2/orders/{path.id}`."""

    __slots__ = ("_template",)

    def __init__(self, template: Template) -> None:
        self._template = template

    def apply(self, _: bytes, x: Exchange) -> bytes:
        return self._template.render(x, escape=segment).encode()


class PrefixMap:
    """Rewriting of prefixes, by whole segments, such as `{/v1: /v2}`; the longest matching prefix applies."""

    __slots__ = ("_pairs",)

    def __init__(self, prefixes: dict[str, str]) -> None:
        pairs = [(canonical(literal(old)).rstrip(b"/"), literal(new).rstrip(b"/")) for old, new in prefixes.items()]
        self._pairs = sorted(pairs, key=lambda pair: len(pair[0]), reverse=True)

    def apply(self, path: bytes, _: Exchange) -> bytes:
        for old, new in self._pairs:
            for known in (path, canonical(path)) if b"%" in path else (path,):
                if known.startswith(old) and known[len(old) : len(old) + 1] in (b"/", b""):
                    return new + known[len(old) :] or b"/"
        return path


class PathPattern:
    r"""Rewriting by a regular expression for whole paths: `/v1/([^/]+)/(?P<id>\d+)` to `/v2/\g<id>/\1`.

    Groups keep their spelling.
    """

    __slots__ = ("_parts", "_pattern")

    def __init__(self, pattern: str, to: str) -> None:
        """Compile the pattern.  Raises `ValueError` with a remedy."""
        self._pattern = compile_pattern(pattern)
        self._parts: list[bytes | int | str] = []
        end = 0
        for found in _GROUP.finditer(to):
            group: int | str = int(found[1]) if found[1] else found[2]
            known = range(self._pattern.groups + 1) if found[1] else self._pattern.groupindex
            if group not in known:
                raise ValueError(rf"has `{found[0]}`, which is no group of the pattern; groups are \1 and \g<name>")
            self._parts += [literal(to[end : found.start()]), group]
            end = found.end()
        self._parts.append(literal(to[end:]))

    def apply(self, path: bytes, _: Exchange) -> bytes:
        found = self._pattern.fullmatch(canonical(path)) if len(path) <= MAX_INPUT else None
        if found is None:
            return path
        new = b"".join([part if isinstance(part, bytes) else found[part] or b"" for part in self._parts])
        if not readings(new):
            raise RewriteError("has a dot segment or a NUL in a part of the path that the policy builds")
        return new


def literal(text: str) -> bytes:
    """Return a piece of a path from a policy, percent-encoded."""
    return quote(text, safe=LITERAL).encode()
