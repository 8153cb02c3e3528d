"""Clusters of Envoy for the upstreams: limits, retry budgets, and outlier detection in the place of breakers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from chaos.parts.part import split
from sidecar.config.spec import PolicySpec, RouteSpec

UNLIMITED: Final = 1_000_000


class Clusters:
    """Clusters by name, as routes ask for them.

    - `lack(gap)`: note what Envoy has no setting for.
    """

    def __init__(self, spec: PolicySpec, lack: Callable[[str], None]) -> None:
        self.spec = spec
        self.lack = lack
        self.found: dict[str, dict[str, Any]] = {}

    def of(self, route: RouteSpec) -> str:
        """Return the name of a route's cluster: its upstream's, or its own if the route has a limit or a breaker."""
        blocks = route.blocks
        own = "concurrency" in blocks or "circuit_breaker" in blocks
        name = f"{route.upstream}:{route.name}" if own else route.upstream
        if name not in self.found:
            self.found[name] = self._make(name, route)
        return name

    def _make(self, name: str, route: RouteSpec) -> dict[str, Any]:
        spec = self.spec.upstreams[route.upstream]
        endpoints = [endpoint(url) for url in spec.urls]
        limit: Any = route.blocks.get("concurrency") or spec.concurrency
        budget = spec.retry_budget
        threshold: dict[str, Any] = {
            "max_connections": spec.connections.max, "max_requests": UNLIMITED, "max_pending_requests": UNLIMITED,
            "max_retries": UNLIMITED,
            "retry_budget": {
                "budget_percent": {"value": max(0.1, budget.ratio * 100)},
                "min_retry_concurrency": max(1, round(budget.min_per_second)),
            },
        }  # fmt: skip
        if limit is not None:
            threshold["max_connections"] = limit.max or limit.adaptive.max
            threshold["max_pending_requests"] = max(1, limit.queue)
            self.lack("a queue has no timeout and no priorities")
        cluster: dict[str, Any] = {
            "name": name, "type": "STATIC", "connect_timeout": seconds(spec.connect_timeout),
            "lb_policy": "ROUND_ROBIN" if spec.load_balancing == "round_robin" else "LEAST_REQUEST",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
            "circuit_breakers": {"thresholds": [threshold]},
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        }  # fmt: skip
        breaker: Any = route.blocks.get("circuit_breaker") or spec.circuit_breaker
        if spec.ejection is not None or breaker is not None:
            cluster["outlier_detection"] = self._outliers(spec.ejection, breaker, len(endpoints))
        return cluster

    def _outliers(self, ejection: Any, breaker: Any, hosts: int) -> dict[str, Any]:
        found: dict[str, Any] = {"interval": "0.25s", "max_ejection_percent": 100, "max_ejection_time_jitter": "0.2s"}
        if breaker is not None:
            self.lack("a breaker is an ejected host: no probes, no ramp, and slow calls do not count")
            row = breaker.consecutive_failures or breaker.min_calls
            found |= {
                "base_ejection_time": seconds(breaker.open_for),
                "max_ejection_time": seconds(breaker.max_open_for),
            }
            if breaker.failure_rate != "off":
                found |= {
                    "failure_percentage_threshold": round(breaker.failure_rate * 100),
                    "failure_percentage_minimum_hosts": 1,
                    "failure_percentage_request_volume": breaker.min_calls,
                    "enforcing_failure_percentage": 100,
                }
        else:
            row = ejection.consecutive_failures
            found |= {
                "base_ejection_time": seconds(ejection.eject_for), "max_ejection_time": seconds(ejection.max_eject_for),
                "max_ejection_percent": round(100 * max(0, hosts - ejection.min_healthy) / max(1, hosts)),
            }  # fmt: skip
        return found | {
            "consecutive_5xx": row,
            "consecutive_gateway_failure": row,
            "enforcing_consecutive_gateway_failure": 100,
        }


def address(host: str, port: int) -> dict[str, Any]:
    """Return a socket address in Envoy's JSON."""
    return {"socket_address": {"address": host, "port_value": port}}


def endpoint(url: str) -> dict[str, Any]:
    """Return an endpoint of a cluster."""
    return {"endpoint": {"address": address(*split(url.removeprefix("http://")))}}


def seconds(value: float) -> str:
    """Return a duration in Envoy's JSON."""
    return f"{value:.6f}".rstrip("0").rstrip(".") + "s"
