"""Recorder of connections' transitions between phases.

The watched connection keeps its phase in a property, so that the production code needs no hook.  A compiled class
cannot be subclassed: then the plain connection is used, and nothing is recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.downstream import connection
from sidecar.downstream.connection import PHASES, TRANSITIONS, DownstreamConnection

Transition = tuple[str, str]

IS_COMPILED = not str(connection.__file__).endswith(".py")
TABLE: set[Transition] = {(PHASES[phase], PHASES[then]) for phase, thens in TRANSITIONS.items() for then in thens}
SEEN: list[Transition] = []
"""Transitions of all watched connections since the list was cleared."""

if TYPE_CHECKING or IS_COMPILED:
    WatchedConnection = DownstreamConnection
else:

    class WatchedConnection(DownstreamConnection):
        """Connection whose transitions are recorded."""

        @property
        def _phase(self) -> int:
            return self.__dict__["_phase"]

        @_phase.setter
        def _phase(self, phase: int) -> None:
            if "_phase" in self.__dict__:
                SEEN.append((PHASES[self._phase], PHASES[phase]))
            self.__dict__["_phase"] = phase
