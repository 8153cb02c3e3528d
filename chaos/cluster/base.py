"""Interface of a cluster: processes on loopback (`local`), containers (`containers`) or one virtual
loop (`simulate`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sidecar.config.files import Source


class ClusterError(Exception):
    """What keeps a run from going on; the message has the log of whoever is to blame."""


class Addresses(NamedTuple):
    """Where a sidecar listens; empty for what it has not."""

    inbound: str
    outbound: str
    admin: str = ""


class Cluster(Protocol):
    """Starts parts and sidecars, talks to them, and stops them."""

    is_simulated: bool

    def now(self) -> float:
        """The clock of all parts."""

    async def sleep(self, seconds: float) -> None:
        """Pass time."""

    async def start(self, kind: str, name: str, spec: dict[str, Any]) -> list[str]:
        """Start a part; its addresses."""

    async def tell(self, name: str, command: str, **arguments: Any) -> None:
        """Have a part do something, and wait until it has."""

    async def start_sidecar(self, name: str, sources: Sequence[Source], env: Mapping[str, str]) -> Addresses:
        """Start a sidecar, or the peer that is compared; `env` is what its policies are told."""

    async def push(self, name: str, sources: Sequence[Source]) -> None:
        """Replace a sidecar's policy files as a deployment does it."""

    async def end(self, name: str, how: str) -> None:
        """`kill`, `drain` (ask it to end, wait), `stop` (freeze) or `continue`."""

    def sample(self) -> None:
        """Report a sample of each sidecar, and ClusterError for a process that has exceeded its bounds."""

    async def close(self) -> None:
        """Stop everything, whatever state it is in."""
