"""JSON Schema (draft 2020-12) of policy files, for editors; `policies/schema.json` is its output.

The schema is generated from the models that `sidecar check` uses, then rewritten for people: durations and sizes as
they are written, `off` where it is allowed, no nulls, descriptions on one line.

The schema accepts more than `sidecar check`.  A file may be one of several, and a policy one of several layers, so
their keys are not required.  `${NAME}` may replace a quantity.
"""

from __future__ import annotations

import json
from math import isinf
from typing import Any, Final, Literal

from pydantic import create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from sidecar.cache.spec import CacheSpec
from sidecar.config.docstrings import DescribingGenerator
from sidecar.config.listen_address import ListenAddress
from sidecar.config.node import OFF
from sidecar.config.process_spec import AdminSpec, LimitsSpec, ListenerSpec, ProcessSpec
from sidecar.config.spec import CriticalitySpec, Name, RouteHead, ServiceSpec, UpstreamSpec
from sidecar.config.validate import takes_off
from sidecar.core.spec import Model
from sidecar.core.units import write_quantity
from sidecar.identity.spec import IdentitySpec
from sidecar.rollout.spec import CandidateSpec
from sidecar.stages import STAGES
from sidecar.store.spec import StoreSpec
from sidecar.telemetry.spec import TelemetrySpec
from sidecar.upstream.spec import RetryBudgetSpec

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
VARIABLE: Final = r"\$\{"


def text() -> str:
    """Return the schema as the text of `policies/schema.json`."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def schema() -> dict[str, Any]:
    """Return the schema of one policy file."""
    blocks: dict[str, Any] = {kind.name: (kind.spec | Literal["off"] | None, None) for kind in STAGES}
    policy: Any = create_model("Policy", __base__=CriticalitySpec, __doc__="A set of policies.", **blocks)
    layer: dict[str, Any] = {"policy": (policy | None, None)}
    upstream: Any = create_model("Upstream", __base__=UpstreamSpec, __doc__=UpstreamSpec.__doc__, **layer)
    route: Any = create_model("Route", __base__=(RouteHead, policy), __doc__="A route: requests, and their policies.")
    sections: dict[str, Any] = {
        "listeners": (dict[Name, ListenerSpec], None),
        "admin": (AdminSpec | None, None),
        "limits": (LimitsSpec, None),
        "process": (ProcessSpec, None),
        "telemetry": (TelemetrySpec | None, None),
        "identities": (dict[Name, IdentitySpec], None),
        "upstreams": (dict[Name, upstream], None),
        "stores": (dict[Name, StoreSpec], None),
        "caches": (dict[Name, CacheSpec], None),
        "policies": (dict[Name, policy], None),
        "defaults": (policy, None),
        "routes": (list[route], None),
        "candidate": (CandidateSpec, None),
    }
    document: Any = create_model("Policies", __base__=ServiceSpec, __doc__="A policy file.", **sections)
    found: dict[str, Any] = document.model_json_schema(schema_generator=_Generator)
    _require_nothing("Policy", found["$defs"], set())
    found.pop("required")
    found["properties"] = {key: found["properties"][key] for key in ("version", "service", *sections)}
    return {"$schema": DIALECT, **_renamed(found)}


def defaults(model: type[Model]) -> dict[str, Any]:
    """Return the built-in defaults of a model by key, in the notation of policy files."""
    found = model.model_json_schema(schema_generator=_Generator)
    shapes = (found, *found.get("anyOf", ()))  # a block that may also be written as a list
    members = [item for shape in shapes for item in shape.get("properties", {}).items()]
    return {key: member["default"] for key, member in members if "default" in member}


class _Generator(DescribingGenerator):
    """Schema generator with properties in the notation of policy files."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        found.pop("title", None)
        model: Any = schema["cls"]
        for key, member in found.get("properties", {}).items():
            _tidy(member, takes_off=takes_off(model, key))
        _tidy(found, takes_off=False)
        return found

    def encode_default(self, dft: Any) -> Any:
        return str(dft) if isinstance(dft, ListenAddress) else super().encode_default(dft)


def _tidy(member: dict[str, Any], *, takes_off: bool) -> None:
    """Rewrite one property in place: no null, `off` if `takes_off`, and its default as a file writes it."""
    member.pop("title", None)
    if "description" in member:
        member["description"] = " ".join(member["description"].split())
    kinds: list[dict[str, Any]] = member.get("anyOf") or member.get("oneOf") or []
    if {"type": "null"} in kinds:
        kinds.remove({"type": "null"})
        if takes_off:
            kinds.append({"const": OFF})
        if len(kinds) == 1:
            member.pop("anyOf")
            member.update({**kinds[0], **member})
    default = member.get("default")
    if default is None or isinstance(default, dict) or default == []:
        member.pop("default", None)
    for kind in (member, *kinds):
        pattern: str = kind.get("pattern", "")
        if pattern and isinstance(default, int | float):
            member["default"] = OFF if isinf(default) else write_quantity(default, pattern)
        if pattern and VARIABLE not in pattern:
            kind["pattern"] = f"{pattern}|{VARIABLE}"


def _require_nothing(name: str, definitions: dict[str, Any], seen: set[str]) -> None:
    """Drop the required keys of a layer and of its mappings, since other layers may give them.

    Lists are not merged, so their items keep their required keys.
    """
    if name in seen:
        return
    seen.add(name)
    for shape in (definitions[name], *definitions[name].get("anyOf", ())):
        shape.pop("required", None)
        for member in shape.get("properties", {}).values():
            for kind in (member, *member.get("anyOf", ())):
                if "$ref" in kind:
                    _require_nothing(kind["$ref"].rpartition("/")[2], definitions, seen)


def _renamed(found: Any) -> Any:
    """Return the schema with each definition named as in policy files: `retry` for the `Spec` of that stage."""
    names = {f"{kind.spec.__module__}.{kind.spec.__name__}".replace(".", "__"): kind.name for kind in STAGES}
    names[RetryBudgetSpec.__name__] = "retry_budget"

    def name(key: str) -> str:
        return names.get(key, key.rpartition("__")[2])

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(each) for each in value]
        if not isinstance(value, dict):
            return value
        found = {key: walk(member) for key, member in value.items()}
        if "$ref" in found:
            found["$ref"] = "#/$defs/" + name(found["$ref"].rpartition("/")[2])
        if "$defs" in found:
            found["$defs"] = {name(key): member for key, member in sorted(found["$defs"].items())}
        return found

    return walk(found)
