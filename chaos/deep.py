"""Resilience of any policies in virtual time: the margin of a route, and cascades that its values contain.

For the margin (`sidecar lint --deep`) a route is put before the service of the scenario `metastable_overload`: eight
workers, users who wait briefly and try again, and an overload of two seconds.  The margin is the highest load at which
the system recovers afterwards, as a share of what the service can do, and all of it at most.  What is not the route's
resilience (identities, translations, other upstreams) is left out.

For the cascades (`chaos verdicts`, the what-if of the live page) the values of the policies stand in place of those of
the sidecars of a few scenarios, as the recommended values do in the arm `recommended`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from chaos.battery import simulated
from chaos.margin import margin
from chaos.scenario.files import SCENARIOS, load, without
from chaos.scenario.spec import RECOMMENDED
from sidecar.config.files import Source
from sidecar.config.process_spec import OUTBOUND
from sidecar.lint.recommended import Values

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
CASCADES: Final = ("retry_storm", "slow_dependency", "one_bad_of_three", "flapping_upstream", "load_spike", "long_tail")
"""Scenarios of the verdicts: one of each kind of cascade, and quick to simulate."""
OWN: Final = ("name", "match", "upstream", "listener")
"""Keys of a route that say which requests it takes."""
RATES: Final = ("rate_limit", "quota")
"""Blocks with numbers of requests, which fit no other traffic."""


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


class Contained(NamedTuple):
    """Verdict on one cascade.

    - `missed`: expectations that were not met, a sentence each; empty for a cascade that is contained.
    """

    scenario: str
    title: str
    missed: list[str]


def verdicts(sources: Sequence[Source], environ: Mapping[str, str], seed: int = 1) -> list[Contained]:
    """Return the verdict on each of a few cascades that meet sidecars with the values of these policies."""
    (whole,) = without(list(sources), (), environ)
    values = values_of(json.loads(whole.text))
    found = []
    for loaded in load([SCENARIOS / f"{name}.yaml" for name in CASCADES]):
        (arm,) = simulated(loaded._replace(values=values), [RECOMMENDED], seed).arms
        missed = [f"{each.what}: {each.measured}, wanted {each.limit}" for each in arm.verdicts if not each.passed]
        if trouble := arm.recording.trouble:
            missed = [f"could not be simulated: {trouble.splitlines()[0]}"]
        found.append(Contained(loaded.name, loaded.scenario.title, missed))
    return found


def values_of(document: dict[str, Any]) -> Values:
    """Return the values of policies: of their first route to the own service, and of their first to another one."""
    routes = [each for each in document.get("routes", []) if isinstance(each.get("upstream"), str)]
    calls = [each for each in routes if each.get("listener") == OUTBOUND]
    serves = [each for each in routes if each.get("listener") != OUTBOUND]

    def blocks(chosen: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the blocks of the first route."""
        return {key: each for key, each in chosen[0].items() if key not in (*LEFT_OUT, *OWN, *RATES)} if chosen else {}

    def settings(chosen: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the settings of the upstream of the first route."""
        upstream = document["upstreams"][chosen[0]["upstream"]] if chosen else {}
        found = {key: each for key, each in upstream.items() if key not in (*NAMED, *RATES, "endpoints")}
        return found | ({"policy": _trimmed(found["policy"], RATES)} if "policy" in found else {})

    calls = calls or serves
    return Values(blocks(serves), blocks(calls), settings(serves), settings(calls), _layers(document, RATES))


def alone(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Return policies with one route alone, before the simulated service."""
    route = next(each for each in document["routes"] if each.get("name") == name)
    to = route["upstream"] if isinstance(route.get("upstream"), str) else next(iter(route["upstream"]["split"]))
    upstream = {key: each for key, each in document["upstreams"][to].items() if key not in NAMED}
    kept = {key: each for key, each in route.items() if key not in LEFT_OUT}
    upstream["policy"] = _trimmed(upstream.get("policy", {}))
    return {
        "version": 1,
        "listeners": {"inbound": {"address": "${INBOUND:-127.0.0.1:0}"}},
        "admin": "off",
        "upstreams": {to: {**upstream, "endpoints": ["http://${APP}"]}},
        **_layers(document),
        "routes": [{**kept, "listener": "inbound", "match": {"path": PATH}, "upstream": to}],
    }


def _layers(document: dict[str, Any], others: Sequence[str] = ()) -> dict[str, Any]:
    """Return the sections `policies` and `defaults` without what the simulated service has no use for, and others."""
    layers = {key: document[key] for key in ("policies", "defaults") if isinstance(document.get(key), dict)}
    bundles = {key: _trimmed(each, others) for key, each in layers.get("policies", {}).items()}
    return {"policies": bundles, "defaults": _trimmed(layers.get("defaults", {}), others)}


def _trimmed(layer: Any, others: Sequence[str] = ()) -> Any:
    """Return one layer of policies without what the simulated service has no use for, and without other keys."""
    left_out = (*LEFT_OUT, *others)
    return {key: each for key, each in layer.items() if key not in left_out} if isinstance(layer, dict) else {}
