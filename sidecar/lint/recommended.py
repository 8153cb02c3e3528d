"""Recommended starting policies: one set of values that contradicts no rule of lint, before anything is measured.

`policies/recommended.yaml` is made of them (`python -m docs.generate`), and the arm `recommended` of the chaos
scenarios runs with them alone.  Each value follows from a few choices:

1. A client's request ends after `REQUEST`, and each call of another service earlier, which leaves time to answer.
2. The tries of a call fit into its time with their waits, so each one ends after `ATTEMPT`.
3. A breaker stays open for longer than a call can hang, and judges probes no sooner than they can end.
4. A queue is no longer than its limit, and a request waits in it for a fraction of its time.
5. Retries add a fifth to the load at most, and every client keeps a few a second.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

SERVE: Final = "recommended-serve"
"""Name of the bundle for routes to the service beside the sidecar."""
CALL: Final = "recommended-call"
"""Name of the bundle for calls of other services."""
REQUEST: Final = "1s"
"""Longest time of a client's request."""
ATTEMPT: Final = "200ms"
"""Longest time of one try of a call."""

BUNDLES: Final[dict[str, dict[str, Any]]] = {
    SERVE: {
        "timeout": {"request": REQUEST},
        "cache": {"stale_while_revalidate": "10s", "stale_if_error": "5m"},
    },
    CALL: {
        "timeout": {"request": "800ms", "attempt": ATTEMPT},
        "retry": {
            "max_attempts": 3,
            "on": [
                "connect_failure", "reset", "timeout", "protocol_error", 502, 503, 504, "unavailable",
                "deadline_exceeded",
            ],
            "backoff": {"base": "5ms", "max": "20ms"},
        },
        "circuit_breaker": {
            "window": "5s", "min_calls": 20, "failure_rate": "50%", "consecutive_failures": 5,
            "open_for": "500ms", "max_open_for": "500ms",
            "half_open": {"probes": 2, "verdict_within": "1s", "ramp": "200ms"},
        },
    },
}  # fmt: skip
"""Bundles by name."""
UPSTREAM: Final[dict[str, Any]] = {
    "connect_timeout": "100ms",
    "retry_budget": {"ratio": "20%", "min_per_second": 3},
    "ejection": {"consecutive_failures": 3, "eject_for": "1s", "min_healthy": 1},
}
"""Settings of each upstream with other services."""
APP: Final[dict[str, Any]] = {
    "concurrency": {"adaptive": {"min": 16, "max": 400}, "queue": 16, "queue_timeout": "200ms"},
}
"""Settings of the upstream with the service beside the sidecar."""
ADDRESS: Final[tuple[str, ...]] = (
    "endpoints",
    "discover",
    "resolve",
    "protocol",
    "tls",
    "credentials",
    "load_balancing",
)
"""Keys of an upstream that say where it is."""
KEPT: Final[tuple[str, ...]] = (
    "name",
    "listener",
    "match",
    "upstream",
    "authenticate",
    "authorize",
    "translate",
    "criticality",
    "cors",
)
"""Keys of a route that are no matter of resilience."""
INBOUND: Final = "app"
"""Name of the upstream with the service beside the sidecar."""


class Values(NamedTuple):
    """Values that can stand in place of those of any policies.

    - `serve`, `call`: blocks of a route to the service beside the sidecar, and of one to another service.
    - `app`, `upstream`: settings of the upstream with the service beside the sidecar, and of all others.
    - `layers`: sections `policies` and `defaults`.
    """

    serve: dict[str, Any]
    call: dict[str, Any]
    app: dict[str, Any]
    upstream: dict[str, Any]
    layers: dict[str, Any]


VALUES: Final = Values({"use": [SERVE]}, {"use": [CALL]}, APP, UPSTREAM, {"policies": BUNDLES})
"""Recommended values."""


