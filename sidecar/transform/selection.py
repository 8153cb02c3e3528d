"""Selection of values in JSON documents, as the texts that the documents have.

A value keeps its spelling: numbers are never read, and a subtree keeps its bytes.
"""

from __future__ import annotations

import json

from sidecar.transform.jsonbody import Document, InvalidBody, encode, parse_member, to_raw
from sidecar.transform.pointer import EACH, Steps, places


def text_at(document: Document, steps: Steps) -> bytes | None:
    """Return the text of the value at a pointer; None if there is none.

    If the pointer has a star, the text is a list of all values that it leads to.
    """
    found = places(document, steps)
    if EACH in steps:
        return b"[" + b",".join([bytes(to_raw(container[key])) for container, key, _ in found]) + b"]"
    if not found:
        return None
    container, key, _ = found[0]
    return bytes(to_raw(container[key]))


def items_of(document: Document) -> list[bytes] | None:
    """Return the texts of the items of a list; None if the document is no list."""
    root = parse_member(document.box, 0)
    return [bytes(to_raw(item)) for item in root] if root.__class__ is list else None


def members_of(document: Document) -> dict[str, bytes] | None:
    """Return the texts of the members of an object by key; None if the document is no object."""
    root = parse_member(document.box, 0)
    return {key: bytes(to_raw(value)) for key, value in root.items()} if root.__class__ is dict else None


def joined(members: dict[str, bytes]) -> bytes:
    """Return the text of an object with these members."""
    return b"{" + b",".join([encode(key) + b":" + value for key, value in members.items()]) + b"}"


def scalar(text: bytes) -> str:
    """Return a text, number or truth value as it is written into a path or a field.

    A number keeps its spelling.  Raises `InvalidBody` for any other value.
    """
    first = text[:1]
    if first == b'"':
        value: str = json.loads(text)
        return value
    if first in (b"{", b"[", b"n", b""):
        raise InvalidBody("has an object, a list or null where a single value is needed")
    return text.decode("ascii")
