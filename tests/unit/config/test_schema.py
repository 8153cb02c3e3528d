"""Tests of the JSON Schema: it agrees with the models and has readable descriptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter, WithJsonSchema

from sidecar.config.load import SECTIONS
from sidecar.config.schema import schema
from sidecar.stages import STAGES


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return schema()


def members(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from members(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from members(inner)


def test_every_section_and_every_policy_is_there(found: dict[str, Any]) -> None:
    assert set(found["properties"]) == {"version", "service", *SECTIONS}
    definitions = found["$defs"]
    assert {kind.name for kind in STAGES} <= set(definitions["Policy"]["properties"])
    assert set(definitions["Policy"]["properties"]) <= set(definitions["Route"]["properties"])
    assert "policy" in definitions["Upstream"]["properties"]


def test_every_reference_leads_somewhere(found: dict[str, Any]) -> None:
    for member in members(found):
        if "$ref" in member:
            assert member["$ref"].removeprefix("#/$defs/") in found["$defs"]


def test_examples_of_stages_fit_the_schema(found: dict[str, Any]) -> None:
    """An editor marks no errors in blocks that `check` accepts."""
    validator = Draft202012Validator(found)
    for kind in STAGES:
        for example in kind.examples:
            route = {"name": "order", "upstream": "app", kind.name: example}
            assert [error.message for error in validator.iter_errors({"routes": [route]})] == [], kind.name
            route[kind.name] = {"no_such_key": example}
            assert not validator.is_valid({"routes": [route]}), kind.name


def test_everything_is_closed_and_described(found: dict[str, Any]) -> None:
    for name, definition in found["$defs"].items():
        for shape in (definition, *definition.get("anyOf", ())):
            assert shape.get("additionalProperties", False) is False, name
        assert definition.get("description"), name
        assert "\n" not in definition["description"], name


def test_nothing_of_python_shows(found: dict[str, Any]) -> None:
    shown = json.dumps(found)
    for word in ('"null"', "Infinity", "__", '"title"', "\\u0000"):
        assert word not in shown, word


def test_quantities_are_written_with_their_units(found: dict[str, Any]) -> None:
    retry = found["$defs"]["retry"]["properties"]
    assert retry["max_body"]["default"] == "64KiB"
    assert found["$defs"]["BackoffSpec"]["properties"]["base"]["default"] == "25ms"
    assert found["$defs"]["retry_budget"]["properties"]["ratio"]["default"] == "20%"
    assert found["$defs"]["timeout"]["properties"]["attempt"]["default"] == "off"


def models(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield the models of this project below a class, at any depth."""
    for each in kind.__subclasses__():
        if each.__module__.startswith("sidecar."):
            yield each
        yield from models(each)


def test_the_example_of_a_quantity_is_within_its_bounds(found: dict[str, Any]) -> None:
    tried = 0
    for model in models(BaseModel):
        for name, field in model.model_fields.items():
            shown = [each.json_schema or {} for each in field.metadata if isinstance(each, WithJsonSchema)]
            if shown and (examples := shown[-1].get("examples")):
                kind: Any = Annotated[(field.annotation, *field.metadata)]
                assert TypeAdapter(kind).validate_python(examples[0]) is not None, (model, name)
                tried += 1
    assert tried > 40


def test_a_layer_requires_nothing_but_a_list_item_does(found: dict[str, Any]) -> None:
    definitions = found["$defs"]
    assert "required" not in definitions["hedge"]
    assert "required" not in definitions["SlowCallsSpec"]
    assert definitions["Route"]["required"] == ["name"]
    assert definitions["ListenerSpec"]["required"] == ["address"]


def test_off_is_allowed_where_it_works(found: dict[str, Any]) -> None:
    upstream = found["$defs"]["Upstream"]["properties"]
    assert {"const": "off"} in upstream["health_check"]["anyOf"]
    assert all(
        any(kind.get("const") == "off" for kind in found["$defs"]["Policy"]["properties"][entry.name]["anyOf"])
        for entry in STAGES
    )
    assert "off" not in json.dumps(found["$defs"]["ClientTlsSpec"]["properties"]["server_name"])


def test_a_default_rate_of_bytes_has_its_unit() -> None:
    assert schema()["$defs"]["SlowClientsSpec"]["properties"]["min_rate"]["default"] == "1KiB/s"
