"""gRPC-Web: messages as in gRPC, and the trailers as the last frame of the body (`PROTOCOL-WEB.md` of gRPC).

The text form is the same in Base64, in pieces that are each padded: browsers can read them before the body has ended.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64
from typing import Final, NamedTuple

from sidecar.core.exchange import Exchange
from sidecar.core.message import Headers, tokens
from sidecar.grpc.framing import PREFIX
from sidecar.grpc.status import CONTENT_TYPE

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


def become_call(x: Exchange) -> WebType | None:
    """Turn the head of a call of gRPC-Web into that of gRPC, and return its content type; None for another request."""
    kind = parse_type(x.header(b"content-type") or b"") if x.method == b"POST" else None
    if kind is None:
        return None
    accepted = {found for part in tokens(x.headers, b"accept") if (found := parse_type(part)) is not None}
    is_text = any(found.is_text for found in accepted) or (kind.is_text and not accepted)
    x.web = TEXT if is_text else BINARY
    x.is_grpc = x.grpc_timeout = x.accepts_trailers = True
    gone = (b"content-type", b"accept", b"x-grpc-web")
    x.headers = [
        *[field for field in x.headers if field[0] not in gone],
        (b"content-type", CONTENT_TYPE + kind.suffix),
    ]
    return kind


def trailer_frame(trailers: Headers) -> bytes:
    """Return the frame that ends an answer, also if there are no trailers."""
    lines = b"".join([b"%b: %b\r\n" % field for field in trailers])
    return PREFIX.pack(TRAILERS, len(lines)) + lines


def encode_text(data: bytes) -> bytes:
    """Return a piece of a body in the text form."""
    return b2a_base64(data, newline=False)


class FrameFollower:
    """Follower of the frames in a body of gRPC, which finds one that is no message."""

    __slots__ = ("_left", "_prefix")

    def __init__(self) -> None:
        self._prefix = b""
        """Bytes of an incomplete prefix."""
        self._left = 0
        """Bytes of the message that have yet to come."""

    @property
    def is_between(self) -> bool:
        """True if no message is incomplete."""
        return not self._left and not self._prefix

    def follow(self, data: bytes) -> int:
        """Return the number of bytes before the first frame that would be taken for the trailers."""
        at, size = 0, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
                continue
            if not self._prefix and data[at] & TRAILERS:
                return at
            step = min(PREFIX.size - len(self._prefix), size - at)
            prefix = self._prefix + data[at : at + step]
            at += step
            if len(prefix) == PREFIX.size:
                self._left = int.from_bytes(prefix[1:], "big")
                prefix = b""
            self._prefix = prefix
        return size


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
