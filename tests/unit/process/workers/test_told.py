"""Tests of values that workers tell each other, as they travel between processes: circuits, ejections, health."""

from __future__ import annotations

from typing import Any

from sidecar.core import metrics
from sidecar.core.outcome import Outcome
from sidecar.stages.circuit_breaker import stage as circuit_breaker
from sidecar.stages.circuit_breaker.spec import Spec
from sidecar.upstream.balancing.balancer import Balancer
from sidecar.upstream.balancing.ejection import Ejector
from sidecar.upstream.balancing.health import HealthChecker
from sidecar.upstream.endpoint import Endpoint, EndpointSet
from sidecar.upstream.spec import EjectionSpec, HealthCheckSpec, UpstreamSpec
from tests.support.clock import make_env
from tests.support.loop import virtual, virtual_env
from tests.support.service import Store, context, exchange, response
from tests.support.workers import Crew

SOON = 0.05
"""Seconds within which all workers know."""
STATES = ("open", "half_open", "closed")
GOOD, BAD = response(200), response(500)
X = exchange()
UPSTREAM = UpstreamSpec.model_validate({"endpoints": ["http://10.0.0.1:80", "http://10.0.0.2:80"]})


class Circuits:
    """Three workers with a circuit that one failure opens for five seconds, and one probe closes."""

    def __init__(self, ramp: str = "0s") -> None:
        self.env = make_env()
        self.crew = Crew(self.env, 3)
        half_open = {"probes": 1, "ramp": ramp}
        block = {"consecutive_failures": 1, "open_for": "5s", "jitter": "0%", "half_open": half_open}
        self.spec = Spec.model_validate(block)
        self.stages = [self._build(number) for number in range(3)]

    def _build(self, number: int) -> Any:
        return circuit_breaker.build(self.spec, context(self.crew.env_of(number), store=Store()))

    def restart(self, number: int) -> None:
        self.crew.restart(number)
        self.stages[number] = self._build(number)

    def call(self, number: int, outcome: Outcome) -> bool:
        """Make one call; True if it was admitted."""
        ticket = self.stages[number].admit(X)
        if isinstance(ticket, Outcome):
            return False
        self.stages[number].settle(X, ticket, outcome)
        return True

    def probe(self, number: int) -> Any:
        """Return a ticket of a probe, for which the worker has to ask; a refusal if another worker probes."""
        assert isinstance(self.stages[number].admit(X), Outcome)
        self.env.advance(SOON)
        return self.stages[number].admit(X)

    @property
    def states(self) -> list[str]:
        return [stage._breaker.state.name for stage in self.stages]


def test_a_circuit_that_one_worker_opens_and_another_closes_is_so_in_all() -> None:
    circuits = Circuits()
    circuits.call(0, BAD)
    circuits.env.advance(SOON)
    assert circuits.states == ["open"] * 3
    assert len({stage._breaker.open_until for stage in circuits.stages}) == 1
    assert circuits.stages[2].admit(X).refusal.detail == circuits.stages[0].admit(X).refusal.detail
    circuits.restart(2)
    assert circuits.states[2] == "open", "a successor hears of it"
    circuits.env.advance(5)
    ticket = circuits.probe(1)
    assert circuits.states == ["open", "half_open", "open"]
    assert isinstance(circuits.probe(2), Outcome), "one worker probes"
    circuits.stages[1].settle(X, ticket, GOOD)
    circuits.env.advance(SOON)
    assert circuits.states == ["closed"] * 3
    counter, name = circuits.env.meter.counter, circuits.stages[0]._breaker.name
    counts = [counter(metrics.BREAKER_TRANSITIONS, breaker=name, to=to).value for to in STATES]
    assert counts == [1, 1, 1], "each transition counts once, in the worker that decides it"


