"""Interface of a part, and its surroundings: clock, random generator, and a receiver of its rows."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

Row = tuple[Any, ...]
"""Report of a part: the kind first (`request`, `call`, `sample`), then JSON-ready values."""


@dataclass
class PartEnv:
    """Surroundings of a part.

    - `now()`: seconds of a clock that all parts of a run share.
    - `seed`: seed of the part's generator `rng`.
    - `report(row)`: add a row to the recording.
    - `stall(seconds)`: keep the part's only thread busy.
    - `is_virtual`: True on a virtual loop, where there is no process, memory or descriptor to use up.
    """

    now: Callable[[], float]
    seed: str
    report: Callable[[Row], None]
    stall: Callable[[float], Awaitable[None]]
    is_virtual: bool = False
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)


class Part(Protocol):
    """Process of a run, or its stand-in on the virtual loop."""

    async def start(self) -> list[str]:
        """Begin, and return the addresses (`host:port`) on which the part listens."""

    async def do(self, command: str, **arguments: Any) -> Any:
        """Carry out a command.  Raises `ValueError` for one that the part does not know."""

    async def stop(self) -> None:
        """Release everything."""


def split(address: str) -> tuple[str, int]:
    """Return the host and the port of an address."""
    host, _, port = address.rpartition(":")
    return host, int(port)
