"""Faults on the wire: what a link between two parts does to the bytes that pass, in the words of Toxiproxy.

| fault | what it does |
|---|---|
| `latency` | each piece arrives later by `by`, give or take `jitter` (uniform, normal or pareto), in order |
| `bandwidth` | `rate` bytes a second |
| `slice` | pieces of `size` bytes, `by` apart |
| `blackhole` | nothing arrives any more; what was held back comes when it ends, as TCP would send it again |
| `corrupt` | in a `share` of the pieces one byte is another |
| `truncate` | after `after` bytes the connection is closed |
| `reset` | after `after` bytes the connection is reset (RST) |
| `half_open` | the other side is gone and this side is not told |
| `slow_close` | the end is passed on `by` later |
| `refuse`, `backlog` | no listener; a listener whose backlog is full, so that connecting hangs |

`share` is of the connections, drawn when one opens; for `corrupt` of the pieces.
`direction` is `up` (requests), `down` (answers, the default) or `both`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "latency", "bandwidth", "slice", "blackhole", "corrupt", "truncate", "reset", "half_open", "slow_close", "refuse",
    "backlog",
]  # fmt: skip
Direction = Literal["up", "down", "both"]
LISTENING = ("refuse", "backlog")
"""Those that act on the listener and not on bytes."""


@dataclass
class Toxic:
    """One fault of a link."""

    kind: Kind
    rng: random.Random
    direction: Direction = "down"
    share: float = 1.0
    by: float = 0.0
    jitter: float = 0.0
    distribution: Literal["uniform", "normal", "pareto"] = "uniform"
    rate: float = 1e9
    size: int = 1
    after: int = 0
    struck: dict[int, bool] = field(default_factory=dict)

    def acts(self, link: int, direction: Direction) -> bool:
        """On this connection, this way?"""
        if self.direction not in ("both", direction):
            return False
        if self.share >= 1.0 or self.kind == "corrupt":
            return True
        if link not in self.struck:
            self.struck[link] = self.rng.random() < self.share
        return self.struck[link]

    def delay(self) -> float:
        """Seconds for one piece."""
        if not self.jitter:
            return self.by
        if self.distribution == "normal":
            return max(0.0, self.rng.gauss(self.by, self.jitter))
        if self.distribution == "pareto":  # a long tail: one in a hundred waits some ten times the jitter
            return self.by + self.jitter * (self.rng.paretovariate(2.0) - 1.0)
        return max(0.0, self.by + self.rng.uniform(-self.jitter, self.jitter))

    def corrupt(self, data: bytes) -> bytes:
        """One byte is another, in a share of the pieces."""
        if not data or self.rng.random() >= self.share:
            return data
        at = self.rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << self.rng.randrange(8))]) + data[at + 1 :]
