"""Attribute docstrings of specs, used as descriptions in the JSON Schema and in the generated reference.

pydantic can collect them while it builds a class.  Then every start of the process would parse the source of every
spec, although only the schema and the reference need the texts.
"""

from __future__ import annotations

import ast
import inspect
import sys
from copy import deepcopy
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from sidecar.config.pydantic_errors import key_of


class DescribingGenerator(GenerateJsonSchema):
    """JSON Schema generator that describes each property with its attribute docstring."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = deepcopy(super().model_schema(schema))  # nested parts are shared with the model
        model: Any = schema["cls"]
        texts = attribute_docstrings(model)
        fields = {key_of(name, field): name for name, field in model.model_fields.items()}
        for key, member in found.get("properties", {}).items():
            if fields[key] in texts:
                member["description"] = texts[fields[key]]
        return found


def attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstrings of a model's fields, inherited ones included, by the name of the field."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, BaseModel) and cls is not BaseModel:
            found |= _docstrings_of_module(cls.__module__).get(cls.__qualname__, {})
    return found


@cache
def _docstrings_of_module(name: str) -> dict[str, dict[str, str]]:
    """Return the attribute docstrings of a module's top-level classes, by class and attribute."""
    tree = ast.parse(inspect.getsource(sys.modules[name]))
    return {node.name: dict(_documented(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _documented(node: ast.ClassDef) -> list[tuple[str, str]]:
    """Return the annotated attributes of a class that have a docstring, each with its text."""
    found = []
    for field, text in zip(node.body, node.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(docstring))):
                found.append((name, inspect.cleandoc(docstring)))
    return found
