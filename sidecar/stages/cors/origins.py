"""Origins of a `cors` block: exact ones, and patterns with a star for one label of the host.

Origins are compared byte for byte, as the Fetch standard compares them: browsers send scheme and host in lower case, no
default port, and no path.  A pattern is no regular expression.  Its star stands for exactly one whole label, so
`https://*.shop.example` has neither `https://shop.example` nor `https://a.b.shop.example`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

ANY: Final = "*"
NULL: Final = "null"
MAX_PORT: Final = 65535
PARTS: Final = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]+))?(.*)", re.DOTALL
)
"""Matches an origin: scheme, host, port, and what is too much."""
LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
LABEL_BYTES: Final = re.compile(LABEL.pattern.encode())
DEFAULT_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443"}
LONGEST: Final = 300
"""Longest origin that is compared with patterns, in bytes: a scheme, a host name (RFC 1035 2.3.4) and a port."""


def check_origin(text: str) -> str:
    """Return a valid origin or pattern unchanged.  Raises `ValueError` with the right form."""
    if text == ANY:
        return text
    if text.lower() == NULL:
        raise ValueError("is the origin of sandboxed frames and local files of anyone; name the origins of your pages")
    found = PARTS.fullmatch(text)
    if found is None:
        raise ValueError(f"has `{text}`, which is not an origin; write scheme and host, such as https://shop.example")
    scheme, host, port, rest = found.groups()
    right = f"{scheme.lower()}://{host.lower().removesuffix('.')}"
    if port is not None and port != DEFAULT_PORTS.get(scheme.lower()):
        right += f":{int(port)}"
        if not 0 < int(port) <= MAX_PORT:
            raise ValueError(f"has `{text}` with the port {port}; a port is from 1 to {MAX_PORT}")
    if rest or right != text:
        raise ValueError(f"has `{text}`, which browsers never send; write {right}")
    labels = host.split(".")
    is_pattern = labels[0] == ANY
    if not host.startswith("[") and not all(map(LABEL.fullmatch, labels[is_pattern:])):
        star = "; a star stands for the whole first label: https://*.shop.example" if ANY in host else ""
        raise ValueError(f"has `{text}`, whose host is not a name{star or '; write such as https://shop.example'}")
    if is_pattern and len(labels) < 3:
        raise ValueError(f"has `{text}`, which has every site of a domain that anyone can register in; name yours")
    return text


class Origins:
    """Allowed origins of one block."""

    __slots__ = ("_exact", "_patterns", "are_all")

    def __init__(self, texts: Iterable[str]) -> None:
        """Take origins and patterns that `check_origin` accepts."""
        names = tuple(texts)
        self.are_all = ANY in names
        """True if every origin is allowed."""
        self._exact = frozenset(text.encode() for text in names if ANY not in text)
        halves = [text.encode().split(b"*", 1) for text in names if ANY in text and text != ANY]
        self._patterns = tuple((before, after) for before, after in halves)
        """Texts before and after the star of each pattern."""

    def allows(self, origin: bytes) -> bool:
        """True if pages of this origin may read responses."""
        if self.are_all or origin in self._exact:
            return True
        if len(origin) > LONGEST:
            return False
        for before, after in self._patterns:
            if origin.startswith(before) and origin.endswith(after):
                label = origin[len(before) : len(origin) - len(after)]
                if LABEL_BYTES.fullmatch(label) is not None:
                    return True
        return False
