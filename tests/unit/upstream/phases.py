"""Phases of upstream connections, observed while a test runs.

`observed()` replaces the slot of `UpstreamConnection` that holds the phase by a property that records each change, so
the production code needs no hook.  Compiled classes cannot be observed: `is_observable` is False there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import FunctionType
from typing import Any

from sidecar.upstream.connection import TRANSITIONS, UpstreamConnection

NAMES = ("CONNECTING", "IDLE", "AWAITING_HEAD", "READING_BODY", "SWITCHED", "CLOSED")
"""Names of the phases; the index is the phase's number."""
is_observable = isinstance(UpstreamConnection.exchange, FunctionType)


class Phases:
    """Phases of every connection since observation began."""

    def __init__(self) -> None:
        self.connections: list[UpstreamConnection] = []
        """Connections in the order in which they were made."""
        self.paths: list[list[str]] = []
        """Phases of each connection, in order."""

    def note(self, connection: UpstreamConnection, phase: int) -> None:
        if connection not in self.connections:
            self.connections.append(connection)
            self.paths.append([])
        path = self.paths[self.connections.index(connection)]
        if not path or path[-1] != NAMES[phase]:
            path.append(NAMES[phase])

    @property
    def transitions(self) -> set[tuple[str, str]]:
        return {pair for path in self.paths for pair in pairwise(path)}


def allowed() -> set[tuple[str, str]]:
    """Return the allowed transitions, those of `TRANSITIONS`."""
    return {(NAMES[phase], NAMES[then]) for phase, others in TRANSITIONS.items() for then in others}


@contextmanager
def observed() -> Iterator[Phases]:
    """Observe all connections within the block; at its end no transition may be outside the table."""
    phases, slot = Phases(), UpstreamConnection.__dict__["_phase"]

    def note(connection: UpstreamConnection, phase: int) -> None:
        slot.__set__(connection, phase)
        phases.note(connection, phase)

    observer: Any = property(slot.__get__, note)
    UpstreamConnection._phase = observer
    try:
        yield phases
    finally:
        UpstreamConnection._phase = slot
    assert phases.transitions <= allowed(), phases.transitions - allowed()
