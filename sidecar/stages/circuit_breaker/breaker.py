"""Circuit: its state, its transitions, and the report of each.

Evidence decides when to open, probes decide when to close (`states.py`), and pybreaker makes the transition
(`machine.py`), during which the new state object is made.  A circuit survives reloads and may be shared by many routes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal

from sidecar.core import events, metrics
from sidecar.core.env import Env
from sidecar.core.message import retry_after
from sidecar.core.outcome import Outcome, grpc_code
from sidecar.grpc.status import asked_wait
from sidecar.stages.circuit_breaker.evidence import Evidence, Verdict
from sidecar.stages.circuit_breaker.spec import Spec
from sidecar.stages.circuit_breaker.states import CLOSED, HALF_OPEN, OPEN, Closed, HalfOpen, Open, State

if TYPE_CHECKING:
    from sidecar.stages.circuit_breaker.machine import Machine

HISTORY: Final = 20
"""Transitions that are kept for `/state`."""
LEVELS: Final = {CLOSED: 0.0, HALF_OPEN: 1.0, OPEN: 2.0}
"""Values of the gauge."""
MOST_DOUBLINGS: Final = 60
"""Doublings of the open time, at most; more would overflow."""


class Breaker:
    """Circuit that protects a route, an upstream or one endpoint."""

    def __init__(self, spec: Spec, env: Env, name: str) -> None:
        self.name = name
        """Owner of the circuit, such as `upstream:payments`."""
        self.now = env.now
        """Clock of the circuit."""
        self.evidence = Evidence(spec)
        """Recent results and their thresholds."""
        self.reopened = 0
        """Number of times by which the next open time is doubled."""
        self.open_until = -inf
        """Instant at which probes may begin; infinite while an operator holds the circuit open."""
        self.opened_for = 0.0
        """Seconds of the last open time."""
        self.forced: Literal["", "open", "closed"] = ""
        """State in which an operator holds the circuit; empty if none does."""
        self.verdict = Verdict(True, "")
        """Reason of the last opening."""
        self.why = "it is new"
        """Reason of the last transition."""
        self.since = env.wall()
        """Time of the last transition, in seconds since 1970."""
        self.refused = 0
        """Requests that were refused, or would have been under `mode: observe`."""
        self.is_observed = not spec.is_enforced
        """True if the circuit refuses nothing, because its block says `mode: observe`."""
        self.state: State = Closed(self)
        """Current state."""
        self.shared_ticket: object = None  # typed as a tuple, mypyc would rebuild it
        """Ticket that every request gets; None if `state.admit` decides."""
        self._share_ticket()
        self._env = env
        self._healthy = 0
        self._healthy_since = 0.0
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._machine: Machine | None = None
        self._transitions = {
            state: env.meter.counter(metrics.BREAKER_TRANSITIONS, breaker=name, to=state) for state in LEVELS
        }
        self._tell: Callable[[str, Any], None] | None = None
        """Tells other workers the circuit's state; None if there are none, and while it adopts theirs."""
        self._workers = env.workers
        if self._workers is not None:
            self._tell = self._workers.subscribe(self.topic, self.adopt)
        env.meter.gauge(metrics.BREAKER_STATE, self._level, breaker=name)
        env.meter.gauge(metrics.BREAKER_OBSERVED, lambda: float(self.is_observed), breaker=name)

    @property
    def machine(self) -> Machine:
        """State machine, made for the first transition.  It calls `_enter_state` during each transition.

        The library is not imported at the start (see `LATER` in `stage.py`).
        """
        machine = self._machine
        if machine is None:
            from sidecar.stages.circuit_breaker.machine import Machine

            machine = self._machine = Machine(self.name, self._env.wall, self._enter_state)
        return machine

    # ----- transitions

    def trip(self, verdict: Verdict, outcome: Outcome | None, now: float) -> None:
        """Open the circuit, unless an operator holds it.  A Retry-After of the outcome, or its
        `grpc-retry-pushback-ms`, replaces the open time."""
        if self.forced:
            return
        thresholds, env = self.evidence.thresholds, self._env
        if self.state.name == HALF_OPEN:
            self.reopened += 1
        asked = None
        if outcome is not None and outcome.failure is None:
            asked = retry_after(outcome.headers, env.wall())
            if grpc_code(outcome.verdict) > 0:
                pushback = asked_wait(outcome)
                asked = asked if pushback is None or pushback == inf else pushback
        seconds = asked or thresholds.open_for * 2.0 ** min(self.reopened, MOST_DOUBLINGS)
        seconds = min(seconds, thresholds.max_open_for)
        self._open(verdict, seconds * (1 + thresholds.jitter * env.rng.random()), now)

    def _open(self, verdict: Verdict, seconds: float, now: float) -> None:
        """Open the circuit for `seconds`, infinite for an operator."""
        self.verdict = verdict
        self.opened_for = seconds
        self.open_until = now + seconds
        self.move(OPEN, verdict.why, open_for=None if seconds == inf else round(seconds, 3))

    def recover(self, why: str, now: float) -> None:
        """Close the circuit."""
        self._healthy = 0
        self._healthy_since = now
        self.move(CLOSED, why)

    def count_success(self, now: float) -> None:
        """Count a success while closed: after `min_calls` of them and the last open time, one doubling is undone."""
        self._healthy += 1
        if self._healthy >= self.evidence.thresholds.min_calls and now - self._healthy_since >= self.opened_for:
            self.reopened -= 1
            self._healthy = 0
            self._healthy_since = now

    def force(self, mode: Literal["open", "closed", "auto"]) -> None:
        """Force the circuit open or closed for an operator; `auto` lets it decide again."""
        now, before = self.now(), self.forced
        if mode == "auto":
            self.forced = ""
            if before == "open":
                self.opened_for = self.evidence.thresholds.open_for
                self.move(HALF_OPEN, "an operator lets it decide again")
            elif before == "closed":
                self.recover("an operator lets it decide again", now)
        elif mode != before:
            self.forced = mode
            if mode == "open":
                self._open(Verdict(False, "an operator holds it open"), inf, now)
            else:
                self.evidence.clear()
                self.recover("an operator holds it closed", now)

    def move(self, state: str, why: str, **more: Any) -> None:
        """Make the transition to `state`, count it and report it with its reason and the facts `more`."""
        before = self.state.name
        self.machine.enter(state)
        if self._workers is None or self._tell is not None:  # else another worker has counted it
            self._transitions[state].add()
        self.report(before, why, **more)

    # ----- other workers

    @property
    def topic(self) -> str:
        """Topic under which workers tell each other the circuit's state."""
        return f"breaker:{self.name}"

    @property
    def may_probe(self) -> bool:
        """True if this worker may probe; of several workers, one at a time may."""
        workers = self._workers
        return workers is None or workers.may_probe(self.topic, self.evidence.thresholds.verdict_within + 1)

    def adopt(self, _: str, told: dict[str, Any]) -> None:
        """Enter the state that another worker has told.  While that worker probes, this circuit stays open."""
        tell, self._tell = self._tell, None
        try:
            name, now = told["state"], self.now()
            self.forced = told["forced"]
            self.reopened = told["reopened"]
            self.opened_for = inf if told["opened_for"] is None else told["opened_for"]
            if told["open_until"] is not None:
                self.open_until = told["open_until"]
            elif self.forced == "open":
                self.open_until = inf
            self.verdict = Verdict(*told["verdict"])
            if told["probing"]:
                return
            if name != self.state.name:
                if name == CLOSED:
                    self.evidence.clear()
                    self.recover(told["why"], now)
                else:
                    self.move(name, told["why"])
            if isinstance(self.state, HalfOpen) and told["ramp"] is not None:
                self.state.begin_ramp(told["ramp"])
        finally:
            self._tell = tell

    def retire(self) -> None:
        """End the exchange with other workers, because no policy has the circuit any more."""
        self._tell = None
        if self._workers is not None:
            self._workers.leave(self.topic, self.adopt)

    def _facts_to_tell(self) -> dict[str, Any]:
        """Return the circuit's state for other workers, JSON-ready; instants are those of the clock they share."""
        state = self.state
        ramp = state.ramp if isinstance(state, HalfOpen) else None
        return {
            "state": state.name,
            "why": self.why,
            "probing": state.name == HALF_OPEN and ramp is None,
            "ramp": None if ramp is None else ramp.began,
            "forced": self.forced,
            "reopened": self.reopened,
            "opened_for": None if self.opened_for == inf else self.opened_for,
            "open_until": None if abs(self.open_until) == inf else self.open_until,
            "verdict": list(self.verdict),
        }

    def _enter_state(self, state: str) -> None:
        """Make the new state object: the state machine has entered `state`."""
        if state == CLOSED:
            self.state = Closed(self)
        elif state == OPEN:
            self.state = Open(self)
        else:
            self.state = HalfOpen(self)
        self._share_ticket()

    def _share_ticket(self) -> None:
        """Set `shared_ticket` after a change of the state or of the settings."""
        state = self.state
        self.shared_ticket = state.shared_ticket if isinstance(state, Closed) and not self.evidence.is_timed else None

    def report(self, before: str, why: str, **more: Any) -> None:
        """Add a transition from the state `before` to the history, and emit its event."""
        env = self._env
        self.why = why
        self.since = env.wall()
        states = {"before": before, "after": self.state.name}
        self._history.append({"at": self.since, **states, "why": why, **more})
        env.emit(events.BREAKER_TRANSITION, breaker=self.name, **states, why=why, **more)
        tell = self._tell
        if tell is not None:
            tell("", self._facts_to_tell())

    # ----- settings and facts

    def retune(self, spec: Spec) -> None:
        """Apply new settings.  The state stays, and counts stay unless the window's length changes.

        An open time is cut to the new maximum.
        """
        self.evidence.retune(spec)
        self._share_ticket()
        self.is_observed = not spec.is_enforced
        thresholds = self.evidence.thresholds
        if not self.forced:
            self.open_until = min(self.open_until, self.now() + thresholds.max_open_for)
        if isinstance(self.state, HalfOpen):
            self.state.trial.thresholds = thresholds

    @property
    def retry_after(self) -> float | None:
        """Most seconds until more requests may pass; None while an operator holds the circuit open."""
        return self.state.wait(self.now())

    def explain(self) -> str:
        """Return the reason of a refusal as a sentence."""
        if self.state.name == HALF_OPEN:
            return f"The circuit is half-open and lets only a few through; why it had opened: {self.verdict.why}"
        return f"The circuit is open: {self.verdict.why}"

    def describe(self) -> dict[str, Any]:
        """Return the circuit's state, JSON-ready."""
        now, state = self.now(), self.state
        name, why = state.seen(now)
        return {
            "name": self.name,
            "state": name,
            "why": why,
            "since": self.since,
            "forced": bool(self.forced),
            "observed": self.is_observed,
            **self.evidence.describe(now),
            "times_doubled": self.reopened,
            "refused": self.refused,
            "opened_because": None if self.verdict.is_good else self.verdict.why,
            **state.describe(now),
            "history": list(self._history),
        }

    def _level(self) -> float:
        """Return the value of the gauge, for the state in which the next request will find the circuit."""
        return LEVELS[self.state.seen(self.now())[0]]

    def __repr__(self) -> str:
        return f"<Breaker {self.name} {self.state.name}: {self.why}>"
