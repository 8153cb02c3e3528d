"""Interface of a cluster, which starts, commands and stops parts and sidecars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sidecar.config.files import Source


class ClusterError(Exception):
    """Raised if a run cannot go on; the message has the last output of the process that failed."""


class Addresses(NamedTuple):
    """Addresses of a sidecar's listeners; empty for one that it has not."""

    inbound: str
    outbound: str
    admin: str = ""


class Cluster(Protocol):
    """Parts and sidecars of one arm.

    - `is_simulated`: True if no real time passes.
    """

    is_simulated: bool

    def now(self) -> float:
        """Return the seconds of a clock that all parts share."""

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds of that clock."""

    async def start(self, kind: str, name: str, spec: dict[str, Any]) -> list[str]:
        """Start a part and return its addresses."""

    async def tell(self, name: str, command: str, **arguments: Any) -> None:
        """Send a command to a part and wait until it is carried out; do nothing if the part's process has ended."""

    async def start_sidecar(self, name: str, sources: Sequence[Source], env: Mapping[str, str]) -> Addresses:
        """Start a sidecar, or its peer in the arm `envoy`; `env` holds the variables of its policies."""

    def redirected(self, name: str, addresses: Sequence[str]) -> list[str]:
        """Return where a captured service dials these addresses, so that its sidecar `name` gets the connections."""

    def examples(self) -> str:
        """Return the directory of the example policies, as a sidecar sees it."""

    async def push(self, name: str, sources: Sequence[Source]) -> None:
        """Replace the policy files of a sidecar, as a deployment does."""

    def names(self, table: dict[str, Any]) -> None:
        """Set what names resolve to for the sidecars: `{"a.test": {"addresses": [...], "delay": 0, "fail": False}}`."""

    async def end(self, name: str, how: str) -> None:
        """End a process: `kill`, `drain` (ask it to end, and wait); or `stop` (freeze) and `continue` it.

        `kill_worker` kills the first worker of a sidecar, if it runs.
        """

    def sample(self) -> None:
        """Report a sample of each sidecar.  Raises `ClusterError` where a process exceeds its bounds."""

    async def close(self) -> None:
        """Stop everything, whatever state it is in."""
