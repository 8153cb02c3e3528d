"""Faults on the wire, named as in Toxiproxy.

| fault | effect |
|---|---|
| `latency` | each piece arrives `by` seconds later, plus or minus `jitter` (uniform, normal or pareto), in order |
| `bandwidth` | `rate` bytes a second |
| `slice` | pieces of `size` bytes, `by` seconds apart |
| `blackhole` | nothing arrives; what was held back arrives when the fault ends, as TCP retransmits it |
| `corrupt` | one byte is changed in a `share` of the pieces |
| `truncate`, `reset` | after `after` bytes the connection is closed, or reset (RST) |
| `half_open` | the other side is closed, and this side gets no notice |
| `slow_close` | the end arrives `by` seconds later |
| `refuse`, `backlog` | no listener; a listener whose backlog is full, so that connecting hangs |

`only_open` spares connections that open later.  `share` is of connections, drawn when one opens; for `corrupt` of
pieces.  `direction` is `up` (requests), `down` (responses, the default) or `both`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal[
    "latency", "bandwidth", "slice", "blackhole", "corrupt", "truncate", "reset", "half_open", "slow_close", "refuse",
    "backlog",
]  # fmt: skip
Direction = Literal["up", "down", "both"]
LISTENING: Final = ("refuse", "backlog")
"""Faults that act on the listener and not on bytes."""


@dataclass
class Toxic:
    """Fault of a link.

    - `struck`: by connection, whether it falls into `share`.
    - `newest`: last connection that `only_open` lets be struck; None for all.
    """

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
    only_open: bool = False
    newest: int | None = None
    struck: dict[int, bool] = field(default_factory=dict)

    def acts(self, link: int, direction: Direction) -> bool:
        """True if the fault strikes this direction of a connection."""
        if self.direction not in ("both", direction):
            return False
        if self.newest is not None and link > self.newest:
            return False
        if self.share >= 1.0 or self.kind == "corrupt":
            return True
        if link not in self.struck:
            self.struck[link] = self.rng.random() < self.share
        return self.struck[link]

    def delay(self) -> float:
        """Return the seconds by which a piece is late."""
        if not self.jitter:
            return self.by
        if self.distribution == "normal":
            return max(0.0, self.rng.gauss(self.by, self.jitter))
        if self.distribution == "pareto":  # a long tail: one in a hundred waits some ten times the jitter
            return self.by + self.jitter * (self.rng.paretovariate(2.0) - 1.0)
        return max(0.0, self.by + self.rng.uniform(-self.jitter, self.jitter))

    def corrupt(self, data: bytes) -> bytes:
        """Return a piece, in a share of the cases with one bit changed."""
        if not data or self.rng.random() >= self.share:
            return data
        at = self.rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << self.rng.randrange(8))]) + data[at + 1 :]
