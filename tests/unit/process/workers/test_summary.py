"""Tests of sums over workers: metrics and state."""

from __future__ import annotations

import json
import math

from sidecar.core import metrics
from sidecar.core.metrics import Counter
from sidecar.process.workers.summary import KEPT_SECONDS, Changes, Totals, join, join_parts
from sidecar.telemetry.metrics.registry import Registry


def value(registry: Registry, name: str) -> float:
    (metric,) = (each for each in registry.collect() if each.name == name)
    return sum(each.value for each in metric.series)


def series(registry: Registry, name: str) -> int:
    """Return the number of series of a metric."""
    return len(list(registry.instruments(name)))


class Clock:
    time = 0.0

    def now(self) -> float:
        return self.time


def test_counts_stay_and_gauges_go_with_a_dead_worker() -> None:
    total = Registry()
    totals = Totals(total, Clock().now)
    for worker in (0, 1):
        registry = Registry()
        changes = Changes(registry)
        registry.counter(metrics.RETRIES, route="a").value += 2 + worker
        registry.histogram(metrics.REQUEST_DURATION, route="a").record(0.01)
        registry.gauge(metrics.CONNECTIONS, lambda: 5.0, listener="in")
        registry.gauge(metrics.BREAKER_STATE, lambda: 2.0, breaker="b")
        registry.gauge(metrics.CREDENTIAL_LEFT, [lambda: 7.0, lambda: 5.0][worker], upstream="u")
        registry.gauge(metrics.DISCOVERY_STALE, [lambda: 7.0, lambda: 5.0][worker], upstream="u")
        registry.gauge(metrics.STORE_UP, [lambda: 1.0, lambda: 0.0][worker], store="s")
        registry.gauge(metrics.PACING_RATE, [lambda: math.inf, lambda: 5.0][worker], upstream="u")
        totals.apply(worker, json.loads(json.dumps(changes.take())))
        registry.counter(metrics.RETRIES, route="a").value += 1
        totals.apply(worker, json.loads(json.dumps(changes.take())))
        assert changes.take() == []
    assert value(total, metrics.RETRIES) == 7
    assert value(total, metrics.CONNECTIONS) == 10
    assert value(total, metrics.BREAKER_STATE) == 2
    assert value(total, metrics.CREDENTIAL_LEFT) == 5, "of the worker that is worst off"
    assert value(total, metrics.DISCOVERY_STALE) == 7
    assert value(total, metrics.STORE_UP) == 0
    assert value(total, metrics.PACING_RATE) == math.inf, "no limit"
    totals.leave(0)
    assert value(total, metrics.RETRIES) == 7
    assert value(total, metrics.CONNECTIONS) == 5
    assert sum(total.histogram(metrics.REQUEST_DURATION, route="a").counts) == 2


def test_a_counter_of_seconds_is_summed_apart_from_counters_of_whole_numbers() -> None:
    total = Registry()
    totals = Totals(total, Clock().now)
    for worker in (0, 1):
        registry = Registry()
        registry.total(metrics.PROCESS_CPU, lambda: 1.25)
        totals.apply(worker, json.loads(json.dumps(Changes(registry).take())))
    assert value(total, metrics.PROCESS_CPU) == 2.5
    ((_, instrument),) = total.instruments(metrics.PROCESS_CPU)
    assert not isinstance(instrument, Counter), "the compiled one takes whole numbers alone"


def test_a_series_ends_once_no_worker_has_it() -> None:
    total, registry = Registry(), Registry()
    totals, changes = Totals(total, Clock().now), Changes(registry)
    with registry.owned("b"):
        registry.counter(metrics.RETRIES, route="a").value += 1
    totals.apply(0, changes.take())
    registry.retire("b")
    totals.apply(0, changes.take())
    assert not list(next(each for each in total.collect() if each.name == metrics.RETRIES).series)


def test_a_series_that_only_dead_workers_had_ends() -> None:
    clock, total = Clock(), Registry()
    totals = Totals(total, clock.now)
    for worker in (0, 1):
        registry = Registry()
        registry.gauge(metrics.CERTIFICATE_LEFT, lambda: 5.0, owner="listener in")
        registry.counter(metrics.RETRIES, route="both").value += 1
        registry.counter(metrics.RETRIES, route=f"of {worker}").value += 1
        totals.apply(worker, Changes(registry).take())
    totals.leave(0)
    clock.time = KEPT_SECONDS
    totals.look()
    assert series(total, metrics.RETRIES) == 2
    assert series(total, metrics.CERTIFICATE_LEFT) == 1
    totals.leave(1)
    assert series(total, metrics.CERTIFICATE_LEFT) == 0, "0 would be an alarm"
    clock.time += KEPT_SECONDS / 2
    registry = Registry()
    registry.counter(metrics.RETRIES, route="both")
    totals.apply(1, Changes(registry).take())
    clock.time += KEPT_SECONDS / 2
    totals.look()
    assert series(total, metrics.RETRIES) == 1
    assert value(total, metrics.RETRIES) == 2, "the counts of the dead stay while a worker has the series"


def test_a_series_beyond_the_bound_is_counted_once() -> None:
    total, registry = Registry(limit=1), Registry()
    totals, changes = Totals(total, Clock().now), Changes(registry)
    counters = [registry.counter(metrics.RETRIES, route=name) for name in "abc"]
    for _ in range(3):
        for counter in counters:
            counter.value += 1
        totals.apply(0, changes.take())
    assert value(total, metrics.RETRIES) == 9
    assert value(total, metrics.SERIES_DROPPED) == 2


def test_the_state_is_summed_by_name() -> None:
    one = {"state": "open", "in_flight": 2, "limit": 10, "endpoints": [{"url": "a", "in_flight": 1}]}
    two = {"state": "closed", "in_flight": 2, "limit": 10, "endpoints": [{"url": "a", "in_flight": 4}]}
    assert join([one, two]) == {
        "state": "open", "in_flight": 4, "limit": 10, "endpoints": [{"url": "a", "in_flight": 5}]
    }  # fmt: skip
    mirrors = [{"differences": {"status": 1}}, {"differences": {"status": 2, "body": 3}}]
    assert join(mirrors) == {"differences": {"status": 3, "body": 3}}
    identities = [[("state.identity", {"issuer": {"keys": 2, "tokens": 5}})]] * 2
    assert dict(join_parts(identities)) == {"state.identity": {"issuer": {"keys": 2, "tokens": 10}}}
    events = [[("events", [{"time": "2"}])], [("events", [{"time": "1"}])]]
    assert dict(join_parts(events)) == {"events": [{"time": "1"}, {"time": "2"}]}


def test_a_store_is_up_if_it_is_in_all_workers() -> None:
    well = {"up": True, "errors": 0, "exchanges": 7, "last_error": ""}
    away = {"up": False, "errors": 2, "exchanges": 5, "last_error": "TimeoutError"}
    assert join([well, away]) == {"up": False, "errors": 2, "exchanges": 12, "last_error": "TimeoutError"}
    assert join([well, well]) == {"up": True, "errors": 0, "exchanges": 14, "last_error": ""}
