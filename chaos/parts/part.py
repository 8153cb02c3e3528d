"""What every part has in common: a clock, a generator of chance, and someone to whom it reports rows."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

Row = tuple[Any, ...]
"""What a part reports: its kind first (`request`, `call`, `sample`), then JSON-ready values."""


@dataclass
class World:
    """Time, chance and reporting, handed in."""

    now: Callable[[], float]
    """Seconds of a clock that all parts of a run share."""
    seed: str
    report: Callable[[Row], None]
    stall: Callable[[float], Awaitable[None]]
    """Keep the part's only thread busy for so many seconds."""
    is_virtual: bool = False
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)


class Part(Protocol):
    """One process of a run, or what stands for it on the virtual loop."""

    async def start(self) -> list[str]:
        """Begin; the addresses (`host:port`) on which it listens."""

    async def do(self, command: str, **arguments: Any) -> Any:
        """What it can be told (see each part); ValueError for what it does not know."""

    async def stop(self) -> None:
        """Let go of everything."""


def split(address: str) -> tuple[str, int]:
    """`host:port` as a pair."""
    host, _, port = address.rpartition(":")
    return host, int(port)
