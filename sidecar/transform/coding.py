"""Content codings (RFC 9110 8.4.1): a body that has to be read is decoded, and encoded again the same way.

gzip, deflate (with zlib's header as the RFC says, and bare as some send it) and, where a `brotli` module of at least
version 1.2 is installed, br.  A body may say little and mean much: decoding stops at a size, and at a ratio that no
honest document reaches.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, Final

from sidecar.transform.jsonbody import Invalid

LEVEL: Final = 4
"""Of gzip and deflate: twice as fast as zlib's default, for a few per cent more bytes."""
MAX_RATIO: Final = 200
FREE: Final = 64 * 1024
"""Bytes up to which no ratio is too high."""

MAX_MEMBERS: Final = 16
"""Of gzip: each takes as long to start as a page takes to decode."""

GZIP, ZLIB, BARE = 31, 15, -15
"""What zlib calls the formats."""


class TooLarge(Invalid):
    """More than the policy takes."""


def _inflate(wbits: int) -> Callable[[bytes, int], bytes]:
    def decode(data: bytes, limit: int) -> bytes:
        most = min(limit, max(FREE, len(data) * MAX_RATIO))
        pieces: list[bytes] = []
        size = 0
        while data:  # gzip: members may follow each other (RFC 1952 2.2)
            if len(pieces) == MAX_MEMBERS:
                raise Invalid(f"has more than {MAX_MEMBERS} members in its content coding")
            stream = zlib.decompressobj(wbits)
            pieces.append(stream.decompress(data, most + 1 - size))
            size += len(pieces[-1])
            if size > most:
                raise TooLarge(f"is larger than {most} bytes once it is decoded")
            if not stream.eof:
                raise Invalid("is cut off within its content coding")
            data = stream.unused_data
            if data and wbits != GZIP:
                raise Invalid("has octets after the end of its content coding")
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
    except (ImportError, TypeError):  # not there, or too old to stop in time
        return

    def decode(data: bytes, limit: int) -> bytes:
        most = min(limit, max(FREE, len(data) * MAX_RATIO))
        stream = brotli.Decompressor()
        try:
            text: bytes = stream.process(data, output_buffer_limit=most + 1)
            while not stream.is_finished() and not stream.can_accept_more_data() and len(text) <= most:
                text += stream.process(b"", output_buffer_limit=most + 1 - len(text))
        except brotli.error as error:
            raise Invalid(f"is not valid br: {error}") from None
        if len(text) > most:
            raise TooLarge(f"is larger than {most} bytes once it is decoded")
        if not stream.is_finished():
            raise Invalid("is cut off within its content coding")
        return text

    DECODERS[b"br"] = decode
    ENCODERS[b"br"] = lambda data: bytes(brotli.compress(data, quality=LEVEL))


_add_brotli()


def is_known(coding: bytes) -> bool:
    """Can a Content-Encoding be undone and done again?  Lower case; several at once cannot."""
    return coding in DECODERS or coding in (b"", b"identity")


def decode(data: bytes, coding: bytes, limit: int) -> bytes:
    """The body without its coding, at most `limit` bytes.  Raises `Invalid`."""
    decoder = DECODERS.get(coding)
    if decoder is None:
        return data
    try:
        return decoder(data, limit)
    except zlib.error as error:
        raise Invalid(f"is not valid {coding.decode()}: {error}") from None


def encode(data: bytes, coding: bytes) -> bytes:
    """The body with its coding."""
    encoder = ENCODERS.get(coding)
    return data if encoder is None else encoder(data)


@lru_cache(maxsize=256)
def acceptable(field: bytes) -> bytes:
    """An Accept-Encoding reduced to what can be undone; `identity` where nothing else is left (RFC 9110 12.5.3)."""
    kept = [part.strip(b" \t") for part in field.split(b",") if is_known(part.partition(b";")[0].strip(b" \t").lower())]
    return b", ".join(part for part in kept if part) or b"identity"
