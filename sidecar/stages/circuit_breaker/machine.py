"""Adapter of pybreaker: the state machine of a circuit.

pybreaker keeps the state, makes the transitions, and calls its listeners.  `breaker.py` decides which results count,
when to open and when to probe.  pybreaker's own `call` is not used.  It counts failures in a row alone, takes the
creation of a coroutine for a success and a cancellation for a failure, and lets every request through while half-open.

Rules:

1. Only documented interfaces are used: a storage, a listener, and the methods `open()`, `half_open()` and `close()`.
2. The storage takes the time from `Env`, not from pybreaker's own clock.
3. Transitions use this module; requests never do.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from pybreaker import (
    STATE_CLOSED,
    STATE_HALF_OPEN,
    STATE_OPEN,
    CircuitBreaker,
    CircuitBreakerListener,
    CircuitBreakerState,
    CircuitMemoryStorage,
)

NAMES: Final = {STATE_CLOSED: "closed", STATE_HALF_OPEN: "half_open", STATE_OPEN: "open"}
"""Names of states in policies and metrics, by pybreaker's names."""


class Storage(CircuitMemoryStorage):
    """State of one circuit in memory, with the time of its opening by the clock of `Env`."""

    def __init__(self, wall: Callable[[], float]) -> None:
        super().__init__(STATE_CLOSED)
        self._wall = wall
        self._opened: datetime | None = None

    @property
    def opened_at(self) -> datetime | None:
        """Time of the last opening; None before the first."""
        return self._opened

    @opened_at.setter
    def opened_at(self, _: datetime) -> None:
        self._opened = datetime.fromtimestamp(self._wall(), UTC)


class Listener(CircuitBreakerListener):
    """Listener that calls a function with the name of each state that a circuit enters."""

    def __init__(self, entered: Callable[[str], None]) -> None:
        self._entered = entered

    def state_change(
        self, cb: CircuitBreaker, old_state: CircuitBreakerState | None, new_state: CircuitBreakerState
    ) -> None:
        self._entered(NAMES[new_state.name])


class Machine:
    """State machine of one circuit, closed at first."""

    def __init__(self, name: str, wall: Callable[[], float], entered: Callable[[str], None]) -> None:
        """Make a closed circuit.  `wall` returns seconds since 1970; `entered(state)` is called in each transition."""
        self.circuit = CircuitBreaker(state_storage=Storage(wall), listeners=[Listener(entered)], name=name)
        """Circuit of pybreaker."""

    def enter(self, state: str) -> None:
        """Make the transition to `closed`, `half_open` or `open`."""
        transitions = {"closed": self.circuit.close, "half_open": self.circuit.half_open, "open": self.circuit.open}
        transitions[state]()
