"""Parser of signed tokens in their compact form (RFC 7515 3.1), without any cryptography.

Rules:

1. Base64url is strict: no padding, no other characters, no unused bits (RFC 4648 3.5).  Each signature thus has one
   spelling, and a verdict can be cached by the digest of the token.
2. JSON is strict: no member occurs twice at any depth (RFC 8259 4), no NaN, UTF-8.
3. Header members that change what is signed, or demand something of the reader, are refused: `crit`, `b64` (RFC 7797),
   `zip`, `enc`, and `cty: JWT` of nested tokens.  Keys in the header (`jwk`, `jku`, `x5c`, `x5u`) are ignored, because
   the policy alone says which keys count (RFC 8725 3.10).
"""

from __future__ import annotations

import json
from binascii import a2b_base64
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn

PARTS: Final = 3
"""Parts of a token: header, payload and signature."""
TO_PLAIN: Final = bytes.maketrans(b"-_+/=", b"+/...")
"""Translation from base64url to base64, in which characters of base64 alone become one that neither has."""
PADDING: Final = (b"", b"===", b"==", b"=")
"""Padding of base64, by the number of characters in the last group."""
LAST: Final = {2: frozenset(b"AQgw"), 3: frozenset(b"AEIMQUYcgkosw048")}
"""Last characters without unused bits, by the number of characters in the last group (RFC 4648 3.5)."""
MOST_HEADERS: Final = 64
"""Most headers that are cached.  A token is bounded, and so is its header."""
MOST_DEPTH: Final = 32
"""Most levels of a JSON value."""
SPACE: Final = " \t\n\r"
"""White space of JSON (RFC 8259 2)."""
REFUSED: Final = ("crit", "b64", "zip", "enc")
"""Members of a header that are refused."""


class InvalidToken(Exception):  # noqa: N818 - names the state of a token
    """Error of a token; its text is the cause for logs."""


class Token(NamedTuple):
    """Parsed token, whose signature is not verified."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    """Bytes that the signature is about."""
    signature: bytes


def parse_token(token: bytes) -> Token:
    """Return the parts of a token.  Raises `InvalidToken`."""
    parts = token.split(b".", PARTS)
    if len(parts) != PARTS:
        raise InvalidToken("the token is not a signed token in compact form")
    head, payload, signature = parts
    header = _parse_header(head)
    if not signature:
        raise InvalidToken("the token is not signed")
    signed = token[: -1 - len(signature)]
    return Token(header, _parse_object(payload, "payload"), signed, _decode(signature, "signature"))


@lru_cache(maxsize=MOST_HEADERS)
def _parse_header(head: bytes) -> dict[str, Any]:
    """Return the header of a token, which nobody changes: tokens of one key mostly have the same.

    Raises `InvalidToken`, which is not cached.
    """
    header = _parse_object(head, "header")
    for name in REFUSED:
        if name in header:
            raise InvalidToken(f"the token's header has {name}, which is not supported")
    cty = header.get("cty")
    if isinstance(cty, str) and cty.lower().removeprefix("application/") == "jwt":
        raise InvalidToken("the token is nested in another one")
    return header


def _decode(text: bytes, part: str) -> bytes:
    rest = len(text) % 4
    if rest and (rest == 1 or text[-1] not in LAST[rest]):
        raise InvalidToken(f"the token's {part} is not base64url")
    try:
        found = a2b_base64(text.translate(TO_PLAIN) + PADDING[rest])
    except ValueError:
        found = b""
    if len(found) != len(text) * 3 // 4:  # the decoder skips other characters; its strict mode takes twice as long
        raise InvalidToken(f"the token's {part} is not base64url")
    return found


def _parse_object(text: bytes, part: str) -> dict[str, Any]:
    try:
        found = parse_json(_decode(text, part))
    except ValueError as error:
        raise InvalidToken(f"the token's {part} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidToken(f"the token's {part} is not a JSON object")
    return found


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON text.  Raises `ValueError`, also for a member that occurs twice."""
    text = data.decode().strip(SPACE)
    try:
        found, end = DECODER.raw_decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if end != len(text):
        raise ValueError("it has something after its value")
    if data.count(b"[") + data.count(b"{") > MOST_DEPTH and _is_deep(found):
        raise ValueError("it is nested too deeply")
    return found


def _is_deep(value: Any) -> bool:
    """True if a JSON value has more than `MOST_DEPTH` levels."""
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member occurs twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse)
"""Decoder of strict JSON."""
