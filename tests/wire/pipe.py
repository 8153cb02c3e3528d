"""Transport without a peer, for both sides of the sidecar."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any


class Pipe(asyncio.Transport):
    """Transport that keeps written bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = ""

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return bool(self.closed)

    def close(self) -> None:
        self.closed = self.closed or "closed"

    def abort(self) -> None:
        self.closed = "aborted"

    def pause_reading(self) -> None:
        """Nothing is on its way."""

    def resume_reading(self) -> None:
        """Nothing is on its way."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Do nothing: a later protocol gets no bytes."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: nothing is buffered."""

    def can_write_eof(self) -> bool:
        return False
