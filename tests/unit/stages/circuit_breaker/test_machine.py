"""Tests of the adapter of pybreaker: its transitions reach the circuit, and both have the same state."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pybreaker

from sidecar.stages.circuit_breaker.breaker import Breaker
from sidecar.stages.circuit_breaker.machine import Machine, Storage
from sidecar.stages.circuit_breaker.spec import Spec
from sidecar.stages.circuit_breaker.states import Closed, HalfOpen, Open
from tests.support.clock import WALL, make_env
from tests.support.service import exchange, response


class Ear(pybreaker.CircuitBreakerListener):
    """Listener that does not belong to the breaker."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self.heard.append((old_state.name, new_state.name))


def test_each_transition_is_told_once_also_to_the_state_it_comes_from() -> None:
    entered: list[str] = []
    machine = Machine("app", lambda: 0.0, entered.append)
    assert entered == [], "it begins closed"
    for state in ("open", "half_open", "closed", "closed"):
        machine.enter(state)
    assert entered == ["open", "half_open", "closed", "closed"]


def test_the_time_of_opening_is_that_of_the_clock_handed_in() -> None:
    storage = Storage(lambda: WALL)
    assert storage.opened_at is None
    pybreaker.CircuitBreaker(state_storage=storage).open()
    assert (storage.state, storage.opened_at) == ("open", datetime.fromtimestamp(WALL, UTC))


def test_a_circuit_and_pybreaker_are_in_the_same_state() -> None:
    env = make_env()
    spec = Spec.model_validate(
        {"consecutive_failures": 1, "jitter": "0%", "half_open": {"probes": 1, "ramp": "0s"}, "open_for": "5s"}
    )
    breaker = Breaker(spec, env, "route:order")
    ear = Ear()
    breaker.machine.circuit.add_listener(ear)
    seen = []

    def look() -> None:
        seen.append((breaker.state.__class__, breaker.machine.circuit.current_state))

    look()
    x = exchange()
    ticket = breaker.state.admit(x, env.now())
    assert ticket is not None
    breaker.state.settle(x, ticket[1], response(500))
    look()
    env.advance(5)
    assert breaker.state.admit(x, env.now())
    look()
    breaker.state.settle(x, env.now(), response(200))
    look()
    assert seen == [(Closed, "closed"), (Open, "open"), (HalfOpen, "half-open"), (Closed, "closed")]
    assert ear.heard == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]
    assert breaker.machine.circuit.name == "route:order"
