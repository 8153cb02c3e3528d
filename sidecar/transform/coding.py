"""Content codings (RFC 9110 8.4.1) of bodies that are read: decoding, and encoding in the same way.

The known codings are gzip, deflate (with zlib's header as the RFC says, and without as some senders have it) and, if a
`brotli` module of version 1.2 or newer is installed, br.  A small body can expand without bounds.  So decoding stops at
a limit of bytes, and at a ratio that no real document reaches.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, Final

from sidecar.transform.jsonbody import InvalidBody

LEVEL: Final = 4
"""Compression level of every coding: much faster than zlib's default, for slightly more bytes."""
MAX_RATIO: Final = 200
"""Decoded bytes for one coded byte, at most."""
FREE: Final = 64 * 1024
"""Decoded bytes up to which the ratio is not checked."""

MAX_MEMBERS: Final = 16
"""Members of a gzip body, at most.  Each is expensive to start, however short it is."""

GZIP, ZLIB, BARE = 31, 15, -15
"""Values of zlib's `wbits` for the three formats."""


class BodyTooLarge(InvalidBody):
    """Decoded content that exceeds the policy's limit."""


def _inflate(wbits: int) -> Callable[[bytes, int], bytes]:
    def decode(data: bytes, limit: int) -> bytes:
        most = min(limit, max(FREE, len(data) * MAX_RATIO))
        pieces: list[bytes] = []
        size = 0
        while data:  # gzip: members may follow each other (RFC 1952 2.2)
            if len(pieces) == MAX_MEMBERS:
                raise InvalidBody(f"has more than {MAX_MEMBERS} members in its content coding")
            stream = zlib.decompressobj(wbits)
            pieces.append(stream.decompress(data, most + 1 - size))
            size += len(pieces[-1])
            if size > most:
                raise BodyTooLarge(f"is larger than {most} bytes once it is decoded")
            if not stream.eof:
                raise InvalidBody("is cut off within its content coding")
            data = stream.unused_data
            if data and wbits != GZIP:
                raise InvalidBody("has octets after the end of its content coding")
        return b"".join(pieces)

    return decode


def _deflated(data: bytes, limit: int) -> bytes:
    if data[:1] and data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0:  # RFC 1950 2.2
        return _inflate(ZLIB)(data, limit)
    return _inflate(BARE)(data, limit)


def _deflate(wbits: int) -> Callable[[bytes], bytes]:
    def encode(data: bytes) -> bytes:
        stream = zlib.compressobj(LEVEL, zlib.DEFLATED, wbits)
        return stream.compress(data) + stream.flush()

    return encode


DECODERS: Final[dict[bytes, Callable[[bytes, int], bytes]]] = {
    b"gzip": _inflate(GZIP),
    b"x-gzip": _inflate(GZIP),
    b"deflate": _deflated,
}
ENCODERS: Final[dict[bytes, Callable[[bytes], bytes]]] = {
    b"gzip": _deflate(GZIP),
    b"x-gzip": _deflate(GZIP),
    b"deflate": _deflate(ZLIB),
}


def _add_brotli() -> None:
    try:
        brotli: Any = import_module("brotli")
        brotli.Decompressor().process(b"", output_buffer_limit=1)
    except (ImportError, TypeError):  # not installed, or too old to bound its output
        return

    def decode(data: bytes, limit: int) -> bytes:
        most = min(limit, max(FREE, len(data) * MAX_RATIO))
        stream = brotli.Decompressor()
        try:
            text: bytes = stream.process(data, output_buffer_limit=most + 1)
            while not stream.is_finished() and not stream.can_accept_more_data() and len(text) <= most:
                text += stream.process(b"", output_buffer_limit=most + 1 - len(text))
        except brotli.error as error:
            raise InvalidBody(f"is not valid br: {error}") from None
        if len(text) > most:
            raise BodyTooLarge(f"is larger than {most} bytes once it is decoded")
        if not stream.is_finished():
            raise InvalidBody("is cut off within its content coding")
        return text

    DECODERS[b"br"] = decode
    ENCODERS[b"br"] = lambda data: bytes(brotli.compress(data, quality=LEVEL))


_add_brotli()


def is_known(coding: bytes) -> bool:
    """True if a Content-Encoding, in lower case, can be decoded and encoded.  A list of several codings cannot."""
    return coding in DECODERS or coding in (b"", b"identity")


def decode(data: bytes, coding: bytes, limit: int) -> bytes:
    """Return the decoded body.  Raises `InvalidBody` if it is malformed or has more than `limit` bytes."""
    decoder = DECODERS.get(coding)
    if decoder is None:
        return data
    try:
        return decoder(data, limit)
    except zlib.error as error:
        raise InvalidBody(f"is not valid {coding.decode()}: {error}") from None


def encode(data: bytes, coding: bytes) -> bytes:
    """Return the encoded body."""
    encoder = ENCODERS.get(coding)
    return data if encoder is None else encoder(data)


@lru_cache(maxsize=256)
def acceptable(field: bytes) -> bytes:
    """Return an Accept-Encoding reduced to known codings; `identity` if none is left (RFC 9110 12.5.3)."""
    kept = [part.strip(b" \t") for part in field.split(b",") if is_known(part.partition(b";")[0].strip(b" \t").lower())]
    return b", ".join(part for part in kept if part) or b"identity"