def with_values(document: dict[str, Any], values: Values = VALUES) -> dict[str, Any]:
    """Return policies, as plain values, with other values in place of their own.

    Names, addresses, matches, identities, stores and translations stay; every other policy goes.
    """
    changed = {key: value for key, value in document.items() if key not in ("policies", "defaults")} | values.layers
    changed["upstreams"] = {
        name: {key: each[key] for key in ADDRESS if key in each}
        | (values.app if name == INBOUND else _settings(each, values.upstream))
        for name, each in document.get("upstreams", {}).items()
    }
    changed["routes"] = [_route(each, values) for each in document.get("routes", [])]
    return changed


def _settings(upstream: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of an upstream; one endpoint alone is not ejected."""
    is_one = len(upstream.get("endpoints", [])) == 1
    return {key: value for key, value in values.items() if key != "ejection" or not is_one}


def _route(route: dict[str, Any], values: Values) -> dict[str, Any]:
    """Return a route with the values for its direction, and the store of its cache if it names one."""
    kept = {key: route[key] for key in KEPT if key in route}
    cache = route.get("cache")
    if isinstance(cache, dict) and "store" in cache:
        kept["cache"] = {"store": cache["store"]}
    return kept | (values.serve if route.get("upstream") == INBOUND else values.call)


# ----- the file

HEAD: Final = """\
# yaml-language-server: $schema=./schema.json
# Recommended starting values, before anything is measured.  Generated by `make docs`; do not edit, but copy.
#
# One set for every route: it contradicts none of the rules of `sidecar lint` (docs/lint.md), and contains most
# cascades of the chaos scenarios as it is (chaos simulate --arm recommended).  Replace the values by measured ones,
# the timeouts first: what takes longer than 200 ms on a good day needs a longer `attempt`.
version: 1
service: orders

listeners:
  inbound: {address: "127.0.0.1:8080"}           # what others send to the service beside us
  outbound: {address: "127.0.0.1:15001"}         # what the service beside us sends to others

upstreams:
"""
WHY: Final = {
    "concurrency": "finds the limit by itself; the queue is no longer than its least (R062)",
    "connect_timeout": "a fraction of an attempt (R009)",
    "retry_budget": "an outage adds a fifth to the load (R026, R103)",
    "ejection": "longer than a try can hang (R072), and never the last one (R070)",
    "timeout": "three tries fit into the time of a call (R001), and calls into that of a request (R101)",
    "retry": "what may succeed the next time (R022), without writes (R020)",
    "circuit_breaker": "open for longer than a try can hang (R042), and not by chance (R041)",
    "cache": "only what responses allow (RFC 9111), and stale ones rather than failures",
}
"""Reason of each block, with the rules that it follows."""


def recommended_text() -> str:
    """Return the text of `policies/recommended.yaml`."""
    upstreams = {
        INBOUND: {"endpoints": ["http://127.0.0.1:9000"], **APP},
        "payments": {"endpoints": ["http://payments-1:8080", "http://payments-2:8080"], **UPSTREAM},
    }
    routes: list[dict[str, Any]] = [
        {"name": "orders", "listener": "inbound", "upstream": INBOUND, "use": [SERVE]},
        {"name": "payments", "listener": "outbound", "match": {"host": "payments"}, "upstream": "payments"},
    ]
    routes[1]["use"] = [CALL]
    parts = [HEAD, *_blocks(upstreams), "\npolicies:\n", *_blocks(BUNDLES), "\nroutes:\n"]
    return "".join([*parts, *(f"  - {_flow(route)}\n" for route in routes)])


def _blocks(members: dict[str, dict[str, Any]]) -> list[str]:
    """Return lines for mappings by name: each block on one line below its reason."""
    lines: list[str] = []
    for name, blocks in members.items():
        lines.append(f"  {name}:\n")
        for key, block in blocks.items():
            lines += [f"    # {WHY[key]}\n"] if key in WHY else []
            lines.append(f"    {key}: {_flow(block)}\n")
    return lines


def _flow(value: Any) -> str:
    """Return a value in YAML's flow style."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    return f'"{value}"' if isinstance(value, str) and ":" in value else str(value)
