"""Metastability margin of the routes of any policies, for `sidecar lint --deep`.

A route is put before the service of the scenario `metastable_overload`, in virtual time: eight workers, users who wait
briefly and try again, and an overload of two seconds.  The margin is the highest load at which the system recovers
afterwards, as a share of what the service can do, and all of it at most.  What is not the route's resilience
(identities, translations, other upstreams) is left out.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from chaos.margin import margin
from chaos.scenario.files import SCENARIOS, load, without
from sidecar.config.files import Source

SCENARIO: Final = SCENARIOS / "metastable_overload.yaml"
SERVICE: Final = "tickets"
PATH: Final = "/buy"
LEFT_OUT: Final = (
    "authenticate", "authorize", "cors", "translate", "transform", "mirror", "fallback", "candidate", "cache", "fault",
)  # fmt: skip
"""Keys of a route that the simulated service has no use for."""
NAMED: Final = ("tls", "credentials", "discover", "resolve", "health_check", "protocol")
"""Keys of an upstream about where it is and how it is reached."""
STEPS: Final = 4
"""Steps of the search for a margin."""


def margins(sources: Sequence[Source], environ: Mapping[str, str], routes: Sequence[str]) -> dict[str, float]:
    """Return the margin of each named route, as a share of what its service can do; 0 if it never recovers."""
    (whole,) = without(list(sources), (), environ)
    document = json.loads(whole.text)
    (loaded,) = load([SCENARIO])
    work, users = loaded.scenario.services[SERVICE], loaded.scenario.load["buy"]
    usual = users.rate * work.work[PATH].time / work.workers
    found = {}
    with tempfile.TemporaryDirectory(prefix="sidecar-lint-") as directory:
        for name in routes:
            file = Path(directory) / "policy.yaml"
            file.write_text(json.dumps(alone(document, name)))
            scenario = loaded.scenario.model_copy(update={"policies": {SERVICE: [str(file)]}, "decisive": {}})
            found[name] = margin(loaded._replace(scenario=scenario), "sidecar", 1, STEPS, 1 / usual) * usual
    return found


def alone(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Return policies with one route alone, before the simulated service."""
    route = next(each for each in document["routes"] if each.get("name") == name)
    to = route["upstream"] if isinstance(route.get("upstream"), str) else next(iter(route["upstream"]["split"]))
    upstream = {key: each for key, each in document["upstreams"][to].items() if key not in NAMED}
    kept = {key: each for key, each in route.items() if key not in LEFT_OUT}
    layers = {key: document[key] for key in ("policies", "defaults") if isinstance(document.get(key), dict)}
    bundles = {key: _trimmed(each) for key, each in layers.get("policies", {}).items()}
    upstream["policy"] = _trimmed(upstream.get("policy", {}))
    return {
        "version": 1,
        "listeners": {"inbound": {"address": "${INBOUND:-127.0.0.1:0}"}},
        "admin": "off",
        "upstreams": {to: {**upstream, "endpoints": ["http://${APP}"]}},
        "policies": bundles,
        "defaults": _trimmed(layers.get("defaults", {})),
        "routes": [{**kept, "listener": "inbound", "match": {"path": PATH}, "upstream": to}],
    }


def _trimmed(layer: Any) -> Any:
    """Return one layer of policies without what the simulated service has no use for."""
    return {key: each for key, each in layer.items() if key not in LEFT_OUT} if isinstance(layer, dict) else {}
