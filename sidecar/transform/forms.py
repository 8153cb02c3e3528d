"""Form bodies (`application/x-www-form-urlencoded`) as JSON documents, and back.

1. A name that occurs once becomes a text, a repeated name a list of texts.  Names keep their order.
2. In a form made from JSON, numbers keep their spelling, a list repeats its name, and null is left out.
3. Values that a form cannot express (objects, lists of lists) and octets that are not UTF-8 raise `InvalidBody`.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote_plus, unquote_to_bytes

from msgspec import Raw

from sidecar.transform.jsonbody import Document, InvalidBody, parse_member, plain

MAX_FIELDS: Final = 1_000
"""Fields of a form, at most."""


def from_form(data: bytes) -> Document:
    """Return a form as a document: one object of texts and lists of texts.  Raises `InvalidBody`."""
    found: dict[str, Any] = {}
    pairs = [pair for pair in data.split(b"&") if pair] if data.count(b"&") < MAX_FIELDS else None
    if pairs is None:
        raise InvalidBody(f"is a form of more than {MAX_FIELDS} fields")
    for pair in pairs:
        name, _, value = (_text(part) for part in pair.partition(b"="))
        known = found.get(name)
        if known is None:
            found[name] = value
        elif known.__class__ is list:
            known.append(value)
        else:
            found[name] = [known, value]
    return Document(found)


def to_form(document: Document) -> bytes:
    """Return a document as a form.  Raises `InvalidBody`."""
    fields = parse_member(document.box, 0)
    if fields.__class__ is not dict:
        raise InvalidBody("is not a JSON object, and only an object can be written as a form")
    pairs = []
    for name in list(fields):
        value = parse_member(fields, name)
        for index in range(len(value)) if value.__class__ is list else (None,):
            text = _scalar(name, value if index is None else parse_member(value, index))
            if text is not None:
                pairs.append(f"{quote_plus(name)}={quote_plus(text)}")
    return "&".join(pairs).encode()


def _text(part: bytes) -> str:
    try:
        return unquote_to_bytes(part.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        raise InvalidBody("is a form with octets that are not UTF-8") from None


def _scalar(name: str, value: Any) -> str | None:
    text = bytes(value).strip() if value.__class__ is Raw else b""
    if text[:1] in b"-0123456789" and text:
        return text.decode()
    value = plain(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise InvalidBody(f"has members in `{name[:80]}` that a form cannot express")
