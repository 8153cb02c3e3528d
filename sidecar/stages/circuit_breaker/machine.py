"""The circuit: pybreaker's machine, its transitions decided by our evidence and our clock.

pybreaker's `call` and `calling` are not used; its `open`, `half_open` and `close` are, so its listeners hear of all.
`_create_new_state` and `_state` are private there: the version is pinned, and a test fails if either changes.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Final, Literal

from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.core.exchange import Exchange
from sidecar.core.headers import retry_after
from sidecar.core.imports import hidden
from sidecar.core.outcome import Outcome
from sidecar.stages.circuit_breaker.evidence import Evidence, Verdict
from sidecar.stages.circuit_breaker.spec import Spec
from sidecar.stages.circuit_breaker.states import STATES, HalfOpen, State, Ticket

with hidden("redis", "tornado"):
    from pybreaker import CircuitBreaker, CircuitBreakerState

HISTORY: Final = 20
"""Transitions that are remembered for `/state`."""
LEVELS: Final = {"closed": 0.0, "half-open": 1.0, "open": 2.0}
"""The gauge's values."""


class Breaker(CircuitBreaker):
    """One circuit; a request meets it through a `BreakerGate`."""

    _state: State

    def __init__(self, spec: Spec, env: Env, name: str) -> None:
        self.now = env.now
        self._env = env
        self.evidence = Evidence(spec)
        self.reopened = 0
        """How often the open time has doubled."""
        self.open_until = -inf
        self.opened_for = 0.0
        self.forced: Literal["", "open", "closed"] = ""
        self.verdict = Verdict(True, "")
        """Why it was opened last."""
        self.why = "it is new"
        """The reason of the last transition."""
        self.since = env.wall()
        self.refused = 0
        self._healthy = 0
        self._healthy_since = 0.0
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        super().__init__(fail_max=sys.maxsize, name=name, throw_new_error_on_trip=False)
        self._transitions = {
            state: env.meter.counter(metrics.BREAKER_TRANSITIONS, breaker=name, to=_word(state)) for state in LEVELS
        }
        env.meter.gauge(metrics.BREAKER_STATE, lambda: LEVELS[self._state.name], breaker=name)

    def _create_new_state(
        self, new_state: str, prev_state: CircuitBreakerState | None = None, notify: bool = False
    ) -> State:
        return STATES[new_state](self, prev_state=prev_state, notify=notify)

    def admit(self, x: Exchange, now: float) -> Ticket | None:
        """A ticket of the state of the moment, or None: refused."""
        return self._state.admit(x, now)

    # ----- transitions

    def trip(self, verdict: Verdict, outcome: Outcome | None, now: float) -> None:
        """Open the circuit, unless an operator holds it closed."""
        if self.forced:
            return
        rules, env = self.evidence.rules, self._env
        if isinstance(self._state, HalfOpen):
            self.reopened += 1
        asked = None
        if outcome is not None and outcome.failure is None:
            asked = retry_after(outcome.headers, env.wall())
        seconds = min(asked or rules.open_for * 2.0 ** min(self.reopened, 60), rules.max_open_for)
        self._open(verdict, seconds * (1 + rules.jitter * env.rng.random()), now)

    def _open(self, verdict: Verdict, seconds: float, now: float) -> None:
        self.verdict = verdict
        self.opened_for = seconds
        self.open_until = now + seconds
        self.move(self.open, verdict.why, open_for=None if seconds == inf else round(seconds, 3))

    def recover(self, why: str, now: float) -> None:
        """Close the circuit."""
        self._healthy = 0
        self._healthy_since = now
        self.move(self.close, why)

    def see_health(self, now: float) -> None:
        """A good call while closed: enough of them, over long enough, halve the next open time."""
        self._healthy += 1
        if self._healthy >= self.evidence.rules.min_calls and now - self._healthy_since >= self.opened_for:
            self.reopened -= 1
            self._healthy = 0
            self._healthy_since = now

    def force(self, mode: Literal["open", "closed", "auto"]) -> None:
        """An operator's hand: hold it open or closed until `auto` lets it decide for itself again."""
        now, held = self.now(), self.forced
        if mode == "auto":
            self.forced = ""
            if held == "open":
                self.opened_for = self.evidence.rules.open_for
                self.move(self.half_open, "an operator lets it decide again")
            elif held == "closed":
                self.recover("an operator lets it decide again", now)
        elif mode != held:
            self.forced = mode
            if mode == "open":
                self._open(Verdict(False, "an operator holds it open"), inf, now)
            else:
                self.evidence.clear()
                self.recover("an operator holds it closed", now)

    def move(self, transition: Callable[[], object], why: str, **more: Any) -> None:
        """Make one of pybreaker's transitions, and tell of it."""
        before = self._state.name
        transition()
        self._transitions[self._state.name].add()
        self.note(before, why, **more)

    def note(self, before: str, why: str, **more: Any) -> None:
        """Write down and tell what has happened since the state named."""
        env = self._env
        self.why = why
        self.since = env.wall()
        states = {"before": _word(before), "after": _word(self._state.name)}
        self._history.append({"at": self.since, **states, "why": why, **more})
        env.emit(events.BREAKER_TRANSITION, breaker=self.name, **states, why=why, **more)

    # ----- settings and facts

    def retune(self, spec: Spec) -> None:
        """Take new settings: the state stays, counts stay while the window does, an open time obeys the new longest."""
        self.evidence.retune(spec)
        rules = self.evidence.rules
        if not self.forced:
            self.open_until = min(self.open_until, self.now() + rules.max_open_for)
        if isinstance(self._state, HalfOpen):
            self._state.trial.rules = rules

    @property
    def retry_after(self) -> float | None:
        """Seconds until more may be let through, at the latest; None while an operator holds it open."""
        return self._state.wait(self.now())

    def explain(self) -> str:
        """Why a request is refused, in a sentence."""
        if isinstance(self._state, HalfOpen):
            return f"The circuit is half-open and lets only a few through; why it had opened: {self.verdict.why}"
        return f"The circuit is open: {self.verdict.why}"

    def describe(self) -> dict[str, Any]:
        now, state = self.now(), self._state
        return {
            "name": self.name,
            "state": _word(state.name),
            "why": self.why,
            "since": self.since,
            "forced": bool(self.forced),
            **self.evidence.describe(now),
            "times_doubled": self.reopened,
            "refused": self.refused,
            "opened_because": None if self.verdict.is_good else self.verdict.why,
            **state.describe(now),
            "history": list(self._history),
        }

    def __repr__(self) -> str:
        return f"<Breaker {self.name} {_word(self._state.name)}: {self.why}>"


def _word(state: str) -> str:
    """pybreaker writes `half-open`; policies and metrics say `half_open`."""
    return state.replace("-", "_")
