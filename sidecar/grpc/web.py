"""gRPC-Web: messages as in gRPC, and the trailers as the last frame of the body (`PROTOCOL-WEB.md` of gRPC).

The text form is the same in Base64, in pieces that are each padded: browsers can read them before the body has ended.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64
from typing import Final, NamedTuple

from sidecar.core.message import Headers
from sidecar.grpc.framing import PREFIX

TRAILERS: Final = 0x80
"""Flag of the frame that has the trailers."""
BINARY: Final = b"application/grpc-web"
TEXT: Final = b"application/grpc-web-text"
QUAD: Final = 4
"""Characters that stand for up to three octets."""


class WebType(NamedTuple):
    """Content type of gRPC-Web."""

    is_text: bool
    """True for the text form."""
    suffix: bytes
    """Message format with its `+`, such as `+proto`; empty if the type names none."""


def parse_type(value: bytes) -> WebType | None:
    """Return a content type of gRPC-Web; None for another one."""
    kind, plus, format_ = value.partition(b";")[0].strip(b" \t").lower().partition(b"+")
    if kind not in (BINARY, TEXT):
        return None
    return WebType(kind == TEXT, plus + format_)


def trailer_frame(trailers: Headers) -> bytes:
    """Return the frame that ends an answer, also if there are no trailers."""
    lines = b"".join([b"%b: %b\r\n" % field for field in trailers])
    return PREFIX.pack(TRAILERS, len(lines)) + lines


def encode_text(data: bytes) -> bytes:
    """Return a piece of a body in the text form."""
    return b2a_base64(data, newline=False)


class TextDecoder:
    """Decoder of a body in the text form, from pieces of any size."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""
        """Up to three characters whose quad is incomplete."""

    def feed(self, data: bytes) -> bytes:
        """Return what is complete with the next characters.  Raises `ValueError` for invalid Base64."""
        text = self._rest + data
        whole = len(text) - len(text) % QUAD
        self._rest = text[whole:]
        found: list[bytes] = []
        at = 0
        while at < whole:
            padding = text.find(b"=", at, whole)
            end = whole if padding < 0 else padding + QUAD - padding % QUAD
            try:
                found.append(a2b_base64(text[at:end], strict_mode=True))
            except Error as error:
                raise ValueError(f"the body is not Base64: {error}") from None
            at = end
        return found[0] if len(found) == 1 else b"".join(found)

    def finish(self) -> None:
        """End the body.  Raises `ValueError` if a quad is incomplete."""
        if self._rest:
            raise ValueError("the body is not Base64: its last characters are no whole quad")