def test_a_failed_probe_opens_all_circuits_for_twice_as_long() -> None:
    circuits = Circuits()
    circuits.call(0, BAD)
    circuits.env.advance(5 + SOON)
    circuits.stages[1].settle(X, circuits.probe(1), BAD)
    circuits.env.advance(SOON)
    assert [stage._breaker.opened_for for stage in circuits.stages] == [10.0] * 3
    assert [stage._breaker.reopened for stage in circuits.stages] == [1] * 3


def test_the_turn_of_a_worker_that_dies_while_it_probes_goes_to_another() -> None:
    circuits = Circuits()
    circuits.call(0, BAD)
    circuits.env.advance(5 + SOON)
    assert not isinstance(circuits.probe(1), Outcome)
    circuits.restart(1)
    assert not isinstance(circuits.probe(2), Outcome)


def test_all_workers_go_up_the_same_ramp_and_hear_of_an_operator() -> None:
    circuits = Circuits(ramp="10s")
    circuits.call(0, BAD)
    circuits.env.advance(5 + SOON)
    circuits.stages[1].settle(X, circuits.probe(1), GOOD)
    circuits.env.advance(SOON)
    assert circuits.states == ["half_open"] * 3
    assert len({stage._breaker.state.ramp.began for stage in circuits.stages}) == 1
    circuits.stages[2]._breaker.force("open")
    circuits.env.advance(SOON)
    assert circuits.states == ["open"] * 3
    assert [stage._breaker.retry_after for stage in circuits.stages] == [None] * 3
    circuits.stages[0]._breaker.force("auto")
    circuits.env.advance(SOON)
    assert circuits.states == ["half_open", "open", "open"], "the worker that was asked probes"


def test_an_ejection_its_trial_and_its_end_are_told() -> None:
    env = make_env()
    crew = Crew(env, 2)
    sets = [EndpointSet("app", UPSTREAM, crew.env_of(number)) for number in range(2)]
    spec = EjectionSpec.model_validate({"consecutive_failures": 1})
    ejectors = [Ejector(endpoints, spec, crew.env_of(number)) for number, endpoints in enumerate(sets)]
    (here, _), (there, _) = (endpoints.members for endpoints in sets)
    ejectors[0].record(here, BAD, env.now(), env.now())
    env.advance(SOON)
    assert not there.is_up
    assert (there.ejected_until, there.ejected_at) == (here.ejected_until, here.ejected_at)
    assert there.ejections == here.ejections == 1
    env.advance(here.ejected_until - env.now())
    balancer = Balancer(sets[0], UPSTREAM, crew.env_of(0))
    while not here.is_on_trial:
        balancer.pick(exchange(), env.now())
    env.advance(SOON)
    assert there.is_on_trial
    assert there.ejected_until > env.now(), "a trial of its own is put off"
    ejectors[0].record(here, GOOD, env.now(), env.now())
    env.advance(SOON)
    assert there.is_up


@virtual
async def test_one_worker_probes_the_health_and_tells_it() -> None:
    env = virtual_env()
    crew = Crew(env, 2)
    probed = [0, 0]

    def checker_of(number: int) -> tuple[EndpointSet, HealthChecker]:
        async def probe(endpoint: Endpoint, spec: HealthCheckSpec, fields: Any = ()) -> str:
            probed[number] += 1
            return "status 503"

        own = crew.env_of(number)
        endpoints = EndpointSet("app", UPSTREAM, own)
        spec = HealthCheckSpec.model_validate({"path": "/healthz", "interval": "1s", "unhealthy_after": 2})
        return endpoints, HealthChecker(endpoints, spec, own, probe)

    workers = [checker_of(number) for number in range(2)]
    for _, checker in workers:
        checker.start()
    crew.links[0].receive(["first", True])
    await env.sleep(5)
    assert probed[0] > 0
    assert probed[1] == 0
    assert [each.is_healthy for endpoints, _ in workers for each in endpoints.members] == [False] * 4
    crew.links[0].receive(["first", False])
    crew.links[1].receive(["first", True])
    await env.sleep(2)
    assert probed[1] > 0, "the next one goes on"
    for _, checker in workers:
        checker.retire()
