"""Length-prefixed messages: one octet of flags, four of length, then the message (gRPC over HTTP/2, "Data Frames")."""

from __future__ import annotations

from struct import Struct
from typing import Final

from sidecar.core.body import add_piece

PREFIX: Final = Struct(">BI")
"""Prefix of a message: its flags and its length in bytes."""
COMPRESSED: Final = 0x01
"""Flag of a message that is compressed with the coding in `grpc-encoding`."""
MAX_MESSAGE: Final = 4 * 1024 * 1024
"""Longest message in bytes that gRPC's own libraries accept by default."""


class MessageTooLarge(ValueError):  # noqa: N818 - a name that says what is wrong
    """Raised for a message beyond the reader's limit."""


def frame(message: bytes, flags: int = 0) -> bytes:
    """Return a message with its prefix."""
    return PREFIX.pack(flags, len(message)) + message


class MessageReader:
    """Reader of messages from pieces of any size.  It holds one incomplete message at most."""

    __slots__ = ("_left", "_limit", "_pieces")

    def __init__(self, limit: int = MAX_MESSAGE) -> None:
        """`limit` is that of one message, in bytes."""
        self._limit = limit
        self._pieces: list[bytes] = []
        self._left = PREFIX.size
        """Bytes that are missing from the prefix or from the message."""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the flags and the contents of the messages that are complete with `data`.  Raises
        `MessageTooLarge`."""
        pieces = self._pieces
        self._left -= len(data)
        add_piece(pieces, data)
        if self._left > 0:
            return []
        found: list[tuple[int, bytes]] = []
        joined = b"".join(pieces) if len(pieces) > 1 else pieces[0]
        at, end = 0, len(joined)
        while end - at >= PREFIX.size:
            flags, length = PREFIX.unpack_from(joined, at)
            if length > self._limit:
                raise MessageTooLarge(f"a message has {length} bytes; the limit is {self._limit}")
            stop = at + PREFIX.size + length
            if stop > end:
                self._left = stop - end
                break
            found.append((flags, joined[at + PREFIX.size : stop]))
            at = stop
        else:
            self._left = PREFIX.size - (end - at)
        pieces.clear()
        if at < end:
            pieces.append(joined[at:])
        return found

    @property
    def is_between(self) -> bool:
        """True if no message is incomplete."""
        return not self._pieces
